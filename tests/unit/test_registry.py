"""Laws of the registry: a version is whole, never changes, and has one writer."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from models.training import TrainedModel
from models.versions.manifest import Artifact, Manifest, ManifestError
from models.versions.registry import (
    Registry,
    RegistryError,
    VersionTakenError,
    find,
    folder_of,
    read_bundle,
    resolve,
    stamp_of,
)


def other(manifest: Manifest, artifact: bytes, **changes: object) -> tuple[Manifest, bytes]:
    digest = hashlib.sha256(artifact).hexdigest()
    return replace(manifest, artifact=Artifact("skops", digest, len(artifact)), **changes), artifact


def test_what_is_registered_comes_out_as_it_went_in(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "a folder with spaces")
    entry = registry.register(trained.manifest, trained.artifact)
    assert registry.load("shop-returns", "1.0.0") == (trained.manifest, trained.artifact)
    assert resolve(entry.uri) == (trained.manifest, trained.artifact)
    assert read_bundle(entry.path) == (trained.manifest, trained.artifact)
    assert registry.uri("shop-returns", "1.0.0") == entry.uri
    assert entry.uri.startswith("file:///")
    assert [entry.manifest.version for entry in registry.entries()] == ["1.0.0"]
    assert registry.unfinished() == []


def test_another_user_may_enter_the_folder_of_a_version(trained: TrainedModel, tmp_path: Path) -> None:
    path = Registry(tmp_path).register(trained.manifest, trained.artifact).path
    assert path.stat().st_mode & 0o777 == 0o755


def test_the_same_again_changes_nothing_and_other_content_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.register(trained.manifest, trained.artifact)
    registry.register(trained.manifest, trained.artifact)
    with pytest.raises(VersionTakenError, match="choose another version"):
        registry.register(*other(trained.manifest, b"other bytes"))
    with pytest.raises(VersionTakenError):
        registry.register(replace(trained.manifest, created_at_ms=5), trained.artifact)
    assert registry.load("shop-returns", "1.0.0") == (trained.manifest, trained.artifact)
    assert registry.unfinished() == []


def test_an_artifact_that_is_not_the_manifest_s_is_not_registered(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another file"):
        Registry(tmp_path).register(trained.manifest, trained.artifact + b"x")
    assert Registry(tmp_path).entries() == []


def test_versions_are_listed_as_numbers_and_the_next_follows_the_greatest(
    trained: TrainedModel, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    assert registry.next_version("shop-returns") == "1.0.0"
    assert registry.versions("shop-returns") == []
    for version in ("1.10.0", "1.9.0", "1.2.30"):
        registry.register(replace(trained.manifest, version=version), trained.artifact)
    assert registry.versions("shop-returns") == ["1.2.30", "1.9.0", "1.10.0"]
    assert registry.next_version("shop-returns") == "1.11.0"
    assert registry.next_version("shop-returns", "patch") == "1.10.1"
    assert registry.models() == ["shop-returns"]


def test_what_a_killed_writer_left_is_ignored_and_reported(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    whole = registry.register(trained.manifest, trained.artifact).path
    half = whole.parent / "2.0.0"
    shutil.copytree(whole, half)
    (half / "model.skops").unlink()
    temporary = whole.parent / ".incoming-3.0.0-abc"
    temporary.mkdir()
    assert registry.versions("shop-returns") == ["1.0.0"]
    assert registry.unfinished() == [temporary, half]
    with pytest.raises(RegistryError, match=r"not registered in .*; registered versions: 1\.0\.0"):
        registry.load("shop-returns", "2.0.0")
    with pytest.raises(RegistryError, match="no model version at"):
        resolve(half.as_uri())


def test_of_many_writers_of_one_version_one_wins_and_readers_see_all_of_it(
    trained: TrainedModel, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    candidates = [other(trained.manifest, bytes([number]) * 1000) for number in range(16)]

    def register(candidate: tuple[Manifest, bytes]) -> bool:
        try:
            registry.register(*candidate)
        except VersionTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(register, candidates))
    assert won.count(True) == 1
    assert registry.load("shop-returns", "1.0.0") == candidates[won.index(True)]
    assert registry.unfinished() == []


def test_a_file_changed_behind_the_registry_is_found(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    entry = registry.register(trained.manifest, trained.artifact)
    (entry.path / "model.skops").write_bytes(trained.artifact[:-1] + b"x")
    for read in (lambda: registry.load("shop-returns", "1.0.0"), lambda: resolve(entry.uri)):
        with pytest.raises(RegistryError, match="damaged or another file"):
            read()
    (entry.path / "manifest.json").write_bytes(b"{")
    with pytest.raises(RegistryError, match="manifest cannot be read"):
        registry.entries()


def test_a_manifest_in_the_folder_of_another_version_is_found(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    entry = registry.register(trained.manifest, trained.artifact)
    entry.path.rename(entry.path.parent / "9.0.0")
    with pytest.raises(RegistryError, match=r"holds the manifest of shop-returns 1\.0\.0"):
        registry.load("shop-returns", "9.0.0")


@pytest.mark.parametrize("uri", ["http://example.org/1.0.0", "/models/x", "file://elsewhere/models/x", "s3://models/x"])
def test_only_file_uris_are_resolved(uri: str) -> None:
    with pytest.raises(RegistryError, match="not a file URI"):
        resolve(uri)


@pytest.mark.parametrize(("model", "version"), [("../x", "1.0.0"), ("x", "../../etc"), ("x", "latest")])
def test_a_name_or_version_cannot_leave_the_root(tmp_path: Path, model: str, version: str) -> None:
    with pytest.raises(ManifestError):
        Registry(tmp_path).load(model, version)


def test_a_folder_that_cannot_be_made_is_one_sentence(trained: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RegistryError, match="cannot write to"):
        Registry(tmp_path / "file").register(trained.manifest, trained.artifact)


# -- what is not opened ----------------------------------------------------------------------------------------------


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_link_to(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


ODD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (as_pipe, "not a plain file"),
    "a folder": (as_folder, "not a plain file"),
    "a device": (as_link_to("/dev/zero"), "a link out of its folder"),
    "a link to a file elsewhere": (as_link_to("/etc/passwd"), "a link out of its folder"),
    "a link to a file above": (as_link_to("../../secret"), "a link out of its folder"),
    "a link to nothing": (as_link_to("gone"), "no model version|not registered"),
    "a link to itself": (as_link_to("manifest.json"), "no model version|not registered|damaged"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["manifest.json", "model.skops"])
@pytest.mark.parametrize("what", ODD_FILES)
def test_what_is_no_plain_file_of_its_folder_is_refused_and_not_waited_for(
    trained: TrainedModel, tmp_path: Path, what: str, name: str
) -> None:
    entry = Registry(tmp_path / "registry").register(trained.manifest, trained.artifact)
    (tmp_path / "registry" / "secret").write_bytes(b"{}")
    make, words = ODD_FILES[what]
    (entry.path / "model.joblib").write_bytes(b"")  # so that it looks complete whatever becomes of the other
    make(entry.path / name)
    for read in (lambda: resolve(entry.uri), lambda: Registry(tmp_path / "registry").load("shop-returns", "1.0.0")):
        with pytest.raises(RegistryError, match=f"{words}|cannot be read") as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("size", "is_read"), [(16 << 20, True), ((16 << 20) + 1, False)])
def test_a_manifest_of_up_to_sixteen_mebibytes_is_read(
    trained: TrainedModel, tmp_path: Path, size: int, is_read: bool
) -> None:
    entry = Registry(tmp_path).register(trained.manifest, trained.artifact)
    with (entry.path / "manifest.json").open("ab") as file:
        file.write(b" " * (size - len(trained.manifest.to_bytes())))
    if is_read:
        assert resolve(entry.uri)[0] == trained.manifest
    else:
        with pytest.raises(RegistryError, match="too much"):
            resolve(entry.uri)


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_pipe_as_it_is_opened_is_not_waited_for(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened as other files are, it would wait for a writer; one comes after a second, so that the test ends."""
    entry = Registry(tmp_path).register(trained.manifest, trained.artifact)
    path, plain_open, came = entry.path / "manifest.json", os.open, []

    def write() -> None:
        with contextlib.suppress(OSError):  # nobody reads
            os.close(plain_open(path, os.O_WRONLY | os.O_NONBLOCK))
            came.append(path)

    def open_after_the_swap(real: Path, flags: int) -> int:
        as_pipe(real)
        return plain_open(real, flags)

    writer = threading.Timer(1.0, write)
    writer.start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_after_the_swap)
        with pytest.raises(RegistryError):
            resolve(entry.uri)
    writer.cancel()
    assert not came


def test_links_within_the_folder_of_a_version_are_followed(trained: TrainedModel, tmp_path: Path) -> None:
    """As a volume of Kubernetes has them; the folder itself may be a link, too."""
    entry = Registry(tmp_path / "registry").register(trained.manifest, trained.artifact)
    (entry.path / "..data").mkdir()
    for name in ("manifest.json", "model.skops"):
        (entry.path / name).rename(entry.path / "..data" / name)
        (entry.path / name).symlink_to(f"..data/{name}")
    (tmp_path / "link").symlink_to(entry.path)
    assert resolve((tmp_path / "link").as_uri()) == (trained.manifest, trained.artifact)


@pytest.mark.parametrize(
    "uri",
    [
        "file://[x",
        "file:///" + "a" * 5000,
        "file:///a%00b",
        "file:",
        "file:///",
        "",
        "x:" + "a" * 100_000,
        "file:///\ud800",
    ],
)
def test_an_odd_uri_is_one_sentence(uri: str) -> None:
    with pytest.raises(RegistryError) as refused:
        resolve(uri)
    assert len(str(refused.value)) < 6000
    assert "\n" not in str(refused.value)


def test_several_models_are_listed_by_name_with_all_their_versions_and_nothing_else(
    trained: TrainedModel, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "root")
    assert (registry.models(), registry.unfinished(), registry.entries("x")) == ([], [], [])
    for model, version in (("b", "1.0.0"), ("a", "2.0.0"), ("a", "1.0.0")):
        registry.register(replace(trained.manifest, model=model, version=version), trained.artifact)
    (registry.root / "notes.txt").write_text("")
    (registry.root / "a" / "notes.txt").write_text("")
    left = [registry.root / "a" / "not a version", registry.root / "empty" / "1.0.0"]
    for folder in left:
        folder.mkdir(parents=True)
    assert registry.models() == ["a", "b"]
    assert [(each.manifest.model, each.manifest.version) for each in registry.entries()] == [
        *(("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0"))
    ]
    assert [each.uri for each in registry.entries("a")] == [
        registry.uri("a", version) for version in ("1.0.0", "2.0.0")
    ]
    assert registry.unfinished() == left
    (registry.root / "b" / "1.0.0").rename(registry.root / "a" / "3.0.0")
    with pytest.raises(RegistryError, match=r"holds the manifest of b 1\.0\.0"):
        registry.entry("a", "3.0.0")


def test_the_stamp_of_a_version_changes_with_each_of_its_files_and_there_is_none_of_nothing(
    trained: TrainedModel, tmp_path: Path
) -> None:
    entry = Registry(tmp_path).register(trained.manifest, trained.artifact)
    seen = [stamp_of(entry.uri)]
    assert [name for name, *_ in seen[0]] == ["manifest.json", "model.skops"]
    for name in ("manifest.json", "model.skops"):
        file = entry.path / name
        stat = file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        seen.append(stamp_of(entry.uri))
        file.write_bytes(file.read_bytes() + b" ")  # of the same time, another size
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        seen.append(stamp_of(entry.uri))
        copy = shutil.copy2(file, entry.path / "copy")  # and another file of the same size and time
        Path(copy).replace(file)
        seen.append(stamp_of(entry.uri))
    assert len(set(seen)) == len(seen)
    assert stamp_of(entry.uri) == seen[-1]
    (entry.path / "model.skops").rename(entry.path / "model.joblib")
    assert [name for name, *_ in stamp_of(entry.uri)] == ["manifest.json", "model.joblib"]
    for uri in ((tmp_path / "nowhere").as_uri(), "s3://models/x", "file:///a%00b"):
        assert stamp_of(uri) == ()


def test_a_version_is_found_by_its_uri_on_this_machine_whatever_kind_its_artifact_is(
    trained: TrainedModel, tmp_path: Path
) -> None:
    artifact = replace(trained.manifest.artifact, format="joblib")
    entry = Registry(tmp_path / "50% of it").register(replace(trained.manifest, artifact=artifact), trained.artifact)
    assert [file.name for file in sorted(entry.path.iterdir())] == ["manifest.json", "model.joblib"]
    for uri in (entry.uri, entry.uri.replace("file://", "file://localhost")):
        assert folder_of(uri) == entry.path
        assert find(uri) == entry
        assert resolve(uri) == (entry.manifest, trained.artifact)
    (entry.path / "model.joblib").write_bytes(trained.artifact + b"x")
    assert find(entry.uri) == entry
    with pytest.raises(RegistryError, match="another file"):
        resolve(entry.uri)
    (entry.path / "manifest.json").unlink()
    with pytest.raises(RegistryError, match=r"has no manifest\.json with its model\.skops beside it"):
        read_bundle(entry.path)


def test_a_version_is_on_disk_before_it_has_its_name_and_its_name_afterwards(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, synced, sync = Registry(tmp_path), [], os.fsync
    folder = tmp_path / "shop-returns" / "1.0.0"

    def note(descriptor: int) -> None:
        sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, path.stat().st_size if path.is_file() else None, folder.exists()))

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", note)
        registry.register(trained.manifest, trained.artifact)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    (incoming,) = {name for name, _, _ in synced if name.startswith(".incoming-1.0.0-")}
    assert synced == [
        ("manifest.json", len(trained.manifest.to_bytes()), False),
        ("model.skops", len(trained.artifact), False),
        (incoming, None, False),
        ("shop-returns", None, True),
    ]


def test_a_file_that_grows_while_it_is_read_is_not_cut_short(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Registry(tmp_path).register(trained.manifest, trained.artifact)
    with (entry.path / "manifest.json").open("ab") as file:
        file.write(b" " * (16 << 20))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=1000))
        with pytest.raises(RegistryError, match="more than 16777216 bytes"):
            resolve(entry.uri)


def test_what_no_file_can_be_called_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="There is no model version at file:///a"):
        find("file:///" + "a" * 5000)
    with pytest.raises(RegistryError, match=r"has no manifest\.json"):
        read_bundle(tmp_path / ("a" * 5000))


def test_a_registry_that_cannot_be_written_is_one_sentence_and_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RegistryError, match=r"cannot write .*/shop-returns/1\.0\.0: No space left on device\."):
            registry.register(trained.manifest, trained.artifact)
    assert list((tmp_path / "shop-returns").iterdir()) == []
    assert registry.unfinished() == []
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        entry = Registry(Path("here")).register(trained.manifest, trained.artifact)
    assert entry.path == tmp_path / "here" / "shop-returns" / "1.0.0"


def test_a_file_that_becomes_a_link_as_it_is_opened_is_not_followed(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, plain_open = Registry(tmp_path).register(trained.manifest, trained.artifact), os.open
    (tmp_path / "elsewhere").write_bytes(trained.manifest.to_bytes())

    def open_after_the_swap(real: Path, flags: int) -> int:
        as_link_to(str(tmp_path / "elsewhere"))(real)
        return plain_open(real, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_after_the_swap)
        with pytest.raises(RegistryError, match="cannot be read"):
            resolve(entry.uri)


def test_what_is_not_well_formed_is_not_registered_and_of_what_is_missing_it_is_said_what_there_is(
    trained: TrainedModel, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ManifestError, match="manifest_version is 2"):
        registry.register(replace(trained.manifest, manifest_version=2), trained.artifact)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        RegistryError, match=r"shop-returns 1\.0\.0 is not registered in .*; registered versions: none\."
    ):
        registry.entry("shop-returns", "1.0.0")
    entry = registry.register(trained.manifest, trained.artifact)
    (entry.path / "model.joblib").write_bytes(b"")
    as_link_to("model.skops")(entry.path / "model.skops")
    with pytest.raises(RegistryError, match=r"model\.skops cannot be read: Symlink loop"):
        resolve(entry.uri)
