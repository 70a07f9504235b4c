"""The import contracts hold, and break when they should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONE_WAY = "Inside app, one way only"
PURE_CORE = "The core does no IO and reads no clock, chance, environment or log"
PACKAGES_IN_ORDER = "app knows models, models know schemas, schemas know nothing"


def lint_imports(root: Path) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "", "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A tree with our contracts and the smallest packages that keep them."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("app", "app/core", "app/adapters", "models", "schemas"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def test_our_imports_keep_every_contract() -> None:
    code, report = lint_imports(ROOT)

    assert code == 0, report
    assert "0 broken" in report


def test_the_smallest_tree_keeps_every_contract(copy: Path) -> None:
    code, report = lint_imports(copy)

    assert code == 0, report


@pytest.mark.parametrize(
    ("files", "contract"),
    [
        ({"app/core/features.py": "import os"}, PURE_CORE),
        ({"app/core/features.py": "from time import time"}, PURE_CORE),
        ({"app/core/features.py": "import schemas.clock", "schemas/clock.py": "import random"}, PURE_CORE),
        ({"app/core/features.py": "def f():\n    import asyncio"}, PURE_CORE),
        ({"app/core/features.py": "import app.adapters"}, ONE_WAY),
        ({"app/stray.py": ""}, ONE_WAY),
        ({"app/worker.py": "import app.monitor", "app/monitor.py": ""}, ONE_WAY),
        ({"app/bootstrap.py": "import app.worker", "app/worker.py": ""}, ONE_WAY),
        ({"models/scorer.py": "import app.core"}, PACKAGES_IN_ORDER),
        ({"schemas/wire.py": "import models"}, PACKAGES_IN_ORDER),
    ],
)
def test_a_forbidden_import_breaks_its_contract(copy: Path, files: dict[str, str], contract: str) -> None:
    for name, text in files.items():
        (copy / name).write_text(text + "\n")

    code, report = lint_imports(copy)

    assert code == 1, report
    assert f"{contract} BROKEN" in report
