"""What the peers need, made on demand and kept in the cache: a virtual environment, Kafka Streams' jars and classes.

None of it is a dependency of ours. What cannot be had on a machine is a `BenchError` of one line, and its peer is
skipped.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from app.adapters.stack.home_lock import HomeLock
from app.adapters.stack.kafka_jars import ensure_jars, read_lock
from app.bench.lane import BenchError
from app.exits import StackError

PROGRAMS = Path(__file__).parents[2] / "scripts" / "bench"
REQUIREMENTS = PROGRAMS / "peers-requirements.txt"
_INSTALL_DEADLINE_S = 300.0

Say = Callable[[str], None]


def program(name: str) -> Path:
    """A program of scripts/bench; they are in the source tree alone."""
    path = PROGRAMS / name
    if not path.exists():
        raise BenchError(
            f"{path} is missing: what is measured besides the worker is in a source tree, not in an installed package"
        )
    return path


@cache
def ensure_python(cache_folder: Path, package: str, say: Say) -> Path:
    """The interpreter of the peers' environment, with ``package`` (its distribution's name) in it."""
    pins = program(REQUIREMENTS.name).read_text()
    # A virtual environment belongs to the interpreter that made it.
    key = hashlib.sha256(f"{pins}{sys.version}{sys.prefix}".encode()).hexdigest()[:12]
    folder = cache_folder / f"bench-peers-{key}"
    python = folder / "bin" / "python"
    with HomeLock(cache_folder / "bench-peers.lock"):
        if not python.exists():
            say(f"Making an environment for the peers in {folder} …")
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, python)
        if _is_installed(python, package):
            return python
        if not _install(python, ["-r", str(REQUIREMENTS)]) and not _is_installed(python, package):
            lines = [line for line in pins.splitlines() if line and not line.startswith("#")]
            # One peer without a wheel for this Python must not take the others along.
            peers = {"bytewax", "quixstreams", "confluent-kafka", "py-spy"}
            shared = [line for line in lines if line.partition("==")[0] not in peers]
            own = [line for line in lines if line.startswith(f"{package}==")]
            _install(python, [*shared, *own])
    if not _is_installed(python, package):
        raise BenchError(f"{package} cannot be installed for Python {sys.version.split()[0]} here")
    return python


def _make(folder: Path, python: Path) -> None:
    uv = shutil.which("uv")
    made = _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)]) if uv else False
    if not made and not _run([sys.executable, "-m", "venv", str(folder)]):
        raise BenchError(f"no virtual environment can be made in {folder}")
    assert python.exists()


def _install(python: Path, what: list[str]) -> bool:
    uv = shutil.which("uv")
    if uv:
        return _run([uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(python), *what])
    return _run([str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *what])


def _is_installed(python: Path, package: str) -> bool:
    return _run([str(python), "-c", f"import importlib.metadata as m; m.version({package!r})"])


def _run(command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  # our own command lines
            command, capture_output=True, timeout=_INSTALL_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@cache
def ensure_streams(cache_folder: Path, say: Say) -> list[str]:
    """Java's command line for the Kafka Streams program, up to its main class: compiled once, for these sources."""
    source = program("kafka-streams/Scorer.java")
    javac, java = shutil.which("javac"), shutil.which("java")
    if javac is None or java is None:
        raise BenchError("Kafka Streams needs a JDK with javac on PATH")
    try:
        server = ensure_jars(cache_folder, say=say)
        jars = read_lock(program("kafka-streams/jars.lock").read_text())
        own = ensure_jars(cache_folder, say=say, name="kafka-streams", jars=jars)
    except StackError as error:
        raise BenchError(str(error)) from error
    version = subprocess.run([javac, "-version"], capture_output=True, check=False).stdout  # noqa: S603  # from PATH
    key = hashlib.sha256(source.read_bytes() + version).hexdigest()[:12]
    classes = cache_folder / f"bench-streams-{key}"
    path = f"{server}/*:{own}/*"
    if not (classes / "Scorer.class").exists():
        say("Compiling the Kafka Streams program …")
        built = subprocess.run(  # noqa: S603  # from PATH, on our own source
            [javac, "-nowarn", "-cp", path, "-d", str(classes), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise BenchError(f"javac failed: {built.stderr.strip()[-300:]}")
    return [java, "-XX:+UseParallelGC", "-Xms512m", "-Xmx1g", "-cp", f"{classes}:{path}", "Scorer"]
