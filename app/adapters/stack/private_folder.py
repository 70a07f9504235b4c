"""Folders that only their owner may read, since a stack keeps other people's data."""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from pathlib import Path

#: What a home holds. A folder that holds anything else (somebody's own, /tmp) is not ours to close as a whole.
_OURS = re.compile(r"clickhouse|kafka|logs|state|stack\.lock|run\.json.*|demo-\d+")
#: Models and marks, which need not be hidden.
_OPEN = re.compile(r"registry|failed")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may read, or close one that exists; `OSError` when it cannot be made."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_to_others(folder)
    return folder


def private_home(home: Path) -> None:
    """Close a home and all that it holds, however it was made; do nothing where there is no home."""
    if not home.is_dir():
        return
    entries = list(home.iterdir())
    ours = [entry for entry in entries if _OURS.fullmatch(entry.name)]
    for entry in ours:
        close_to_others(entry)
    if all(entry in ours or _OPEN.fullmatch(entry.name) for entry in entries):
        close_to_others(home)


def close_to_others(path: Path) -> None:
    """Take away the rights of others; do nothing with what belongs to somebody else."""
    with suppress(OSError):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & _OTHERS and not path.is_symlink():
            path.chmod(mode & ~_OTHERS)
