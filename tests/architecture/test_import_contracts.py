"""The import contracts hold, and break when they should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONE_WAY = "Inside app, one way only"
CORE_ONE_WAY = "Inside the core, one way only"
ADAPTERS_ONE_WAY = "Inside the adapters, one way only"
MODELS_ONE_WAY = "Inside models, one way only"
SCHEMAS_ONE_WAY = "Inside schemas, one way only"
PIPELINE_ONE_WAY = "Inside the pipeline file, one way only"
PURE_CORE = "The core does no IO and reads no clock, chance, environment or log"
PACKAGES_IN_ORDER = "app knows models, models know schemas, schemas know nothing"
LIGHT_CLIENT = "A client knows what the hook takes and gives, and no more of ours"
CLIENT_ONE_WAY = "Inside the client, one way only"


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
    for package in ("app", "app/core", "app/adapters", "models", "schemas", "schemas/pipeline", "streamgauge"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


@pytest.mark.slow
def test_our_imports_keep_every_contract() -> None:
    code, report = lint_imports(ROOT)

    assert code == 0, report
    assert "0 broken" in report


@pytest.mark.slow
def test_the_smallest_tree_keeps_every_contract(copy: Path) -> None:
    code, report = lint_imports(copy)

    assert code == 0, report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "contract"),
    [
        ({"app/core/features/plan.py": "import os"}, PURE_CORE),
        ({"app/core/features/plan.py": "from time import time"}, PURE_CORE),
        ({"app/core/features/plan.py": "import schemas.clock", "schemas/clock.py": "import random"}, PURE_CORE),
        ({"app/core/features/plan.py": "def f():\n    import asyncio"}, PURE_CORE),
        ({"app/core/features/plan.py": "import app.adapters"}, ONE_WAY),
        ({"app/stray.py": ""}, ONE_WAY),
        ({"app/worker/worker.py": "import app.monitor.monitor", "app/monitor/monitor.py": ""}, ONE_WAY),
        ({"app/adapters/sources/features.py": "import app.worker.worker", "app/worker/worker.py": ""}, ONE_WAY),
        ({"app/core/stray.py": ""}, CORE_ONE_WAY),
        ({"app/core/drift/judge.py": "import app.core.alerts.book", "app/core/alerts/book.py": ""}, CORE_ONE_WAY),
        (
            {"app/core/drift/judge.py": "import app.core.performance.auc", "app/core/performance/auc.py": ""},
            CORE_ONE_WAY,
        ),
        ({"app/adapters/stray.py": ""}, ADAPTERS_ONE_WAY),
        (
            {"app/adapters/kafka/lag.py": "import app.adapters.http.page", "app/adapters/http/page.py": ""},
            ADAPTERS_ONE_WAY,
        ),
        ({"models/stray.py": ""}, MODELS_ONE_WAY),
        (
            {"models/scoring/fold.py": "import models.versions.trial", "models/versions/trial.py": ""},
            MODELS_ONE_WAY,
        ),
        ({"schemas/stray.py": ""}, SCHEMAS_ONE_WAY),
        ({"schemas/topics.py": "import schemas.wire", "schemas/wire.py": ""}, SCHEMAS_ONE_WAY),
        (
            {"schemas/pipeline/spec.py": "import schemas.pipeline.file", "schemas/pipeline/file.py": ""},
            PIPELINE_ONE_WAY,
        ),
        ({"models/scoring/scorer.py": "import app.core"}, PACKAGES_IN_ORDER),
        ({"schemas/wire.py": "import models"}, PACKAGES_IN_ORDER),
        ({"streamgauge/course.py": "import app.core"}, PACKAGES_IN_ORDER),
        ({"streamgauge/course.py": "import models"}, PACKAGES_IN_ORDER),
        ({"streamgauge/course.py": "import schemas.topics", "schemas/topics.py": "import numpy"}, LIGHT_CLIENT),
        ({"streamgauge/stray.py": ""}, CLIENT_ONE_WAY),
        ({"streamgauge/routes.py": "import streamgauge.course", "streamgauge/course.py": ""}, CLIENT_ONE_WAY),
    ],
)
def test_a_forbidden_import_breaks_its_contract(copy: Path, files: dict[str, str], contract: str) -> None:
    for name, text in files.items():
        file = copy / name
        for folder in (file.parent, *file.parent.parents):
            if folder == copy:
                break
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        file.write_text(text + "\n")

    code, report = lint_imports(copy)

    assert code == 1, report
    assert f"{contract} BROKEN" in report
