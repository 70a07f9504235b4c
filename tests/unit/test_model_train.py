"""``streamgauge model train`` as it is typed, where no Kafka is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from core_setting import DAY_MS, START_MS
from late_labels import LAWS, SPECIFICATION, record

from app.cli import main
from app.core.labels.held import say_time
from schemas.pipeline.file import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cards.toml").write_text(SPECIFICATION)
    return tmp_path


def train(folder: Path, recording: Path, from_day: int = 0, to_day: int = 70) -> Result:
    begin, end = (say_time(START_MS + day * DAY_MS) for day in (from_day, to_day))
    words = ["model", "train", "--family", "logistic", "--from", begin, "--to", end, "--recording", str(recording)]
    environment = {"STREAMGAUGE_HOME": str(folder / "home"), "STREAMGAUGE_KAFKA": "", "STREAMGAUGE_REGISTRY": ""}
    return CliRunner().invoke(main, [*words, "--pipeline", str(folder / "cards.toml")], env=environment)


@pytest.mark.slow
def test_a_version_that_knows_something_is_told_with_its_measures_and_registered(folder: Path) -> None:
    record(folder / "r.parquet", load(folder / "cards.toml"), LAWS["all at 20 days"])
    result = train(folder, folder / "r.parquet", 26)
    assert result.exit_code == 0, result.output
    about, measured, where = result.stdout.splitlines()
    assert about.startswith("fraud 1.0.0 (logistic) on ")
    assert measured.startswith("On the newest ")
    assert " if none were decided positive)." in measured
    assert where.startswith("Registered at ")
    assert "Nobody can say" not in result.stderr
    assert "Windows are empty" not in result.stderr


@pytest.mark.slow
def test_a_version_that_knows_nothing_is_noted_before_it_is_registered(folder: Path) -> None:
    record(folder / "r.parquet", load(folder / "cards.toml"), LAWS["all at 20 days"])
    text = (folder / "cards.toml").read_text().replace('expression = "amount"', 'expression = "at % 7"')
    (folder / "cards.toml").write_text(text)
    result = train(folder, folder / "r.parquet", 26)
    assert result.exit_code == 0, result.output
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    assert any("Do not promote it" in note for note in notes), notes


@pytest.mark.slow
def test_a_range_without_events_ends_with_one_sentence(folder: Path) -> None:
    record(folder / "r.parquet", load(folder / "cards.toml"), LAWS["all at 20 days"])
    result = train(folder, folder / "r.parquet", 100, 131)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: No event lies between ")


def test_a_pipeline_without_labels_has_nothing_to_learn_from(folder: Path) -> None:
    record(folder / "r.parquet", load(folder / "cards.toml"), LAWS["all at 20 days"])
    text = SPECIFICATION.replace('[labels]\nhorizon = "30d"\n', "")
    (folder / "cards.toml").write_text(text.replace('of = "labels"', 'of = "events"'))
    result = train(folder, folder / "r.parquet")
    assert result.exit_code == 2
    assert "has no [labels]" in result.output
    assert "horizon" in result.output
