"""What the wheel holds: four packages, all of their files, nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "models", "schemas", "streamgauge")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_has_exactly_our_top_level_names(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    (metadata,) = {top for top in tops if top.endswith(".dist-info")}

    assert tops == {*PACKAGES, metadata}
    assert metadata.startswith("streamgauge-")


def test_every_file_of_the_packages_is_in_the_wheel(wheel_names: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert files <= wheel_names, f"missing: {sorted(files - wheel_names)}"


@pytest.mark.parametrize("suffix", [".toml", ".sql", ".py"])
def test_the_schemas_travel_with_the_wheel(wheel_names: set[str], suffix: str) -> None:
    assert any(name.startswith("schemas/") and name.endswith(suffix) for name in wheel_names)


@pytest.mark.slow
def test_a_pipeline_travels_with_its_own_python(wheel_names: set[str]) -> None:
    assert any(name.startswith("schemas/pipelines/") and name.endswith(".py") for name in wheel_names)


def test_each_package_has_its_init(wheel_names: set[str]) -> None:
    assert {f"{package}/__init__.py" for package in PACKAGES} <= wheel_names
