"""How much memory a process tree takes at most."""

from __future__ import annotations

import threading
from typing import Self

import psutil

SAMPLE_S = 0.5


class PeakMemory:
    """Samples the resident memory of this process and all its descendants, until its ``with`` block ends.

    Pages that processes share count once for each of them, so the truth is a little less.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
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
        total = 0
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it has ended meanwhile
                continue
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def _watch(self) -> None:
        while True:
            self.sample()
            if self._over.wait(SAMPLE_S):
                return
