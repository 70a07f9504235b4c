"""What the import contracts cannot see: which libraries the core uses, and calls that are impure without an import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "app" / "core").rglob("*.py"))
# msgspec turns bytes into values and back, and does nothing else; the records of schemas are made of it.
LIBRARIES = {"numpy", "scipy.special", "msgspec", "app.core", "models", "schemas"}
IMPURE_NAMES = {"open", "print", "input", "breakpoint", "eval", "exec"}
IMPURE_ATTRIBUTES = {
    "now",
    "utcnow",
    "today",
    "random",
    "default_rng",
    "seed",
    "read_text",
    "write_text",
    "save",
    "load",
}


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{name.name}" for name in node.names)


def find_impurities(text: str) -> list[str]:
    tree = ast.parse(text)
    found = [
        f"imports {module}"
        for module in imported_modules(tree)
        if module.split(".")[0] not in sys.stdlib_module_names
        and not any(module == allowed or module.startswith(f"{allowed}.") for allowed in LIBRARIES)
    ]
    harmless: set[ast.AST] = set()
    for node in ast.walk(tree):
        # Draws that are the same each time are a function of their seed.
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.random.default_rng" and node.args:
            harmless.update(ast.walk(node.func))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "np.random.Generator":
            harmless.update(ast.walk(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_NAMES:
            found.append(f"line {node.lineno} calls {node.func.id}")
        elif isinstance(node, ast.Attribute) and node.attr in IMPURE_ATTRIBUTES and node not in harmless:
            found.append(f"line {node.lineno} uses .{node.attr}")
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_is_numpy_and_the_standard_library_without_effects(path: Path) -> None:
    assert find_impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pandas",
        "from scipy import stats",
        "from app.settings import Settings",
        "print(1)",
        "open('x')",
        "import numpy as np\nnp.random.rand()",
        "from datetime import datetime\ndatetime.now()",
    ],
)
def test_an_impurity_is_found(text: str) -> None:
    assert find_impurities(text) != []


def test_what_the_core_needs_is_not_an_impurity() -> None:
    text = "import math\nimport numpy as np\nfrom scipy.special import chdtrc\nfrom schemas.wire import Score"

    assert find_impurities(text) == []
