"""The figures of payments say what was counted: which law is worst, and where something is promised."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from app.evaluation import payments_section
from app.evaluation.goals import GOALS
from app.evaluation.payment_changes import BY_LABELS, CHANGES
from app.evaluation.payment_stream import PaymentLaw
from app.evaluation.payments import RUNS, Said
from app.evaluation.payments_section import measure_payments
from app.evaluation.run import EvaluationRun, Sizes

RARE, USUAL, OFTEN = (PaymentLaw(base_rate, "split", "uniform") for base_rate in (0.001, 0.01, 0.2))
KINDS = {change.name: min(change.kind) for change in CHANGES}


def quiet(task: tuple[int, PaymentLaw, int]) -> list[Counter[str]]:
    """Two of 20 windows alarm at 20 % frauds, ten times as many as declared; none elsewhere."""
    return [Counter(all=2, alert=2) if task[1] == OFTEN else Counter() for _ in range(RUNS)]


def changed(task: tuple[int, PaymentLaw, int]) -> dict[str, list[Said]]:
    """Rare frauds tell nothing; a lower AUC is found four times of five at 1 %, where the oracle always finds it."""
    law = task[1]
    found = {}
    for name, kind in KINDS.items():
        right = 0 if law == RARE else 4 if (law, name) == (USUAL, "auc-0.05") else RUNS
        found[name] = [Said(kind if at < right else "none", True, law != RARE, at < 4) for at in range(RUNS)]
    return found


def delayed(task: tuple[int, PaymentLaw, int]) -> dict[str, float]:
    """Rare frauds: never; else in the third window."""
    return {change.name: math.inf if task[1] == RARE else 3.0 for change in BY_LABELS}


def undisturbed(task: tuple[int, PaymentLaw, int]) -> dict[str, Counter[str]]:
    return {"a stream begins": Counter(), "versions swap during a backlog": Counter(all=int(task[1] == OFTEN))}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRun:
    folder = tmp_path_factory.mktemp("payments")
    run = EvaluationRun(lambda _: None, Sizes(20 * RUNS), folder / "report", folder / "cache", seed=3)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LAWS", "CHANGING"):
            patch.setattr(payments_section, name, (RARE, USUAL, OFTEN))
        for work in (quiet, changed, delayed, undisturbed):
            patch.setattr(payments_section, work.__name__, work)
        measure_payments(run)
    run.figures.judge(GOALS)
    return run


@pytest.mark.slow
def test_false_alarms_are_per_declared_one_and_laws_that_surely_have_too_many_are_counted(run: EvaluationRun) -> None:
    value = run.figures.value
    assert value(f"payments.{USUAL.name}.all.achieved") == 0
    assert value(f"payments.{OFTEN.name}.all.achieved") == pytest.approx(10)
    assert value("payments.quiet") == pytest.approx(10 / 3)
    assert value("payments.quiet.above") == 1
    low, high = run.figures.spreads[f"payments.{OFTEN.name}.all.achieved"]
    assert 5 < low < 10 < high < 20


@pytest.mark.slow
def test_the_worst_law_counts_where_something_is_promised(run: EvaluationRun) -> None:
    value = run.figures.value
    assert value("payments.worst.auc-0.05.right") == 80
    assert value("payments.worst.auc-0.05.of_oracle") == pytest.approx(0.8)
    assert value("payments.worst.reversed.right") == 100  # nothing is promised of 0.1 % frauds
    assert value("payments.worst.unit.right") == 0  # what events alone tell is
    assert value(f"payments.{USUAL.name}.auc-0.05.of_oracle_of_scores") == pytest.approx(1)
    assert value(f"payments.{RARE.name}.reversed.oracle") is None
    low, high = run.figures.spreads[f"payments.{USUAL.name}.auc-0.05.right"]
    assert 58 < low < 80 < high < 92


@pytest.mark.slow
def test_a_delay_counts_the_first_window_and_at_most_as_many_as_are_waited_for(run: EvaluationRun) -> None:
    value = run.figures.value
    assert value(f"payments.{USUAL.name}.segment.delay") == 3  # of one reference in four
    assert value(f"payments.{RARE.name}.segment.delay") == 10


@pytest.mark.slow
def test_what_is_said_adds_up_over_kinds_and_all_laws(run: EvaluationRun) -> None:
    for change in CHANGES:
        shares = [figure.value for name, figure in run.figures.found.items() if f".said.{change.name}." in name]
        assert sum(shares) == pytest.approx(100), change.name  # type: ignore[arg-type]
    assert run.figures.value("payments.said.reversed.none") == pytest.approx(100 / 3)


def test_goals_are_judged_by_what_was_counted(run: EvaluationRun) -> None:
    met = {name: figure.met for name, figure in run.figures.found.items() if name.startswith("goal.payments")}
    assert {name for name, each in met.items() if each} == {
        "goal.payments.reversed", "goal.payments.auc-0.05", "goal.payments.auc-0.10", "goal.payments.segment",
        "goal.payments.frauds-1.5", "goal.payments.frauds-2",
    }  # fmt: skip
    assert run.figures.value("payments.undisturbed") == pytest.approx(100 * 5 / 6)
