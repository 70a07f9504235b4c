"""Laws of saving and loading: nothing is believed because the file says so."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from models.training import TrainedModel
from models.versions import artifact
from models.versions.artifact import ArtifactError, check_bytes, load, save


class Stranger:
    """A type that no list names."""

    def __init__(self) -> None:
        self.weight = 1.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_wrong_digest_is_found_before_anything_is_parsed(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object) -> None:
        pytest.fail("the bytes were parsed")

    monkeypatch.setattr(artifact, "_load_skops", parse)
    with pytest.raises(ArtifactError, match="damaged or another file") as refused:
        load(trained.artifact + b" ", trained.manifest.artifact.sha256, "skops")
    assert refused.value.reason == "digest"
    with pytest.raises(ArtifactError, match="at most 100 are loaded") as refused:
        load(trained.artifact, trained.manifest.artifact.sha256, "skops", largest_bytes=100)
    assert refused.value.reason == "size"


def test_a_type_outside_of_the_list_is_refused_at_saving_and_at_loading() -> None:
    with pytest.raises(ArtifactError, match="Stranger"):
        save(Stranger())
    data = skops.io.dumps(Stranger())
    with pytest.raises(ArtifactError, match="Untrusted") as refused:
        load(data, sha256(data), "skops")
    assert refused.value.reason == "untrusted"


def test_joblib_is_loaded_only_by_those_who_ask_for_it() -> None:
    kind, data = save(Stranger(), allow_joblib=True)
    assert kind == "joblib"
    with pytest.raises(ArtifactError, match="can run any code when loaded") as refused:
        load(data, sha256(data), "joblib")
    assert refused.value.reason == "format"
    assert load(data, sha256(data), "joblib", allow_joblib=True).weight == 1.0


def test_a_pickle_called_skops_is_no_skops_file() -> None:
    buffer = io.BytesIO()
    joblib.dump(LogisticRegression(), buffer)
    with pytest.raises(ArtifactError, match="not a skops file"):
        load(buffer.getvalue(), sha256(buffer.getvalue()), "skops")
    with pytest.raises(ArtifactError, match="known are skops and joblib"):
        load(b"", sha256(b""), "pickle")


@pytest.mark.slow
def test_an_archive_that_would_unpack_to_too_much_is_not_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"{}")
        archive.writestr("1.npy", bytes(artifact.LARGEST_UNPACKED_BYTES))
    data = buffer.getvalue()
    assert len(data) < 1_000_000
    with pytest.raises(ArtifactError, match="would unpack to") as refused:
        load(data, sha256(data), "skops")
    assert refused.value.reason == "size"


def test_an_archive_without_sense_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "system", "__module__": "os", "__loader__": "x"}))
    with pytest.raises(ArtifactError):
        load(buffer.getvalue(), sha256(buffer.getvalue()), "skops")


def test_a_saved_model_names_no_memory_address_and_no_time_of_day(trained: TrainedModel) -> None:
    with zipfile.ZipFile(io.BytesIO(trained.artifact)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = [name for name in archive.namelist() if name != "schema.json"]
        assert sorted(int(name.partition(".")[0]) for name in names) == list(range(1, len(names) + 1))
        assert not np.any([len(word) > 12 for word in archive.read("schema.json").decode().split() if word.isdigit()])


def test_a_loaded_model_is_the_saved_one(trained: TrainedModel) -> None:
    loaded = load(trained.artifact, trained.manifest.artifact.sha256, "skops")
    rows = trained.manifest.golden.matrix
    assert loaded.predict_proba(rows).tobytes() == trained.estimator.predict_proba(rows).tobytes()


def test_an_artifact_has_at_most_sixty_four_mebibytes() -> None:
    for size, reason in ((64 * 2**20, "digest"), (64 * 2**20 + 1, "size")):
        with pytest.raises(ArtifactError) as refused:
            check_bytes(bytes(size), "0" * 64)
        assert refused.value.reason == reason
    check_bytes(b"abc", sha256(b"abc"), largest_bytes=3)
    with pytest.raises(ArtifactError) as refused:
        load(b"abc", sha256(b"abc"), "skops", largest_bytes=2)
    assert str(refused.value) == "The artifact has 3 bytes; at most 2 are loaded."


@pytest.mark.parametrize(("limit", "most"), [("MOST_MEMBERS", 3), ("LARGEST_UNPACKED_BYTES", 12)])
@pytest.mark.parametrize("is_too_much", [True, False])
def test_an_archive_may_have_so_many_files_and_so_many_bytes_and_no_more(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, *, is_too_much: bool
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("schema.json", b"{}"), ("1.npy", b"00000"), ("2.npy", b"00000")):
            archive.writestr(name, content)
    monkeypatch.setattr(artifact, limit, most - is_too_much)
    with pytest.raises(ArtifactError) as refused:
        load(buffer.getvalue(), sha256(buffer.getvalue()), "skops")
    assert refused.value.reason == ("size" if is_too_much else "load")
    if is_too_much:
        assert "would unpack to 12 bytes in 3 files" in str(refused.value)


def mentioned(node: Any, name: str) -> list[Any]:
    """What stands under a name in a schema, in the order in which it is written."""
    if isinstance(node, list):
        return [mention for inner in node for mention in mentioned(inner, name)]
    if not isinstance(node, dict):
        return []
    return [mention for key, inner in node.items() for mention in ([inner] if key == name else mentioned(inner, name))]


def test_objects_and_files_are_numbered_in_the_order_in_which_the_schema_mentions_them(trained: TrainedModel) -> None:
    with zipfile.ZipFile(io.BytesIO(trained.artifact)) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        schema = json.loads(archive.read("schema.json"))
        assert archive.read("schema.json") == json.dumps(schema, separators=(",", ":")).encode()
        files = [file for file in mentioned(schema, "file") if file is not None]
        assert sorted([*set(files), "schema.json"]) == archive.namelist()
    ids = mentioned(schema, "__id__")
    assert list(dict.fromkeys(ids)) == list(range(1, len(set(ids)) + 1))
    assert len(set(ids)) < len(ids)  # some are mentioned again
    assert list(dict.fromkeys(files)) == [f"{at}.npy" for at in range(1, len(set(files)) + 1)]


def test_a_copy_of_a_model_has_the_same_bytes_and_another_model_has_others(trained: TrainedModel) -> None:
    copied = load(trained.artifact, sha256(trained.artifact), "skops")
    assert save(copied) == ("skops", trained.artifact)
    copied[-1].intercept_ = copied[-1].intercept_ + 1e-9
    assert save(copied)[1] != trained.artifact


def test_two_names_of_one_array_stay_one_and_words_that_look_like_files_stay_words() -> None:
    one = np.arange(3.0)
    kept = {"file": "1.npy", "a": one, "b": one, "__id__": "7", "other": np.arange(2)}
    _, data = save(kept)
    loaded = load(data, sha256(data), "skops")
    assert (loaded["file"], loaded["__id__"]) == ("1.npy", "7")
    assert loaded["a"].tolist() == loaded["b"].tolist() == [0.0, 1.0, 2.0]
    assert loaded["other"].tolist() == [0, 1]


def test_what_cannot_be_saved_or_read_is_one_sentence_and_a_lack_of_memory_is_no_fault_of_the_file(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="A generator cannot be saved as skops") as refused:
        save(each for each in ())
    assert refused.value.reason == "format"
    digest = trained.manifest.artifact.sha256
    for error, reason in ((ValueError("two\n  lines"), "load"), (MemoryError(), "memory")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(skops.io, "loads", fail)
        if reason == "memory":
            with pytest.raises(MemoryError):
                load(trained.artifact, digest, "skops")
            continue
        with pytest.raises(ArtifactError, match="The artifact cannot be loaded: two lines") as refused:
            load(trained.artifact, digest, "skops")
        assert refused.value.reason == reason
