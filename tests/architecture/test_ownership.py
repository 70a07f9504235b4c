"""The guard against a second distribution with our top-level names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.ownership import OwnershipError, refuse_second_owner

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("owners", [{}, {"app": ["streamgauge"], "models": ["streamgauge"]}, {"numpy": ["numpy"]}])
def test_our_own_packages_are_accepted(owners: dict[str, list[str]]) -> None:
    refuse_second_owner(owners)


@pytest.mark.parametrize("package", ["app", "models", "schemas", "streamgauge"])
def test_a_second_owner_of_any_of_our_packages_is_refused_by_name(package: str) -> None:
    with pytest.raises(OwnershipError, match=f"distribution intruder also installs a package named {package}"):
        refuse_second_owner({package: ["streamgauge", "intruder"]})


@pytest.mark.slow
def test_the_command_refuses_to_run_beside_a_second_owner(tmp_path: Path) -> None:
    metadata = tmp_path / "intruder-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("models/__init__.py,,\n")
    (tmp_path / "models").mkdir()  # newer Pythons count only files that are there
    (tmp_path / "models" / "__init__.py").touch()
    program = f"import sys; sys.path.append({str(tmp_path)!r}); from app.__main__ import main; main()"

    ran = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert "intruder" in ran.stderr


@pytest.mark.slow
def test_the_command_runs_where_nobody_else_owns_our_names() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app", "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert ran.returncode == 0, ran.stderr
