"""The report says what was found, a failure included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chaos_report import Figure, Row, record, render, restore, seed_of, take_recorded, write


def test_any_count_above_nought_fails_a_row() -> None:
    assert Row("P1", "kill", lost=0, doubled=0, conflicting=0, wrong_counts=0, open_transactions=0).judged().passed
    for field in ("lost", "doubled", "conflicting", "wrong_counts", "open_transactions"):
        assert not Row("P1", "kill", **{field: 1}).judged().passed  # type: ignore[arg-type]  # each is a count


def test_identical_repetitions_are_no_breach_of_at_least_once() -> None:
    assert Row("P2", "kill", doubled=7, conflicting=0, doubled_is_allowed=True).judged().passed
    assert not Row("P2", "kill", doubled=7, conflicting=1, doubled_is_allowed=True).judged().passed


def test_a_missed_goal_is_said_and_fails_nothing(tmp_path: Path) -> None:
    row = Row("P7", "leave", figures=(Figure("hand-over", 12.0, "s", goal=10.0),)).judged()
    write(tmp_path, [row])
    assert row.passed
    assert "| hand-over | 12 s | ≤ 10 s | missed |" in (tmp_path / "table.md").read_text()
    [saved] = json.loads((tmp_path / "results.json").read_text())
    assert saved["figures"] == [{"name": "hand-over", "value": 12.0, "unit": "s", "goal": 10.0, "met": False}]


def test_promises_are_listed_in_their_order_and_controls_last() -> None:
    rows = [Row(name, "f").judged() for name in ("control", "P10", "P2", "P1/P2/P3")]
    found = [line.split(" ")[1] for line in render(rows).splitlines()[2:]]
    assert found == ["P1/P2/P3", "P2", "P10", "control"]


def test_a_seed_is_that_of_the_test_or_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMGAUGE_CHAOS_SEED", raising=False)
    assert seed_of("a") == seed_of("a") != seed_of("b")
    monkeypatch.setenv("STREAMGAUGE_CHAOS_SEED", "41")
    assert seed_of("a") == 41


def test_a_row_reaches_another_process_as_it_was() -> None:
    row = record(Row("P7", "leave", seed=3, figures=(Figure("hand-over", 12.0, "s", goal=10.0),)))
    [carried] = take_recorded()
    assert restore(json.loads(json.dumps(carried))) == row
    assert take_recorded() == []
