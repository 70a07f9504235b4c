"""One named child process that is started again whenever it crashes.

A child says where it listens by one JSON line on its standard output, ``{"ready": true, "http": "http://…"}``.
Everything else that it prints goes to its log. Exit code 0: its work is done. 2 (wrong usage) and 78 (a person must
mend something first): starting it again would not help. Any other end is a crash. However many crashes there are, the
child is started again: giving up would need a person at night, and the cause of crashes in a row may be over a minute
later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from app.adapters.stack.child_process import spawn, stop_child
from app.adapters.stack.private_folder import private_folder
from app.exits import EXIT_CONFIG, EXIT_RETRY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

State = Literal["starting", "ready", "waiting", "done", "failed", "stopped"]

#: Option of worker and monitor: the port that it had before it was started again. If another process has taken that
#: port, a free one is used: insisting on it would end the child for good.
FORMER_PORT = "--former-http-port"
#: Exit codes after which a child is not started again.
DONE = 0
BEYOND_RESTART = frozenset({2, EXIT_CONFIG})


@dataclass(frozen=True)
class Child:
    """What to run.

    ``stop_first``: stopped before the others (a worker before the monitor that reads from it). ``port_option``: the
    option by which a child that is started again is told its former port; empty: it is not told.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_first: bool = False
    port_option: str = ""


@dataclass(frozen=True)
class RestartPolicy:
    """How long a crashed child waits until it is started again: twice as long after each crash in a row.

    A child that ran for ``settled_s`` counts as healthy again.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    settled_s: float = 60.0

    def wait_s(self, crashes: int) -> float:
        """How long to wait after the n-th crash in a row (1, 2, …)."""
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** min(crashes - 1, 30)))


class SupervisedChild:
    """Keeps one child running; a thread of its own waits for its end.

    Parameters
    ----------
    child
        What to run.
    log_path
        Its log; appended to.
    policy
        How long it waits before it is started again.
    changed
        Called from other threads whenever the properties below have changed.
    say
        Is told of each crash and of a final end, in one sentence.
    """

    def __init__(
        self,
        child: Child,
        log_path: Path,
        policy: RestartPolicy,
        *,
        changed: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.child = child
        self.log_path = log_path
        self.state: State = "starting"
        self.http: str | None = None
        self.restarts = 0
        self.why = ""
        self._last_http = ""
        self._policy = policy
        self._changed = changed
        self._say = say
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name=f"supervise-{child.name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_over(self) -> bool:
        """Whether it has ended and will not be started again."""
        return self.state in {"done", "failed", "stopped"}

    def start(self) -> None:
        """Start it; returns at once."""
        private_folder(self.log_path.parent)
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """SIGTERM, after the deadline SIGKILL, and no new start. Returns when it has ended."""
        with self._guard:
            self._stopping.set()
            process = self._process
        if process is not None and not stop_child(process, deadline_s):
            self._say(f"{self.child.name} did not stop within {deadline_s:.0f} s and was killed.")
        if self._thread.ident is not None:
            self._thread.join()

    def kill(self) -> None:
        """End it at once."""
        with self._guard:
            self._stopping.set()
            if self._process is not None:
                self._process.kill()

    def _supervise(self) -> None:
        crashes = 0
        while True:
            started = time.monotonic()
            try:
                code = self._run_once()
                how = _describe_end(code)
            except OSError as error:  # its log cannot be opened, or there is no room for a process
                code, how = EXIT_RETRY, f"could not be started ({error})"
            self.http = None
            if self._stopping.is_set():
                self._become("stopped")
                return
            if code == DONE:
                self._become("done")
                return
            if time.monotonic() - started >= self._policy.settled_s:
                crashes = 0
            crashes += 1
            name = self.child.name
            if code in BEYOND_RESTART:
                self.why = f"{name} {how}: {self._last_line()} (its log: {self.log_path})"
                self._become("failed")
                return
            wait_s = self._policy.wait_s(crashes)
            in_a_row = f" {crashes} times in a row" if crashes > 1 else ""
            self._say(f"{name} {how}{in_a_row}; starting it again in {wait_s:g} s, see {self.log_path}.")
            self._become("waiting")
            if self._stopping.wait(wait_s):
                self._become("stopped")
                return
            self.restarts += 1
            self._become("starting")

    def _run_once(self) -> int:
        """Run the process to its end; its exit code, negative for a signal."""
        with self.log_path.open("ab", buffering=0) as log:
            with self._guard:
                if self._stopping.is_set():
                    return DONE
                process = self._process = spawn(
                    (*self.child.command, *self._former_port()),
                    environment={**os.environ, **self.child.environment, "PYTHONUNBUFFERED": "1"},
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            self._changed()
            assert process.stdout is not None
            reader = threading.Thread(target=self._read, args=(process.stdout, log), daemon=True)
            reader.start()
            code = process.wait()
            # Its own children hold the pipe open too; usually there are none.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join()
            process.stdout.close()
        return code

    def _read(self, output: IO[bytes], log: IO[bytes]) -> None:
        for line in output:
            http = read_ready_line(line)
            if http is None:
                with suppress(OSError):  # a full disk: go on reading, or the child would stop at a full pipe
                    log.write(line)
            else:
                self._say_moved(http)
                self.http = self._last_http = http
                self._become("ready")

    def _former_port(self) -> tuple[str, ...]:
        """The option and the former port, as words of the command; none when there was no port."""
        port = _read_port(self._last_http)
        return (self.child.port_option, str(port)) if port and self.child.port_option else ()

    def _say_moved(self, http: str) -> None:
        if self._last_http and http != self._last_http:
            former = _read_port(self._last_http)
            self._say(f"{self.child.name} now listens on {http}: its former port, {former}, was taken.")

    def _become(self, state: State) -> None:
        self.state = state
        self._changed()

    def _last_line(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def read_ready_line(line: bytes) -> str | None:
    """The address in a ready line (empty when it has none); None for any other line."""
    if not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if message.get("ready") is not True:
        return None
    return str(message.get("http") or "")


def _read_port(http: str) -> int | None:
    """The port in the address of a ready line."""
    try:
        return urlsplit(http).port
    except ValueError:
        return None


def _describe_end(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"ended with signal {signal.Signals(-code).name}"
