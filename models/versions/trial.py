"""A process in which artifacts are tried before this one loads them.

Whatever an artifact does at load or predict, it does in a fork of a bare interpreter: with limited memory and time, no
password and no setting, and neither the questions nor the answers of others in reach. Importing scikit-learn takes
seconds, and is done once for all that are tried.

``python -m models.versions.verify`` is that process. For each artifact it reads a line of JSON (`_Question`), the
manifest and the artifact from standard input, and writes a line of JSON (`TrialResult`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, Self

import msgspec

CPU_SECONDS = 30
_WHAT_IS_TRIED = "Loading it, scoring its golden rows and batches of up to 5 000 rows"


class TrialLimits(NamedTuple):
    """How long a trial may take, and how much address space it may have.

    Python with scikit-learn maps 0.5 GB; a model of 64 MB needs a few times its size.
    """

    timeout_s: float = 60.0
    memory_bytes: int = 2 * 2**30


LIMITS = TrialLimits()


class TrialResult(msgspec.Struct, frozen=True):
    """What came of a trial; ``reason`` (one word) is empty when nothing is wrong with the artifact."""

    reason: str = ""
    detail: str = ""


class _Question(msgspec.Struct, frozen=True):
    """``manifest``, ``artifact``: their lengths in bytes."""

    manifest: int
    artifact: int
    allow_joblib: bool
    timeout_s: float
    memory_bytes: int


class Trial:
    """Tries artifacts one after the other, in a process of its own that runs until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # our own interpreter and module
            [sys.executable, "-P", "-m", "models.versions.verify"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process:
            pass  # closes the pipes and waits

    def run(
        self,
        manifest: bytes,
        artifact: bytes,
        *,
        allow_joblib: bool = False,
        limits: TrialLimits = LIMITS,
    ) -> TrialResult:
        """Load an artifact, score its golden rows and a large batch. Not for two threads at a time.

        For a process that is gone the result is ``no_trial``.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        question = _Question(len(manifest), len(artifact), allow_joblib, *limits)
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(question) + b"\n" + manifest + artifact)
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer:
            return TrialResult("no_trial", _describe_end(process.wait(), process.stderr.read()))
        return msgspec.json.decode(answer, type=TrialResult)


def serve(judge: Callable[[bytes, bytes, bool], TrialResult]) -> None:
    """Be the process of a `Trial` until its input ends. ``judge`` is given manifest, artifact and `allow_joblib`."""
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    for line in iter(questions.readline, b""):
        question = msgspec.json.decode(line, type=_Question)
        manifest, artifact = questions.read(question.manifest), questions.read(question.artifact)
        result = _try_in_fork(partial(judge, manifest, artifact, question.allow_joblib), question)
        answers.write(msgspec.json.encode(result) + b"\n")
        answers.flush()


def _try_in_fork(judge: Callable[[], TrialResult], question: _Question) -> TrialResult:
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as words, os.fdopen(reader, "rb") as answer:
        pid = os.fork()
        if pid == 0:
            _be_tried(judge, question, writer, words)
        os.close(writer)
        told = select.poll()  # not `select`, which knows the first 1 024 descriptors alone
        told.register(answer, select.POLLIN)
        is_done = bool(told.poll(1000 * question.timeout_s))
        if not is_done:
            os.kill(pid, signal.SIGKILL)
        said = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not is_done:
            return TrialResult("timeout", f"{_WHAT_IS_TRIED} took more than {question.timeout_s:g} s.")
        if code == -signal.SIGXCPU:
            return TrialResult("timeout", f"{_WHAT_IS_TRIED} took more than {CPU_SECONDS} s of processor time.")
        words.seek(0)
        return (
            msgspec.json.decode(said, type=TrialResult)
            if said
            else TrialResult("crash", _describe_end(code, words.read()))
        )


def _be_tried(judge: Callable[[], TrialResult], question: _Question, writer: int, words: IO[bytes]) -> NoReturn:
    """The life of the fork."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        _limit(resource.RLIMIT_AS, question.memory_bytes)
        _limit(resource.RLIMIT_CPU, CPU_SECONDS)
        _limit(resource.RLIMIT_CORE, 0)
        try:
            result = judge()
        except MemoryError:
            megabytes = question.memory_bytes >> 20
            result = TrialResult("memory", f"{_WHAT_IS_TRIED} needs more than {megabytes} MB.")
        os.write(writer, msgspec.json.encode(result))
        os._exit(0)
    except BaseException:  # noqa: BLE001  # nothing may go on as the process that was forked
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _limit(what: int, most: int) -> None:
    """Set a limit; where this process was started with a stricter one, that stays: nobody may raise it."""
    _, given = resource.getrlimit(what)
    least = most if given == resource.RLIM_INFINITY else min(most, given)
    resource.setrlimit(what, (least, least))


def _describe_end(code: int, stderr: bytes) -> str:
    last = stderr.decode(errors="replace").strip().splitlines()[-1:]
    said = f" ({last[0][:200]})" if last else ""
    return f"The process that tried it ended with code {code}{said}."


def _environment() -> dict[str, str]:
    """Return only what Python needs: a file under suspicion must not see the passwords of servers."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    # More threads would each map a stack and a buffer of their own against the memory limit; and a fork has only one.
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, **one_thread, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
