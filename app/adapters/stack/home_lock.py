"""A lock on a folder, held by one live process at a time; the kernel frees it when that process dies."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from app.exits import StackError

if TYPE_CHECKING:
    from pathlib import Path


class HomeLock:
    """An exclusive lock on a file, which names its holder.

    Parameters
    ----------
    path
        The lock file; made when missing, never deleted (a deleted lock file can be locked twice).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock when it is free. `StackError` when the file cannot be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StackError(
                f"Cannot write {self.path} ({error.strerror}): choose a folder you may write to, "
                "by --home or STREAMGAUGE_HOME for the home, by STREAMGAUGE_CACHE for the cache."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._hold(descriptor)
        return True

    def acquire(self) -> None:
        """Take the lock, waiting for its holder."""
        if self._descriptor is None and not self.try_acquire():
            descriptor = os.open(self.path, os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._hold(descriptor)

    def release(self) -> None:
        """Let go; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> int | None:
        """Return the id of the process that holds it, as the lock file says; None when the file says nothing."""
        try:
            text = self.path.read_text()
        except OSError:
            return None
        return int(text) if text.strip().isdigit() else None

    def _hold(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
