"""Child processes that end with their parent, and how to recognise and end one that did not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Runs in the child before the program. It is a program of its own because a preexec_fn may deadlock when the parent has
# threads. The parent may die before prctl is called, so its id is compared afterwards.
_LAUNCHER = """
import os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


@cache
def _spawner() -> SimpleQueue[Callable[[], None]]:
    """Return the queue of the one thread that starts children.

    Linux sends the death signal when the *thread* that forked ends, so this thread must not end before the process. It
    is a daemon and not of a pool: Python waits for the threads of a pool at its end, and if Ctrl-C had interrupted the
    start, nobody would end this one.
    """
    wishes: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            wishes.get()()

    threading.Thread(target=serve, name="spawner", daemon=True).start()
    return wishes


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    death_signal: signal.Signals = signal.SIGKILL,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` (its first word an absolute path) in a process group of its own, without standard input.

    Ctrl-C in a terminal reaches only the parent, which stops its children in order. When the parent dies, Linux sends
    ``death_signal``; on other systems a child may be left over, and the next start calls `end_process`.
    """
    started: Future[subprocess.Popen[bytes]] = Future()
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(death_signal)), *command]

    def start() -> None:
        try:
            child = subprocess.Popen(  # noqa: S603  # commands are our own
                launch,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                process_group=0,
            )
        except BaseException as error:  # noqa: BLE001  # it is raised where the child is waited for
            started.set_exception(error)
        else:
            started.set_result(child)

    _spawner().put(start)
    try:
        return started.result()
    except KeyboardInterrupt:
        started.add_done_callback(_end_unknown)
        raise


def _end_unknown(started: Future[subprocess.Popen[bytes]]) -> None:
    """End a child whose caller was interrupted before it got it."""
    if started.exception() is None:
        started.result().kill()
        started.result().wait()


def stop_child(child: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """SIGTERM, and after the deadline SIGKILL; return whether it ended by itself."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(deadline_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return False
    return True


def birth_mark(pid: int) -> str | None:
    """Return the start time, which tells a process from a later one with its id; None when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            # The command in parentheses may hold anything; the state and then numbers follow it.
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if status[0] == "Z" else status[19]
    shown = subprocess.run(  # noqa: S603  # a constant program and a number
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None


def end_process(pid: int, mark: str, deadline_s: float = 15.0) -> bool:
    """End a process that is not our child, if it still has this birth mark; return whether it was there."""
    import time  # noqa: PLC0415  # only here: there is no waiting on a process that is not our child

    if birth_mark(pid) != mark:
        return False
    for number, patience_s in ((signal.SIGTERM, deadline_s), (signal.SIGKILL, deadline_s)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        until = time.monotonic() + patience_s
        while birth_mark(pid) == mark and time.monotonic() < until:
            time.sleep(0.05)
        if birth_mark(pid) != mark:
            return True
    return True
