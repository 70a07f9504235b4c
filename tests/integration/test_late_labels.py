"""``streamgauge model train`` on a recording whose labels come late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from late_labels import DAYS, LAWS, PER_DAY, SPECIFICATION, record

from app.cli import main
from models.versions.registry import Registry
from schemas.pipeline.file import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cards.toml").write_text(SPECIFICATION)
    return tmp_path


def run(folder: Path, *words: str, maturity: str = "21d") -> Result:
    file = folder / "cards.toml"
    file.write_text(SPECIFICATION.replace('"21d"', f'"{maturity}"'))
    home = {"STREAMGAUGE_HOME": str(folder / "home"), "STREAMGAUGE_REGISTRY": "", "STREAMGAUGE_KAFKA": ""}
    # From 13 September 2020 on, 70 days.
    days = ("--from", "2020-09-13T12:00", "--to", "2020-11-22T12:00")
    command = ["model", "train", "--family", "logistic", *days, "--recording", str(folder / "cards.parquet"), "--json"]
    return CliRunner().invoke(main, [*command, *words, "--pipeline", str(file)], env=home)


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_version_learns_the_rate_of_events_and_not_that_of_the_labels_that_are_here(folder: Path) -> None:
    path, pipeline = folder / "cards.parquet", load(folder / "cards.toml")
    truth = record(path, pipeline, LAWS["positives 1 to 20, negatives at 20"]).mean()
    result = run(folder)
    training = answer(result)["training"]
    facts = training["label_facts"]
    assert training["positive_share"] == pytest.approx(truth, rel=0.1)
    assert (
        training["rows"] == DAYS * PER_DAY == training["labelled_rows"] + facts["young_rows"] + facts["unlabelled_rows"]
    )
    assert facts["maturity_ms"] == 21 * 86_400_000
    assert f"{training['labelled_rows']:,} are learnt from. Left out: {facts['young_rows']:,} younger than 21 days" in (
        result.stderr
    )
    assert "half of the labels 1 come within 1" in result.stderr
    assert "nearly all labels 0 come at about 20 days" in result.stderr
    manifest, _ = Registry(folder / "home" / "registry").load(pipeline.model.name, "1.0.0")
    outcomes = manifest.read_reference().training.outcomes.sum(axis=1)
    assert outcomes.sum() == training["labelled_rows"]
    assert outcomes[1] / outcomes.sum() == training["positive_share"]

    weighed = answer(run(folder, "--immature", "weigh"))["training"]  # at no age are there negatives without the others
    assert weighed["label_facts"]["weighed_rows"] < 0.05 * weighed["labelled_rows"]

    hasty = run(folder, maturity="10d")
    assert hasty.exit_code == 1
    assert "set performance.maturity to 20 days, by which 99 % of either have come" in hasty.output


def test_young_events_are_fitted_on_where_that_is_asked_for(folder: Path) -> None:
    record(folder / "cards.parquet", load(folder / "cards.toml"), LAWS["exponential"])
    without, by_weight = (answer(run(folder, *words)) for words in ((), ("--immature", "weigh")))
    assert (without["version"], by_weight["version"]) == ("1.0.0", "1.1.0")
    assert without["training"]["label_facts"]["weighed_rows"] == 0
    assert by_weight["training"]["label_facts"]["weighed_rows"] > 2_000
    assert without["metrics"] == by_weight["metrics"]
    assert without["sha256"] != by_weight["sha256"]
