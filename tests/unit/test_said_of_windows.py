"""What commands say of a pipeline's windows: what they saw of the past, and why a replay may differ."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from app.cli.replay import describe_check
from app.cli.score import describe_windows
from app.core.replay.score_check import ScoreCheck
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import Score, Source

HEAD = """
name = "cards"
[model]
target = "is fraud"
[events]
entity = "card"
id = "id"
time = "at"
[events.fields]
id = "string"
card = "string"
at = "int"
[labels]
horizon = "1d"
[[features]]
name = "hour"
type = "int"
expression = "at % 24"
"""
OF_EVENTS = """
[[features]]
name = "count_1h"
type = "int"
window = { of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "count" }
"""
OF_LABELS = """
[[features]]
name = "fraud_1d"
type = "float"
window = { of = "labels", key = ["card"], size = "1d", hop = "1h", aggregate = "mean", field = "label" }
"""


def pipeline(tmp_path: Path, *windows: str) -> Pipeline:
    path = tmp_path / "cards.toml"
    path.write_text("".join((HEAD, *windows)))
    return load(str(path))


@pytest.mark.parametrize(
    ("windows", "with_labels", "expected"),
    [
        ((), False, []),
        ((OF_EVENTS,), False, ["events: count_1h"]),
        ((OF_EVENTS, OF_LABELS), False, ["fraud_1d.", "events: count_1h"]),
        ((OF_EVENTS, OF_LABELS), True, ["events and labels: count_1h, fraud_1d"]),
        ((OF_LABELS,), False, ["fraud_1d."]),
        ((OF_LABELS,), True, ["labels: fraud_1d"]),
    ],
)
def test_a_batch_score_says_which_windows_are_empty_and_which_begin_so(
    tmp_path: Path, windows: tuple[str, ...], with_labels: bool, expected: list[str]
) -> None:
    lines = {
        "fraud_1d.": "No --labels were given, so these windows over labels are empty: fraud_1d.",
        **{
            f"{what}: {names}": (
                f"These windows see only the {what} of the {files}, and nothing that came before: {names}."
            )
            for what, files, names in (
                ("events", "file", "count_1h"),
                ("labels", "files", "fraud_1d"),
                ("events and labels", "files", "count_1h, fraud_1d"),
            )
        },
    }
    found = describe_windows(pipeline(tmp_path, *windows), with_labels=with_labels)
    assert found == [lines[each] for each in expected]


def checked(replayed: float, by: str = "1.0.0") -> ScoreCheck:
    def score(value: float, version: str) -> bytes:
        source = Source("cards.events", 0, 0)
        return msgspec.json.encode(
            Score("e0", "c", 5, value, False, "m", version, "champion", "f", source, scored_at_ms=1)
        )

    check = ScoreCheck()
    check.add_recorded(score(0.25, "1.0.0"))
    check.add_replayed(0, 0, score(replayed, by))
    return check


def test_labels_that_came_late_are_named_where_they_can_be_the_cause(tmp_path: Path) -> None:
    hint = (
        "Labels that came after later events are a possible cause: the stream's windows over labels were without them"
        " (docs/pipeline-file.md, Events and labels)."
    )
    with_labels = pipeline(tmp_path, OF_EVENTS, OF_LABELS)
    assert hint in describe_check(checked(0.3), with_labels)
    assert hint not in describe_check(checked(0.25), with_labels)
    assert hint not in describe_check(checked(0.3, by="2.0.0"), with_labels)  # another version has other scores
    assert hint not in describe_check(checked(0.3), pipeline(tmp_path, OF_EVENTS))
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "pipeline-file.md").read_text(encoding="utf-8").split("\n## Events and labels\n")[1]
    assert "acknowledged" in text.split("\n## ")[0]
