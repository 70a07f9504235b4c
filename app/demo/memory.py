"""How much memory a process tree takes at most."""

from __future__ import annotations

import threading
from typing import Self

import psutil

SAMPLE_S = 0.5
#: Commands of ours, as they appear among a process's arguments.
_COMMANDS = ("worker", "monitor", "model", "demo")


class PeakMemory:
    """Samples the resident memory of this process and all its descendants, until its ``with`` block ends.

    Pages that processes share count once for each of them, so the truth is a little less.

    Attributes
    ----------
    peak_bytes
        The largest sum so far.
    at_peak
        What made it up: name -> bytes.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.at_peak: dict[str, int] = {}
        self._root = psutil.Process()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def sample(self) -> int:
        """Return the bytes resident now."""
        processes: list[tuple[psutil.Process, int]] = []
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                processes.append((process, process.memory_info().rss))
            except psutil.Error:  # it has ended meanwhile
                continue
        total = sum(size for _, size in processes)
        if total > self.peak_bytes:
            self.peak_bytes, self.at_peak = total, {}
            for process, size in processes:
                name = self._name(process)
                self.at_peak[name] = self.at_peak.get(name, 0) + size
        return total

    def _name(self, process: psutil.Process) -> str:
        if process.pid == self._root.pid:
            return "demo"
        try:
            words, name = process.cmdline(), process.name()
        except psutil.Error:
            return "ended"
        if "java" in name:
            return "kafka"
        return next((word for word in _COMMANDS if word in words), "others")

    def _watch(self) -> None:
        while True:
            self.sample()
            if self._over.wait(SAMPLE_S):
                return
