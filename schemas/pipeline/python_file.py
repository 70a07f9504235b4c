"""Where the Python function of a feature stands, found without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path


def find_python_file(reference: str, folder: Path) -> Path | None:
    """The source file of "file.py:function" or "package.module:function"; None when there is none."""
    module = reference.partition(":")[0]
    if module.endswith(".py"):
        path = folder / module
        return path if path.is_file() else None
    places: Sequence[str] | None = None
    for name in module.split("."):  # step by step: importlib.util would import, and so run, what the module is in
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    return Path(spec.origin) if spec is not None and spec.origin else None
