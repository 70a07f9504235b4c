"""The registry: a folder that holds every model version, ``root/<model>/<version>/{manifest.json, model.<format>}``.

A version appears by one rename of a finished folder, so a reader sees all of it or nothing, and of two writers of one
version one wins. A version never changes. Folders that a killed writer left behind are ignored and reported
(`Registry.unfinished`).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.versions.artifact import LARGEST_ARTIFACT_BYTES, check_bytes
from models.versions.manifest import Bump, Manifest, ManifestError, bump_version, check_name, parse_version

MANIFEST_FILE = "manifest.json"
LARGEST_MANIFEST_BYTES = 16 * 2**20
_INCOMING = ".incoming-"


#: Names, times, sizes and numbers of files: another one means other files.
Stamp = tuple[tuple[str, int, int, int], ...]


class RegistryError(Exception):
    """Something asked of the registry that it cannot do; one sentence that says what to do."""


class VersionTakenError(RegistryError):
    """The version exists with other content."""


@dataclass(frozen=True)
class Entry:
    """One registered version: where it is, and what its manifest says."""

    path: Path
    manifest: Manifest

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def read_artifact(self) -> bytes:
        """Read the artifact; RegistryError when it is not what the manifest names."""
        artifact = _read_bounded(self.path, f"model.{self.manifest.artifact.format}", LARGEST_ARTIFACT_BYTES)
        try:
            check_bytes(artifact, self.manifest.artifact.sha256)
        except ValueError as error:
            raise RegistryError(f"{self.path}: {error}") from error
        return artifact


class Registry:
    """A file-system store of immutable model versions.

    Parameters
    ----------
    root
        Its folder; made by the first `register`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def register(self, manifest: Manifest, artifact: bytes) -> Entry:
        """Store a version; the same content again changes nothing, other content is a `VersionTakenError`."""
        manifest.check()
        check_bytes(artifact, manifest.artifact.sha256)
        folder = self._folder(manifest.model, manifest.version)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            incoming = Path(tempfile.mkdtemp(prefix=f"{_INCOMING}{manifest.version}-", dir=folder.parent))
        except OSError as error:
            raise RegistryError(f"The registry cannot write to {folder.parent}: {error.strerror}.") from error
        try:
            _write(incoming / MANIFEST_FILE, manifest.to_bytes())
            _write(incoming / f"model.{manifest.artifact.format}", artifact)
            # mkdtemp makes a private folder; a worker of another user may read versions.
            incoming.chmod(0o755)
            _sync_folder(incoming)
            incoming.rename(folder)
            _sync_folder(folder.parent)
        except OSError as error:
            if not folder.exists():
                raise RegistryError(f"The registry cannot write {folder}: {error.strerror}.") from error
            self._check_same(manifest, artifact)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return Entry(folder, manifest)

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model, oldest number first."""
        parent = self.root / check_name(model)
        if not parent.is_dir():
            return []
        names = [path.name for path in parent.iterdir() if _is_version(path.name) and _is_complete(path)]
        return sorted(names, key=parse_version)

    def models(self) -> list[str]:
        """Return the names of the models that have a version."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if _is_name(path.name) and self.versions(path.name))

    def entries(self, model: str | None = None) -> list[Entry]:
        """Return every version of one model, or of all."""
        models = self.models() if model is None else [model]
        return [self.entry(name, version) for name in models for version in self.versions(name)]

    def unfinished(self) -> list[Path]:
        """Return the folders that are not a version: left by a killed writer, or lacking a file."""
        if not self.root.is_dir():
            return []
        folders = [
            path for parent in self.root.iterdir() if parent.is_dir() for path in parent.iterdir() if path.is_dir()
        ]
        return sorted(path for path in folders if not (_is_version(path.name) and _is_complete(path)))

    def entry(self, model: str, version: str) -> Entry:
        """Return a version without reading its artifact."""
        folder = self._folder(model, version)
        if not _is_complete(folder):
            known = ", ".join(self.versions(model)) or "none"
            raise RegistryError(f"{model} {version} is not registered in {self.root}; registered versions: {known}.")
        manifest = _read_manifest(folder)
        if (manifest.model, manifest.version) != (model, version):
            raise RegistryError(
                f"{folder} holds the manifest of {manifest.model} {manifest.version}: register it again."
            )
        return Entry(folder, manifest)

    def load(self, model: str, version: str) -> tuple[Manifest, bytes]:
        """Return manifest and artifact; the artifact has the size and digest that the manifest says."""
        entry = self.entry(model, version)
        return entry.manifest, entry.read_artifact()

    def next_version(self, model: str, bump: Bump = "minor") -> str:
        """Return the version after the newest; 1.0.0 for the first."""
        versions = self.versions(model)
        return bump_version(versions[-1], bump) if versions else "1.0.0"

    def uri(self, model: str, version: str) -> str:
        """Return the URI that a model update names this version by."""
        return self.entry(model, version).uri

    def _folder(self, model: str, version: str) -> Path:
        parse_version(version)
        return self.root / check_name(model) / version

    def _check_same(self, manifest: Manifest, artifact: bytes) -> None:
        stored, stored_artifact = self.load(manifest.model, manifest.version)
        if stored.to_bytes() != manifest.to_bytes() or stored_artifact != artifact:
            raise VersionTakenError(
                f"{manifest.model} {manifest.version} is registered with other content; choose another version."
            )


def find(uri: str) -> Entry:
    """Return the version that a model update points to, without its artifact; RegistryError when it is not there."""
    folder = folder_of(uri)
    if not _is_complete(folder):
        raise RegistryError(f"There is no model version at {uri:.1000}; register it where this worker can read it.")
    return Entry(folder, _read_manifest(folder))


def resolve(uri: str) -> tuple[Manifest, bytes]:
    """Read the version that a model update points to; RegistryError when it is not there or not what it says."""
    entry = find(uri)
    return entry.manifest, entry.read_artifact()


def stamp_of(uri: str) -> Stamp:
    """What the files of a version look like from outside; () when there are none."""
    files = []
    for name in (MANIFEST_FILE, "model.skops", "model.joblib"):
        try:
            stat = (folder_of(uri) / name).stat()
        except (RegistryError, OSError, ValueError):
            continue
        files.append((name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(files)


def folder_of(uri: str) -> Path:
    """Return the folder that a URI names; RegistryError when it names none."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise RegistryError(f"{uri!r:.200} is not a URI ({error}); this registry knows file:///… only.") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise RegistryError(f"{uri!r:.200} is not a file URI; this registry knows file:///… only.")
    return Path(unquote(parts.path))


def read_bundle(folder: Path) -> tuple[Manifest, bytes]:
    """Read manifest and artifact from any folder laid out like a version, for ``model register``."""
    if not _is_complete(folder):
        raise RegistryError(
            f"{folder} has no {MANIFEST_FILE} with its model.skops beside it; give the folder of a model version."
        )
    entry = Entry(folder, _read_manifest(folder))
    return entry.manifest, entry.read_artifact()


def _read_manifest(folder: Path) -> Manifest:
    try:
        return Manifest.from_bytes(_read_bounded(folder, MANIFEST_FILE, LARGEST_MANIFEST_BYTES))
    except ManifestError as error:
        raise RegistryError(f"{folder}: {error}") from error


def _read_bounded(folder: Path, name: str, largest_bytes: int) -> bytes:
    """The bytes of a plain file in a version's own folder.

    Nothing else is opened: reading a pipe would wait for ever, a device never end, and a link lead anywhere.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise RegistryError(f"{path} is a link out of its folder; put the file itself there.")
        if not stat.S_ISREG(real.stat().st_mode):
            raise RegistryError(f"{path} is not a plain file; register the version again.")
        # Should it become a pipe at this very moment, opening it does not wait.
        with open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            size = os.fstat(file.fileno()).st_size
            data = file.read(largest_bytes + 1) if size <= largest_bytes else b""
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        words = getattr(error, "strerror", None) or str(error)
        raise RegistryError(f"{str(path)[:200]} cannot be read: {words}.") from error
    if size > largest_bytes or len(data) > largest_bytes:
        raise RegistryError(f"{path} has more than {largest_bytes} bytes, which is too much.")
    return data


def _is_complete(folder: Path) -> bool:
    """Whether a folder has the files of a version; what kind of files they are, reading them will tell."""
    try:
        return (folder / MANIFEST_FILE).exists() and any(
            (folder / f"model.{kind}").exists() for kind in ("skops", "joblib")
        )
    except (OSError, ValueError):  # a name that no file can have, or a folder that is closed to us
        return False


def _is_version(name: str) -> bool:
    try:
        parse_version(name)
    except ManifestError:
        return False
    return True


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ManifestError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only when the folder that holds the name is on disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
