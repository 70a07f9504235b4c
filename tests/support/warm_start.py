"""Workers and monitors of tests, forked from an interpreter that has imported all they need.

A worker takes two seconds of processor time to import its libraries, and the process in which it tries models as long
again; a run of all tests starts hundreds. So one process imports them once (`_Nursery`), and each that is started is a
fork of it: the same command line, environment and exit code, a process of its own that can be stopped and killed.
`streamgauge up`, the demo and the benchmarks start theirs from nothing, and so are those tested.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NoReturn, Self

from app.adapters.stack.child_process import spawn

_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36
_MESSAGE_BYTES = 1 << 20
_OURS = (sys.executable, "-P", "-m", "app")


class WarmProcess:
    """A child of this process, as `subprocess.Popen` shows one."""

    def __init__(
        self,
        args: Sequence[str],
        pid: int,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self.args = args
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._guard = threading.Lock()

    def poll(self) -> int | None:
        with self._guard:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; `subprocess.TimeoutExpired` after ``timeout`` seconds."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                ended = select.poll()
                ended.register(descriptor, select.POLLIN)
                is_over = ended.poll(None if timeout is None else 1000 * timeout)
            finally:
                os.close(descriptor)
            if not is_over:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


Process = subprocess.Popen[bytes] | WarmProcess


def start_warm(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    stdin: IO[bytes] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start a command in a process group of its own, as `app.adapters.stack.child_process.spawn` does; ours are forked.

    ``stdout`` may be `subprocess.PIPE`; of ``stdin``, only commands of ours take any.
    """
    if sys.platform != "linux" or tuple(command[:4]) != _OURS:
        return spawn(command, environment=env, stdout=stdout, stderr=stderr, folder=cwd)
    reader: IO[bytes] | None = None
    if stdout == subprocess.PIPE:
        read_end, output = os.pipe()
        reader = os.fdopen(read_end, "rb")
    else:
        output = os.dup(_number(stdout))
    source = os.open(os.devnull, os.O_RDONLY) if stdin is None else os.dup(_number(stdin))
    try:
        order = {"args": command[4:], "env": dict(env), "cwd": str(cwd or Path.cwd())}
        errors = output if stderr == subprocess.STDOUT else _number(stderr)
        pid = _nursery().fork(order, source, output, errors)
    finally:
        os.close(output)
        os.close(source)
    return WarmProcess(command, pid, stdout=reader)


def run_warm(
    words: Sequence[str], *, env: Mapping[str, str], timeout: float, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run ``streamgauge`` with these words to its end, as `subprocess.run` would; it is killed at the timeout."""
    command = [*_OURS, *words]
    with TemporaryFile() as source, TemporaryFile() as output, TemporaryFile() as errors:
        source.write(data)
        source.seek(0)
        process = start_warm(command, env=env, stdin=source, stdout=output, stderr=errors)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, output.read(), errors.read())


def _number(stream: int | IO[bytes]) -> int:
    return stream if isinstance(stream, int) else stream.fileno()


class _Nursery:
    """The process that has imported everything, and forks when it is told to.

    What it forks becomes our child: the process between forks and ends, and orphans below us are given to us.
    """

    def __init__(self) -> None:
        _prctl(_SET_SUBREAPER, 1)
        self._guard = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def fork(self, order: Mapping[str, object], *streams: int) -> int:
        with self._guard:
            socket.send_fds(self._socket, [json.dumps(order).encode()], streams)
            return int(self._socket.recv(64))


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def _serve(orders: socket.socket, parent: int) -> None:
    import skops.io  # noqa: F401, PLC0415  # here alone: who imports this module starts processes, and is none

    import app.__main__  # noqa: PLC0415
    import app.monitor.start  # noqa: PLC0415
    import app.worker.start  # noqa: F401, PLC0415
    import models.scoring.families  # noqa: F401, PLC0415
    from models.versions.trial import Trial  # noqa: PLC0415

    gc.freeze()
    Trial.__init__ = _fork_trial  # type: ignore[method-assign]
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, 3)
        if not message:
            return
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                orders.close()
                os.close(reader)
                os.close(writer)
                _live(json.loads(message), descriptors, parent)
            os.write(writer, str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)
        orders.send(os.read(reader, 64))
        for descriptor in (reader, writer, *descriptors):
            os.close(descriptor)


def _live(order: dict[str, object], streams: Sequence[int], parent: int) -> NoReturn:
    """Be the process that was asked for, to its end."""
    while os.getppid() != parent:  # until the process between has ended
        os.sched_yield()
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    os.setpgid(0, 0)
    _take_streams(*streams)
    os.environ.clear()
    os.environ.update(order["env"])  # type: ignore[call-overload]
    os.chdir(str(order["cwd"]))
    sys.argv = ["streamgauge", *order["args"]]  # type: ignore[misc]
    from app.__main__ import main  # noqa: PLC0415

    _end_with(main)


def _fork_trial(trial: object) -> None:
    """`Trial.__init__` in a process that was forked from a warm one."""
    from models.versions import trial as module  # noqa: PLC0415
    from models.versions.verify import _judge  # noqa: PLC0415

    (their_input, questions), (answers, output), (words, errors) = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        for ours in (questions, answers, words):
            os.close(ours)
        _take_streams(their_input, output, errors)
        os.environ.clear()
        os.environ.update(module._environment())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.enable()
        _end_with(lambda: module.serve(_judge))
    for theirs in (their_input, output, errors):
        os.close(theirs)
    streams = (os.fdopen(questions, "wb"), os.fdopen(answers, "rb"), os.fdopen(words, "rb"))
    trial._process = WarmProcess(("models.versions.verify",), pid, *streams)  # type: ignore[attr-defined]


def _take_streams(*descriptors: int) -> None:
    """Make them standard input, output and error; Python's own know what the ones before could do."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in set(descriptors):
        if descriptor > 2:
            os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def _end_with(run: Callable[[], object]) -> NoReturn:
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _prctl(option: int, value: int) -> None:
    assert ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
