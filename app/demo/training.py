"""Trains versions by the command a user would type, in child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.adapters.stack.child_process import spawn, stop_child
from app.settings import Settings

STOP_DEADLINE_S = 5.0
#: OpenMP's threads spin while they wait for each other. Where the stream needs the processors too, that makes fitting
#: several times slower (45 s instead of 11 s on two busy ones); the result is the same.
_SHARING = {"OMP_WAIT_POLICY": "PASSIVE"}


class TrainingFailedError(RuntimeError):
    """A command failed; the sentence holds its last line."""


class ModelCommand:
    """``streamgauge model …`` in a child process, started at once.

    Parameters
    ----------
    log_path
        Where its standard error goes; its standard output is one JSON object.
    """

    def __init__(self, arguments: list[str], pipeline: str, settings: Settings, log_path: Path) -> None:
        self._words = " ".join(["streamgauge model", *arguments])
        self._log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = log_path.open("ab")
        self._began = time.monotonic()
        command = [sys.executable, "-P", "-m", "app", "model", *arguments, "--pipeline", pipeline, "--json"]
        self._process = spawn(
            command,
            environment={**os.environ, **settings.to_environment(), **_SHARING},
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.seconds = 0.0

    def wait(self) -> dict[str, Any]:
        """Wait for its end; what it printed. Blocks, so call it from a thread of its own."""
        output, _ = self._process.communicate()
        self.seconds = time.monotonic() - self._began
        self._log.close()
        if self._process.returncode != 0:
            lines = [line for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
            why = lines[-1] if lines else "it printed nothing"
            raise TrainingFailedError(f"`{self._words}` failed: {why} (its log: {self._log_path})")
        printed: dict[str, Any] = json.loads(output)
        return printed

    def stop(self) -> None:
        """End it when it still runs."""
        if self._process.poll() is None:
            stop_child(self._process, STOP_DEADLINE_S)
        self._log.close()


def two_months_before(end_ms: int) -> tuple[int, int]:
    """Return the last two whole UTC months that end at ``end_ms`` or before, as [from, to).

    Examples
    --------
    Of 1 August 2013, or any time in it: June and July.

    >>> [format_day(time_ms) for time_ms in two_months_before(1_375_315_200_000 + 5)]
    ['2013-06-01', '2013-08-01']
    """
    end = datetime.fromtimestamp(end_ms / 1000, UTC)
    month = end.year * 12 + end.month - 1
    start, stop = (datetime((month + n) // 12, (month + n) % 12 + 1, 1, tzinfo=UTC) for n in (-2, 0))
    return int(start.timestamp() * 1000), int(stop.timestamp() * 1000)


def format_day(time_ms: int) -> str:
    """Format a UTC day as the commands read it: ``2013-06-01``."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
