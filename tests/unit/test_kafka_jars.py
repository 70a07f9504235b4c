"""The cache of Kafka's jars: complete and intact, or repaired, or one clear sentence."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from jgo.maven import _core

from app.adapters.stack import kafka_jars
from app.adapters.stack.kafka_jars import Download, Jar, ensure_jars, locked_jars
from app.exits import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = {"kafka_2.13": b"k" * 10_000, "small": b"s", "other": b"o" * 500}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository on this machine that has three small jars, which are all that is locked."""
    folder = tmp_path / "repository"
    jars = []
    for artifact, content in CONTENT.items():
        jar = Jar("org.example", artifact, "1.0", len(content), hashlib.sha256(content).hexdigest())
        path = folder / "org/example" / artifact / "1.0" / jar.filename
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        jars.append(jar)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setitem(_core.DEFAULT_REMOTE_REPOS, "central", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(kafka_jars, "locked_jars", lambda: tuple(jars))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WHOLE = {f"{artifact}-1.0.jar": content for artifact, content in CONTENT.items()}


def test_every_part_of_kafka_in_the_lock_has_one_version() -> None:
    versions = {jar.version for jar in locked_jars() if jar.group == "org.apache.kafka"}
    assert len(versions) == 1
    assert versions.pop().startswith("4.1.")


def test_the_lock_names_each_file_once_with_size_and_digest() -> None:
    jars = locked_jars()
    assert len({jar.filename for jar in jars}) == len({(jar.group, jar.artifact) for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 and jar.size_bytes > 0 for jar in jars)
    assert {"kafka_2.13", "kafka-clients", "log4j-core", "log4j-slf4j-impl"} <= {jar.artifact for jar in jars}


def test_an_empty_cache_is_filled_and_says_so(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[Download] = []
    folder = ensure_jars(tmp_path / "cache", say=said.append, progress=seen.append)
    assert contents(folder) == WHOLE
    assert said == [f"Downloading Apache Kafka 1.0 to {folder} (3 files, 0.0 MB, once)."]
    assert seen[-1] == Download(3, 3, 10_501, 10_501, seen[-1].finished)
    assert {download.finished for download in seen if download.finished} == set(WHOLE)


def test_a_complete_cache_is_only_read(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_jars(tmp_path / "cache")
    monkeypatch.setitem(_core.DEFAULT_REMOTE_REPOS, "central", "http://127.0.0.1:1")
    said: list[str] = []
    assert ensure_jars(tmp_path / "cache", say=said.append) == folder
    assert said == []


@pytest.mark.parametrize("damage", [b"", b"k" * 9_999, b"x" * 10_000, None], ids=["empty", "half", "other", "gone"])
def test_a_damaged_cache_is_repaired_and_says_so(repository: Path, tmp_path: Path, damage: bytes | None) -> None:
    folder = ensure_jars(tmp_path / "cache")
    victim = folder / "kafka_2.13-1.0.jar"
    victim.unlink() if damage is None else victim.write_bytes(damage)
    (folder.parent / ".download-of-a-killed-run").mkdir()
    said: list[str] = []
    ensure_jars(tmp_path / "cache", say=said.append)
    assert contents(folder) == WHOLE
    assert said == [
        f"The Kafka files in {folder} are incomplete or damaged; downloading them again (1 file, 0.0 MB, once)."
    ]
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "kafka.lock"}


def test_starts_at_once_download_once(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(ensure_jars(tmp_path / "cache", say=said.append)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert contents(results[0]) == WHOLE
    assert sum(sentence.startswith("Downloading") for sentence in said) == 1


def test_what_arrives_changed_is_refused(repository: Path, tmp_path: Path) -> None:
    next(repository.rglob("other-1.0.jar")).write_bytes(b"O" * 500)
    with pytest.raises(StackError, match=r"org\.example:other:1\.0 .*SHA-256.*STREAMGAUGE_KAFKA"):
        ensure_jars(tmp_path / "cache")
    assert not (tmp_path / "cache" / "kafka-1.0" / "other-1.0.jar").exists()


def test_what_is_not_there_is_named(repository: Path, tmp_path: Path) -> None:
    next(repository.rglob("small-1.0.jar")).unlink()
    with pytest.raises(StackError, match=r"org\.example:small:1\.0.*not found.*STREAMGAUGE_CACHE"):
        ensure_jars(tmp_path / "cache")


def test_without_network_the_sentence_says_what_to_do(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_core.DEFAULT_REMOTE_REPOS, "central", "http://127.0.0.1:1")
    with pytest.raises(StackError, match=r"Cannot download org\.example:.*network access.*STREAMGAUGE_KAFKA"):
        ensure_jars(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StackError, match=r"Cannot write .*file/cache.*STREAMGAUGE_CACHE"):
        ensure_jars(tmp_path / "file" / "cache")
