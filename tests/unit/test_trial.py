"""Laws of the process in which artifacts are tried, whoever judges them; with real models: tests/integration."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from models.versions import trial as trial_module
from models.versions.trial import Trial, TrialLimits, TrialResult, serve

pytestmark = pytest.mark.timeout(20)  # who waits for ever has made a mistake

#: What `judge` may use here: more than the interpreter of the tests maps.
ROOM_BYTES = 3 * 2**30


def judge(manifest: bytes, artifact: bytes, allow_joblib: bool) -> TrialResult:
    """Do what the manifest says; of other words, tell what was given."""
    match manifest.decode():
        case "memory":
            raise MemoryError
        case "raise":
            raise ValueError("it is broken")
        case "sleep":
            time.sleep(60)
        case "leave":
            os.write(2, artifact)
            os._exit(3)
        case "crash" | "too much processor time" | "end all" as what:
            signals = {"crash": signal.SIGKILL, "too much processor time": signal.SIGXCPU, "end all": signal.SIGKILL}
            os.kill(os.getppid() if what == "end all" else os.getpid(), signals[what])
        case "write":
            os.write(1, b"words that are no answer\n")
            return TrialResult("read", repr(os.read(0, 9)))
        case "limits":
            limits = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
            return TrialResult("", json.dumps([resource.getrlimit(limit) for limit in limits]))
        case "surroundings":
            return TrialResult(
                "", json.dumps({"pid": os.getppid(), "arguments": sys.argv[1:], "environment": dict(os.environ)})
            )
    return TrialResult("given", f"{manifest!r} {artifact!r} {allow_joblib}")


def ask(*questions: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[TrialResult]:
    """What `serve` answers, in this process, to questions as a `Trial` writes them."""
    asked = b""
    for manifest, artifact in questions:
        lengths = {"manifest": len(manifest), "artifact": len(artifact)}
        settings = {"allow_joblib": False, "timeout_s": 30.0, "memory_bytes": ROOM_BYTES, **options}
        asked += msgspec.json.encode({**lengths, **settings}) + b"\n" + manifest + artifact
    answers = io.BytesIO()
    here, leave = os.getpid(), os._exit

    def leave_unless_here(code: int) -> None:
        assert os.getpid() != here, "the process of the tests is tried itself"
        leave(code)

    with open(2, "w", closefd=False) as words, monkeypatch.context() as patch:  # pytest's is elsewhere
        patch.setattr(os, "_exit", leave_unless_here)
        patch.setattr(sys, "stderr", words)
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(asked)))
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=answers))
        serve(judge)
    return [msgspec.json.decode(line, type=TrialResult) for line in answers.getvalue().splitlines()]


def test_each_question_is_judged_by_what_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = (b"one", b"1\n2"), (b"", b""), (b"two\n", b"{}")
    assert ask(*questions, monkeypatch=monkeypatch) == [
        TrialResult("given", f"{manifest!r} {artifact!r} False") for manifest, artifact in questions
    ]
    (result,) = ask((b"one", b"1"), monkeypatch=monkeypatch, allow_joblib=True)
    assert result.detail.endswith("True")


TRIED = "Loading it, scoring its golden rows and batches of up to 5 000 rows"
LEFT = "The process that tried it ended with code"
ENDS = {
    (b"memory", b""): TrialResult("memory", f"{TRIED} needs more than 3072 MB."),
    (b"raise", b""): TrialResult("crash", f"{LEFT} 1 (ValueError: it is broken)."),
    (b"leave", b""): TrialResult("crash", f"{LEFT} 3."),
    (b"leave", b"!"): TrialResult("crash", f"{LEFT} 3 (!)."),
    (b"leave", b"first\nlast " + b"x" * 300 + b"\n"): TrialResult("crash", f"{LEFT} 3 (last {'x' * 195})."),
    (b"crash", b""): TrialResult("crash", f"{LEFT} -9."),
    (b"too much processor time", b""): TrialResult("timeout", f"{TRIED} took more than 30 s of processor time."),
    (b"write", b""): TrialResult("read", "b''"),
}


@pytest.fixture
def questions_of_others() -> Iterator[None]:
    """On the descriptor of standard input, as they are in the process of a trial."""
    kept, (reader, writer) = os.dup(0), os.pipe()
    os.write(writer, b"questions of others")
    os.dup2(reader, 0)
    yield
    os.dup2(kept, 0)
    for descriptor in (kept, reader, writer):
        os.close(descriptor)


@pytest.mark.usefixtures("questions_of_others")
def test_whatever_becomes_of_what_is_tried_is_a_verdict_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    results = ask(*ENDS, (b"next", b"x"), monkeypatch=monkeypatch)
    assert dict(zip(ENDS, results, strict=False)) == ENDS
    assert results[-1] == TrialResult("given", "b'next' b'x' False")
    assert capfd.readouterr() == ("", "")
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_process_with_thousands_of_open_files_can_try_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_200
    if hard != resource.RLIM_INFINITY and hard < 2 * wanted:
        pytest.skip(f"no more than {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * wanted), hard))
    held = [os.dup(0) for _ in range(wanted)]
    try:
        (result,) = ask((b"next", b"x"), monkeypatch=monkeypatch)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result == TrialResult("given", "b'next' b'x' False")


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    (result,) = ask((b"sleep", b""), monkeypatch=monkeypatch, timeout_s=0.05)
    assert result == TrialResult("timeout", f"{TRIED} took more than 0.05 s.")
    assert time.monotonic() - started < 30


def test_what_is_tried_has_limits_of_memory_and_processor_time_and_leaves_no_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (result,) = ask((b"limits", b""), monkeypatch=monkeypatch)
    wanted = {resource.RLIMIT_AS: ROOM_BYTES, resource.RLIMIT_CPU: 30, resource.RLIMIT_CORE: 0}
    given = {what: resource.getrlimit(what)[1] for what in wanted}
    least = [most if given[what] < 0 else min(given[what], most) for what, most in wanted.items()]  # -1: no limit
    assert json.loads(result.detail) == [[each, each] for each in least]


@pytest.fixture
def judging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A trial whose process judges as `judge` does: its interpreter runs this file in place of what it is told to."""
    program = tmp_path / "python"
    lines = (
        f"#!{sys.executable}",
        "import importlib.util, resource",
        "resource.setrlimit(resource.RLIMIT_CPU, (5, 5))",
        "from models.versions.trial import serve",
        f"spec = importlib.util.spec_from_file_location('judging', {__file__!r})",
        "judging = importlib.util.module_from_spec(spec)",
        "spec.loader.exec_module(judging)",
        "serve(judging.judge)",
    )
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("STREAMGAUGE_CLICKHOUSE", "http://user:secret@server")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with Trial() as trial:
        yield trial
    assert not trial.is_alive


@pytest.mark.slow
def test_a_process_tries_many_until_it_is_ended(judging: Trial, tmp_path: Path) -> None:
    limits = TrialLimits(memory_bytes=ROOM_BYTES)
    assert judging.run(b"one", b"1", limits=limits) == TrialResult("given", "b'one' b'1' False")
    assert judging.run(b"", b"1" * 200_000, allow_joblib=True).detail.endswith("1' True")
    assert judging.run(b"sleep", b"", limits=TrialLimits(timeout_s=0.01)).reason == "timeout"
    # Its interpreter was started with less processor time, which nobody may raise again.
    limits = TrialLimits(memory_bytes=2**30)
    assert json.loads(judging.run(b"limits", b"", limits=limits).detail) == [[2**30] * 2, [5, 5], [0, 0]]
    assert json.loads(judging.run(b"limits", b"").detail)[0] == [2 * 2**30] * 2
    seen = json.loads(judging.run(b"surroundings", b"").detail)
    assert seen["arguments"] == ["-P", "-m", "models.versions.verify"]
    seen["environment"].pop("LC_CTYPE", None)  # Python's own, where the language is that of C
    seen["environment"].pop("LANG", None)
    assert seen["environment"] == {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(trial_module.__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert judging.is_alive
    os.kill(seen["pid"], signal.SIGSTOP)
    judging.close()  # whatever it is doing
    assert not judging.is_alive


@pytest.mark.slow
def test_a_process_that_is_gone_is_a_verdict(judging: Trial) -> None:
    gone = TrialResult("no_trial", "The process that tried it ended with code -9.")
    assert judging.run(b"end all", b"") == gone
    assert not judging.is_alive
    assert judging.run(b"one", b"x" * 200_000) == gone
