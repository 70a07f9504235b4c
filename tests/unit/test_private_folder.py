"""What a stack keeps is for its owner alone, also where it was left open before; other folders stay as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.adapters.stack.private_folder import private_folder, private_home


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_that_is_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "a")) == 0o700
    assert mode(private_folder(tmp_path / "a")) == 0o700


def test_a_home_that_was_open_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("clickhouse", "kafka", "logs", "state", "registry", "demo-1"):
        (home / name).mkdir(parents=True)
    for name in ("run.json", "stack.lock", "run.json.17"):
        (home / name).touch()
    home.chmod(0o777)
    private_home(home)
    assert mode(home) == 0o700
    assert {path.name: mode(path) for path in home.iterdir()} == {
        **dict.fromkeys(["clickhouse", "kafka", "logs", "state", "demo-1"], 0o700),
        **dict.fromkeys(["run.json", "stack.lock", "run.json.17"], 0o600),
        "registry": 0o755,  # models are read by workers of others, too
    }


def test_a_folder_that_is_somebodys_own_is_not_closed_but_what_is_in_it_of_ours(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "kafka").mkdir()
    tmp_path.chmod(0o755)
    private_home(tmp_path)
    assert (mode(tmp_path), mode(tmp_path / "letters"), mode(tmp_path / "kafka")) == (0o755, 0o755, 0o700)


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    (home / "kafka").symlink_to(elsewhere)
    private_home(home)
    assert mode(elsewhere) == 0o755


def test_where_there_is_no_home_nothing_is_made(tmp_path: Path) -> None:
    private_home(tmp_path / "none")
    assert not (tmp_path / "none").exists()
