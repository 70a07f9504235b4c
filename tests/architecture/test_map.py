"""The map of the code is the code: each package and top module is on it, and all that documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Code map")[1].split("\n## ")[0]
PACKAGES = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for top in ("app", "models", "schemas", "streamgauge")
    for path in (ROOT / top).rglob("__init__.py")
    if "pipelines" not in path.parts
)
#: What documents tell people to open: paths from the root, with at least one folder.
PATHS = re.compile(r"`((?:app|models|schemas|streamgauge|tests|docs|scripts)/[\w./*-]+)`")
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_on_the_map(package: str) -> None:
    assert f"`{package}/`" in MAP


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is_for(package: str) -> None:
    first = (ROOT / package / "__init__.py").read_text(encoding="utf-8")

    assert re.match(r'"""[A-Z`].{20}', first), f"{package}/__init__.py opens with no docstring"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    named = PATHS.findall(document.read_text(encoding="utf-8"))
    absent = [path for path in named if not list(ROOT.glob(path.rstrip("/")))]

    assert absent == []


def test_a_path_that_is_not_there_is_noticed() -> None:
    (path,) = PATHS.findall("See `app/core/tiles/nothing.py`.")

    assert not list(ROOT.glob(path))
