"""Disks that are full: what processes write there fails until it is over."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

#: A way to fill a disk: for whom, and the folder; what it yields fills it (True) and makes space again (False).
Disk = Callable[[Callable[[], Iterable[int]], Path], AbstractContextManager[Callable[[bool], None]]]

#: No file may grow beyond this: less than a block of scores or the log of a state, more than the log of a process.
LIMIT_BYTES = 48 << 10
DISK_BYTES = 48 << 20
LEFT_BYTES = 256 << 10


@contextmanager
def limited(pids: Callable[[], Iterable[int]], _: Path) -> Iterator[Callable[[bool], None]]:
    """A limit on the size of files, which needs no rights, for the processes that there are when it is set."""

    def fill(is_full: bool) -> None:
        soft = LIMIT_BYTES if is_full else resource.RLIM_INFINITY
        for pid in pids():
            with suppress(ProcessLookupError):  # it has just ended
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    yield fill


@contextmanager
def small_disk(_: Callable[[], Iterable[int]], path: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of its own, filled up."""
    path.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root; the limit on file sizes is tested anyway")
    ballast = path / "ballast"

    def fill(is_full: bool) -> None:
        if is_full:
            found = os.statvfs(path)
            with ballast.open("ab") as file:
                file.write(bytes(max(found.f_bavail * found.f_bsize - LEFT_BYTES, 0)))
        else:
            ballast.unlink()

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
