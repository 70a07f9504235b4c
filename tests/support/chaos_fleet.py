"""Workers as a supervisor would run them: real processes that are started again whenever they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
from warm_start import Process, start_warm

RESTART_DELAY_S = 0.2


@dataclass
class Exit:
    """One end of a worker."""

    slot: int
    code: int
    at: float


@dataclass
class _Slot:
    wanted: bool = False
    process: Process | None = None
    stopped: bool = False
    starts: int = 0
    logs: list[Path] = field(default_factory=list)


class Fleet:
    """A number of worker slots.

    Parameters
    ----------
    command
        Command line and environment of the worker of a slot.
    """

    def __init__(self, folder: Path, slots: int, command: Callable[[int], tuple[list[str], Mapping[str, str]]]) -> None:
        self.exits: list[Exit] = []
        self.kills = 0
        self.peak_rss = 0
        self._folder = folder
        self._command = command
        self._slots = [_Slot() for _ in range(slots)]
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        for slot in self._slots:
            slot.wanted = False
            if slot.process is not None and slot.process.poll() is None:
                slot.process.kill()
                slot.process.wait()

    def start(self, *slots: int) -> None:
        """Have workers in these slots from now on."""
        for number in slots:
            self._slots[number].wanted = True
            if not self.is_running(number):
                self._launch(number)

    def running(self) -> list[int]:
        """Slots whose worker runs and is not stopped by SIGSTOP."""
        return [n for n, slot in enumerate(self._slots) if self.is_running(n) and not slot.stopped]

    def is_running(self, number: int) -> bool:
        process = self._slots[number].process
        return process is not None and process.poll() is None

    def kill(self, number: int, *, for_good: bool = False) -> None:
        """SIGKILL; the slot's next worker starts by itself, unless it is ``for_good``."""
        slot = self._slots[number]
        if for_good:
            slot.wanted = False
        self._signal(number, signal.SIGKILL)
        if slot.process is not None:
            slot.process.wait()  # from now on the slot counts as empty, and its log is not the old one's
        self.kills += 1

    def freeze(self, number: int) -> None:
        """SIGSTOP: a zombie in the making."""
        self._slots[number].stopped = True
        self._signal(number, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """SIGCONT."""
        self._signal(number, signal.SIGCONT)
        self._slots[number].stopped = False

    async def stop(self, *slots: int, deadline_s: float = 60) -> list[tuple[int, float]]:
        """SIGTERM, and have no worker there any more; exit code and seconds that each took."""

        async def end(number: int) -> tuple[int, float]:
            slot = self._slots[number]
            slot.wanted = False
            process = slot.process
            if process is None:
                return 0, 0.0
            started = time.monotonic()
            if process.poll() is None:
                process.terminate()
            while process.poll() is None:
                if time.monotonic() - started > deadline_s:
                    process.kill()
                await asyncio.sleep(0.02)
            return process.returncode, time.monotonic() - started

        return list(await asyncio.gather(*(end(number) for number in slots)))

    def log(self, tail: int = 4_000) -> str:
        """The ends of the logs of all workers."""
        return "\n".join(
            f"--- worker {number}, start {start}\n{path.read_text(errors='replace')[-tail:]}"
            for number, slot in enumerate(self._slots)
            for start, path in enumerate(slot.logs)
        )

    def log_of(self, number: int) -> str:
        """The whole log of the worker that runs in a slot now."""
        return self._slots[number].logs[-1].read_text(errors="replace")

    def count_in_logs(self, words: str) -> int:
        """How many log lines hold the words."""
        paths = [path for slot in self._slots for path in slot.logs]
        return sum(words in line for path in paths for line in path.read_text(errors="replace").splitlines())

    def pid(self, number: int) -> int:
        process = self._slots[number].process
        assert process is not None
        return process.pid

    def _signal(self, number: int, what: signal.Signals) -> None:
        if self.is_running(number):
            os.kill(self.pid(number), what)

    def _launch(self, number: int) -> None:
        slot = self._slots[number]
        slot.starts += 1
        slot.stopped = False
        path = self._folder / f"worker-{number}-{slot.starts:03d}.log"
        slot.logs.append(path)
        command, environment = self._command(number)
        with path.open("wb") as log:
            slot.process = start_warm(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder)

    async def _watch(self) -> None:
        while True:
            for number, slot in enumerate(self._slots):
                if slot.process is None:
                    continue
                code = slot.process.poll()
                if code is None:
                    with contextlib.suppress(psutil.Error):
                        self.peak_rss = max(self.peak_rss, psutil.Process(slot.process.pid).memory_info().rss)
                    continue
                self.exits.append(Exit(number, code, time.monotonic()))
                slot.process = None
                if slot.wanted:
                    await asyncio.sleep(RESTART_DELAY_S)
                    if slot.wanted and slot.process is None:  # neither stopped nor started meanwhile
                        self._launch(number)
            await asyncio.sleep(0.1)


def worker_command(
    pipeline: Path, environment: Mapping[str, str], instance: str | None
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a worker of ours; ``instance``: its name as a static member of the group."""
    return (
        [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(pipeline)]
        + (["--instance", instance] if instance else []),
        {**os.environ, **environment},
    )
