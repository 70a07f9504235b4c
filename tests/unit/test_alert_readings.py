"""A window decides what it can know: nothing is raised or cleared by one that cannot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.alerts.book import AlertBook
from app.core.alerts.readings import (
    ABSENT,
    OF_LABELS,
    RULED_OUT,
    Limit,
    Reading,
    ask,
    is_awaited,
    read_performance,
    read_verdict,
)
from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.faults.fault import Fault
from app.core.findings import PerformanceRow
from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.estimation import compare
from app.core.performance.measures import FEWEST_OF_EITHER, measure
from app.core.verdict.decide import Verdict, decide
from app.core.verdict.situation import Misfit, Performance, RateChange, Situation
from app.core.verdict.words import Change
from models.reference.reference import Counts
from models.reference.units import COUNT_UNITS
from schemas.pipeline.spec import MINIMUM_EFFECTS, AlertRule

KINDS = ("pipeline_fault", "label_prior_drift", "concept_drift", "score_drift", "feature_drift")
DAY = 86_400_000


def window(number: int) -> Window:
    return Window(number * DAY, (number + 1) * DAY)


# -- verdicts ----------------------------------------------------------------------------------------------------------

TENTHS = tuple(float(n) for n in range(10))
MOVED = {
    "feature_drift": Change("amount", "numeric", 0.4, TENTHS, TENTHS),
    "score_drift": Change("score", "score", 0.4, TENTHS, TENTHS),
    "label_prior_drift": Change("outcome", "outcome", 0.4, shares_before=(0.9, 0.1), shares_now=(0.5, 0.5)),
}


def situation_of(facts: frozenset[str], *, with_labels: bool) -> Situation:
    """A window of which so much is so.

    ``in part``: the concept drift is one of a segment, which a moved prior hides; ``foreseen``: the prior has moved as
    scores say, which what has moved the scores hides.
    """
    changes = [change for kind, change in MOVED.items() if kind in facts and (with_labels or kind not in OF_LABELS)]
    moved = {"p_direction": 0.0, "gap": 0.5, "rate_expected": 0.1, "rate_realised": 0.5}
    is_off = "label_prior_drift" in facts and "foreseen" not in facts
    misfit = Misfit(**(moved if is_off else {}))
    blind = Misfit(p_order=0.0, losses={"auc": 9.0})
    segments: tuple[Misfit, ...] = ()
    if "concept_drift" in facts and "in part" in facts:
        segments = (replace(blind, segment="k=a"),)
    elif "concept_drift" in facts:
        misfit = replace(misfit, p_order=blind.p_order, losses=blind.losses)
    fault = Fault("constant", ("amount",), "`amount` is constant.", 0.1)
    return Situation(
        n=5_000,
        n_reference=50_000,
        changes=tuple(changes),
        faults=(fault,) if "pipeline_fault" in facts else (),
        misfit=misfit if with_labels else None,
        misfits=segments if with_labels else (),
        rate=RateChange(
            reference=0.1,
            detection=(0.5 if is_off else 0.1) if with_labels else math.nan,
            p_value=(0.0 if is_off else 0.9) if with_labels else math.nan,
        ),
        performance=Performance("AUC", 0.2, expected=0.9, is_realised=with_labels),
    )


FACTS = [frozenset(name for name, is_so in zip((*KINDS, "in part", "foreseen"), so, strict=True) if is_so)
         for so in product([False, True], repeat=7)]  # fmt: skip


def counts_of(negative: int, positive: int) -> Counts:
    counts = Counts.zeros(3, 4, 2)
    counts.outcomes[:, 0] = negative, positive
    return counts


def read(facts: frozenset[str], *, with_labels: bool, counts: Counts | None = None) -> Reading:
    verdict = decide(situation_of(facts, with_labels=with_labels))
    return read_verdict(verdict, counts or counts_of(900, 100), with_labels=with_labels)


@pytest.mark.slow
@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_says_no_to_a_kind_only_where_it_is_not_so_and_yes_only_where_it_is(
    kind: str, with_labels: bool
) -> None:
    """Of all that may be so at once, with labels and without: whatever the precedence of verdicts hides."""
    rule = AlertRule("a", "verdict", "verdict", kinds=(kind,))
    answers = set()
    for facts in FACTS:
        answer = ask(rule, [Limit(0.0, "above", 0.0)], read(facts, with_labels=with_labels))
        answers.add(answer.beyond)
        assert answer.back == (None if answer.beyond is None else not answer.beyond)
        if answer.beyond is not None:
            assert answer.beyond == (kind in facts)
    can_be_said = with_labels or kind not in OF_LABELS
    assert answers == ({True, False, None} if can_be_said else {None}) - ({None} if kind == "pipeline_fault" else set())


@pytest.mark.parametrize(("kind", "with_labels"), sorted(RULED_OUT))
def test_what_a_verdict_rules_out_is_what_it_would_have_said(kind: str, with_labels: bool) -> None:
    """The table says all that may be known: what it leaves open is so in one situation of that verdict, not in another.

    The prior alone is left open more often: it is hidden when its scores have moved, too.
    """
    found = [facts for facts in FACTS if decide(situation_of(facts, with_labels=with_labels)).kind == kind]
    for other in set(KINDS) - {kind}:
        is_ever_so = any(other in facts for facts in found)
        if other in RULED_OUT[kind, with_labels]:
            assert not is_ever_so
        elif with_labels or other not in OF_LABELS:
            assert is_ever_so, other


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: ",".join(sorted(facts)))
def test_rules_that_need_no_labels_hear_the_same_before_and_after_these_have_come(facts: frozenset[str]) -> None:
    for kind in set(KINDS) - OF_LABELS:
        rule = AlertRule("a", "verdict", "verdict", kinds=(kind,))
        before, after = (
            ask(rule, [Limit(0.0, "above", 0.0)], read(facts, with_labels=with_labels)) for with_labels in (False, True)
        )
        assert before == after


@pytest.mark.parametrize("kind", ["too_little_data", "no_reference"])
@pytest.mark.parametrize("with_labels", [True, False])
def test_a_verdict_on_too_little_says_nothing_to_any_rule(kind: str, with_labels: bool) -> None:
    verdict = Verdict(kind, "Too little.", (), (), None, decide(Situation(1, 1)).advice, kind, ())  # type: ignore[arg-type]
    reading = read_verdict(verdict, counts_of(50, 50), with_labels=with_labels)
    assert (reading.says, reading.rules_out) == ((), ())


@pytest.mark.parametrize(
    ("counts", "knows"), [((900, 10), True), ((900, 9), False), ((9, 900), False), ((0, 0), False)]
)
def test_of_few_labels_of_either_kind_a_verdict_neither_says_nor_rules_out_what_only_they_show(
    counts: tuple[int, int], knows: bool
) -> None:
    """But for their share, which labels of one kind alone show as well: that there is no other."""
    reading = read(frozenset(), with_labels=True, counts=counts_of(*counts))
    assert set(reading.rules_out) == set(KINDS) - (set() if knows else OF_LABELS)
    concept = read(frozenset({"concept_drift"}), with_labels=True, counts=counts_of(*counts))
    assert concept.says == ((("concept_drift", ""),) if knows else ())
    prior = read(frozenset({"label_prior_drift"}), with_labels=True, counts=counts_of(*counts))
    assert prior.says == (("label_prior_drift", ""),)
    assert FEWEST_OF_EITHER == 10


def test_a_rule_of_several_kinds_hears_yes_of_any_and_no_of_all() -> None:
    rule = AlertRule("a", "verdict", "verdict", kinds=("concept_drift", "pipeline_fault"))
    limits = [Limit(0.0, "above", 0.0)]

    def hear(facts: Iterable[str], *, with_labels: bool) -> bool | None:
        return ask(rule, limits, read(frozenset(facts), with_labels=with_labels)).beyond

    assert hear([], with_labels=False) is None
    assert hear([], with_labels=True) is False
    assert hear(["pipeline_fault"], with_labels=False) is True
    assert hear(["concept_drift"], with_labels=True) is True
    assert hear(["feature_drift"], with_labels=True) is False
    assert hear(["label_prior_drift"], with_labels=True) is None


def test_a_fault_is_of_the_fields_that_senders_know_each_named_once() -> None:
    faults = (
        Fault("unit_changed", ("log_amount", "amount_mean"), "`amount` is larger.", 0.9, fields=("amount",)),
        Fault("constant", ("kind",), "`kind` is constant.", 0.8),
        Fault("traffic_missing", (), "There are no events.", 0.8),
        Fault("nulls", ("amount_mean",), "`amount` is null.", 0.3, fields=("amount",)),  # type: ignore[arg-type]
    )
    verdict = decide(replace(situation_of(frozenset(), with_labels=False), faults=faults))
    reading = read_verdict(verdict, counts_of(0, 0), with_labels=False)
    assert reading.says == tuple(("pipeline_fault", name) for name in ("amount", "kind", "traffic"))


def test_what_a_window_says_is_the_same_after_json() -> None:
    for facts in FACTS:
        reading = read(facts, with_labels=True)
        assert repr(Reading.from_state(json.loads(json.dumps([*reading])))) == repr(reading)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_awaited_by_rules_on_what_labels_show_until_these_are_here(kind: str) -> None:
    rule = AlertRule("a", "verdict", "verdict", kinds=(kind,))
    for with_labels in (True, False):
        assert is_awaited(rule, read(frozenset(), with_labels=with_labels)) == (kind in OF_LABELS and not with_labels)
        assert not is_awaited(rule, ABSENT)
    assert not is_awaited(AlertRule("b", "performance", "auc", below=0.7), Reading(0.6))


# -- ranges ------------------------------------------------------------------------------------------------------------

BOUNDS = st.floats(0, 1)


@pytest.mark.slow
@given(BOUNDS, BOUNDS, BOUNDS, BOUNDS, st.booleans())
def test_a_measure_is_beyond_or_back_as_far_as_its_whole_range_is(
    one: float, another: float, limit: float, margin: float, is_below: bool
) -> None:
    low, high = sorted([one, another])
    side = "below" if is_below else "above"
    milder = limit + margin if is_below else limit - margin
    rule = AlertRule("a", "performance", "auc")
    values = np.linspace(low, high, 9)
    beyond = values < limit if is_below else values > limit
    not_back = values < milder if is_below else values > milder
    answer = ask(rule, [Limit(limit, side, milder)], Reading((low + high) / 2, "", low, high))  # type: ignore[arg-type]
    assert answer.beyond == (bool(beyond.all()) if len(set(beyond.tolist())) == 1 else None)
    assert answer.back == (not not_back.all() if len(set(not_back.tolist())) == 1 else None)


def test_a_value_without_a_range_that_is_known_decides_nothing() -> None:
    rule, limits = AlertRule("a", "performance", "log_loss"), [Limit(0.5, "above", 0.4)]
    for reading in (Reading(0.9, "", math.nan, math.nan), Reading(), ABSENT):
        assert ask(rule, limits, reading)[:2] == (None, None)


# -- what scores promise -----------------------------------------------------------------------------------------------

CELLS = 200


def rates(base: float) -> np.ndarray:
    """How often a score of each cell comes true, for so many positives in all: an AUC of about 0.87."""
    odds = np.exp(np.linspace(-4.5, 4.5, CELLS)) ** 0.9
    low, high = 1e-9, 1e9
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if (odds * middle / (1 + odds * middle)).mean() < base else (low, middle)
    return odds * low / (1 + odds * low)


def make_calibration(base: float, n: int = 1_000_000, effects: dict[str, float] | None = None) -> Calibration:
    events = np.full(CELLS, n // CELLS)
    positive = np.random.default_rng(3).binomial(events, rates(base))
    return fit_calibration(np.array([events - positive, positive]), CELLS // 2, rates(base), effects or {})


class Labels:
    """Windows of labelled events on a seed; ``relation`` turns how often a cell comes true."""

    def __init__(self, base: float, seed: int) -> None:
        self.base = base
        self.generator = np.random.default_rng(seed)

    def draw(self, n: int, *, turned: float = 0.0) -> Counts:
        """``turned``: of so large a share the scores say the opposite."""
        rate = rates(self.base)
        rate = (1 - turned) * rate + turned * rate[::-1]
        cells = self.generator.integers(0, CELLS, n)
        labels = self.generator.random(n) < rate[cells]
        return self.count(cells, labels)

    def count(self, cells: np.ndarray, labels: np.ndarray) -> Counts:
        counts = Counts.zeros(3, CELLS, CELLS)
        counts.n = len(cells)
        counts.outcomes[:] = [np.bincount(cells[labels == label], minlength=CELLS) for label in (0, 1)]
        scores = rates(self.base)[cells]
        counts.log_loss_sum = int(-np.log(np.where(labels, scores, 1 - scores)).sum() * COUNT_UNITS)
        counts.n_correct = int(((cells >= CELLS // 2) == labels).sum())
        return counts


def read_window(
    counts: Counts, calibration: Calibration, alpha: float = 0.001, *, label_effect: float = 1.0
) -> dict[str, Reading]:
    due = {each.name: each for each in compare(calibration, counts.outcomes)}
    rows = [
        PerformanceRow(
            *("p", "m", "1", ALL, 0, 1, each.name),
            *(math.nan, math.nan, math.nan),
            *(each.realised, each.low, each.high, due[each.name].expected, due[each.name].p_value),
            *(counts.n_labels, 1.0, 1),
        )
        for each in measure(counts, calibration)
    ]
    return read_performance(
        rows, counts, calibration, alpha, minimum_effects=MINIMUM_EFFECTS, label_effect=label_effect
    )


PROMISED = AlertRule("worse", "performance", "auc", below_expected=True, clears_after=2, minimum_effect=0.02)


def follow(rule: AlertRule, readings: Iterable[Reading]) -> list[tuple[int, str]]:
    book, said = AlertBook("payments", "fraud", [rule]), []
    book.add_version("1.2.0", {"auc": 0.87})
    for number, reading in enumerate(readings):
        book.see_performance("1.2.0", window(number), {rule.measure: reading})
        said += [(number, alert.state) for alert in book.announce(number)]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auc", "log_loss", "precision", "recall"])
@pytest.mark.parametrize(("base", "n"), [(0.01, 300), (0.01, 10_000), (0.001, 3_000), (0.2, 2_000)])
def test_where_nothing_has_changed_hardly_a_window_is_surely_worse_than_promised(
    base: float, n: int, name: str
) -> None:
    """Of three positives in a window, as of a thousand: of 400 windows 0.4 are due."""
    labels, calibration = Labels(base, 5), make_calibration(base)
    worse = sum(read_window(labels.draw(n), calibration)[name].is_worse for _ in range(400))
    assert worse <= 3


@pytest.mark.slow
@pytest.mark.parametrize(("base", "n"), [(0.01, 3_000), (0.005, 10_000), (0.2, 1_000)])
def test_scores_that_mean_the_opposite_are_worse_than_promised_in_the_first_window(base: float, n: int) -> None:
    labels, calibration = Labels(base, 6), make_calibration(base)
    for _ in range(20):
        reading = read_window(labels.draw(n, turned=1.0), calibration)["auc"]
        assert reading.is_worse
        assert reading.value < 0.35
        assert reading.expected > 0.8


def test_it_is_raised_for_what_is_worse_and_cleared_when_windows_are_surely_better_than_that() -> None:
    labels, calibration = Labels(0.01, 7), make_calibration(0.01)
    turned = [*[0.0] * 3, *[1.0] * 4, *[0.0] * 4]
    readings = [read_window(labels.draw(10_000, turned=share), calibration)["auc"] for share in turned]
    assert follow(PROMISED, readings) == [(3, "raised"), (8, "cleared")]
    log_loss = [read_window(labels.draw(10_000, turned=share), calibration)["log_loss"] for share in turned]
    assert follow(replace(PROMISED, measure="log_loss"), log_loss) == [(3, "raised"), (8, "cleared")]


def read_of_three(turned: float, windows: int = 60) -> list[Reading]:
    """Windows of 300 labels, three of them positive."""
    labels, calibration = Labels(0.01, 8), make_calibration(0.01)
    found: list[Reading] = []
    while len(found) < windows:
        counts = labels.draw(300, turned=turned)
        if counts.outcomes[1].sum() == 3:
            found.append(read_window(counts, calibration)["auc"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("turned", [0.5, 1.0])
def test_three_positives_do_not_clear_what_goes_on(turned: float) -> None:
    """Of scores that say nothing any more, or the opposite; whatever they happen to be."""
    first = read_window(Labels(0.01, 8).draw(10_000, turned=turned), make_calibration(0.01))["auc"]
    few = read_of_three(turned)
    assert max(reading.value for reading in few) > (0.9 if turned < 1 else 0.3)
    for rule in (PROMISED, AlertRule("low", "performance", "auc", below=0.75, clears_after=1)):
        assert follow(rule, [first, *few]) == [(0, "raised")]


@pytest.mark.slow
def test_three_positives_raise_nothing_where_nothing_has_changed_however_low_their_scores() -> None:
    few = read_of_three(0.0, 100)
    assert min(reading.value for reading in few) < 0.7
    for rule in (PROMISED, AlertRule("low", "performance", "auc", below=0.75, clears_after=1)):
        assert follow(rule, few) == []


@pytest.mark.parametrize("name", ["auc", "log_loss"])
def test_labels_of_one_class_decide_nothing_of_the_auc_and_do_not_clear_by_a_small_log_loss(name: str) -> None:
    labels, calibration = Labels(0.01, 9), make_calibration(0.01)
    cells = labels.generator.integers(0, CELLS, 250)
    alone = read_window(labels.count(cells, np.zeros(250, bool)), calibration)[name]
    worse = read_window(labels.draw(10_000, turned=1.0), calibration)[name]
    assert follow(replace(PROMISED, measure=name), [worse, alone, alone, alone]) == [(0, "raised")]
    limit = AlertRule(
        "a", "performance", name, **{"below" if name == "auc" else "above": 0.7 if name == "auc" else 0.06}
    )
    assert follow(limit, [alone, alone, alone]) == []


@pytest.mark.slow
def test_a_loss_that_does_not_matter_is_none_however_sure_it_is() -> None:
    labels, calibration = Labels(0.2, 10), make_calibration(0.2)
    reading = read_window(labels.draw(2_000_000, turned=0.02), calibration)["auc"]
    assert 0.005 < reading.expected - reading.value < 0.02
    assert not reading.is_worse
    assert follow(PROMISED, [reading]) == []
    reading = read_window(labels.draw(2_000_000, turned=0.05), calibration)["auc"]
    assert reading.expected - reading.value > 0.02
    assert follow(PROMISED, [reading]) == [(0, "raised")]


def test_where_labels_of_one_kind_come_first_it_is_what_these_promise_that_counts() -> None:
    """All positives are here, and one in five of the negatives; nothing has changed."""
    labels, calibration = Labels(0.05, 14), make_calibration(0.05)
    worse = {"as they come": 0, "as if all were here": 0}
    for _ in range(20):
        cells = labels.generator.integers(0, CELLS, 4_000)
        came = labels.generator.random(4_000) < rates(0.05)[cells]
        is_here = came | (labels.generator.random(4_000) < 0.2)
        counts = labels.count(cells[is_here], came[is_here])
        among = calibration.among_arrived((0.2, 1.0))
        for name, each in (("as they come", among), ("as if all were here", calibration)):
            worse[name] += sum(reading.is_worse for reading in read_window(counts, each).values())
    assert worse["as they come"] == 0
    assert worse["as if all were here"] >= 20


def test_labels_that_err_together_make_it_less_sure() -> None:
    """One window, surely worse if its labels are independent."""
    counts = Labels(0.01, 11).draw(6_000, turned=0.3)
    assert read_window(counts, make_calibration(0.01))["auc"].is_worse
    assert not read_window(counts, make_calibration(0.01, effects={"auc": 16.0}))["auc"].is_worse


@pytest.mark.slow
def test_a_burst_that_scores_miss_now_and_then_is_no_loss() -> None:
    """Frauds in bursts of ten on one card, each with the score of the card: one low card a day is half of the window.

    In the mean over training the AUC hardly notices: most bursts have high scores.
    """
    rng, calibration, labels = np.random.default_rng(7), make_calibration(0.01, effects={"auc": 1.5}), Labels(0.01, 3)
    positives = rates(0.01) / rates(0.01).sum()
    false = {1.0: 0, 10.0: 0}
    for _ in range(300):
        counts = labels.draw(6_000)
        bursts = rng.multinomial(rng.poisson(6), positives) * 10
        counts.outcomes[1] = bursts
        for effect in false:
            false[effect] += read_window(counts, calibration, label_effect=effect)["auc"].is_worse
    assert false[10.0] <= 2
    assert false[1.0] > 10  # taken one by one


@pytest.mark.slow
@pytest.mark.parametrize(("base", "n_reference", "n"), [(0.01, 5_000, 10_000), (0.001, 50_000, 50_000)])
def test_a_reference_of_fifty_positives_promises_so_little_that_nothing_is_surely_worse(
    base: float, n_reference: int, n: int
) -> None:
    """The promised AUC is 0.02 off in the mean; nothing has changed."""
    labels, rate, worse, off = Labels(base, 13), rates(base), 0, []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        events = np.bincount(generator.integers(0, CELLS, n_reference), minlength=CELLS)
        positive = generator.binomial(events, rate)
        calibration = fit_calibration(np.array([events - positive, positive]), CELLS // 2, rate)
        found = read_window(labels.draw(n), calibration)
        worse += sum(each.is_worse for each in found.values())
        off.append(abs(found["auc"].expected - found["auc"].value))
    assert worse <= 1
    assert np.mean(off) > 0.01


def test_the_alert_says_what_came_true_and_what_the_scores_promised() -> None:
    labels, calibration = Labels(0.01, 12), make_calibration(0.01)
    book = AlertBook("payments", "fraud", [PROMISED])
    book.add_version("1.2.0", {})
    reading = read_window(labels.draw(10_000, turned=1.0), calibration)["auc"]
    book.see_performance("1.2.0", window(0), {"auc": reading})
    (raised,) = book.announce(1)
    low, high = reading.range
    assert raised.message == (
        f"auc of fraud 1.2.0 is {reading.value:.4g} ({low:.4g} to {high:.4g}) in 1970-01-01 to 1970-01-02 UTC,"
        f" where its scores promise {reading.expected:.4g}"
    )
    assert (raised.value, raised.limit) == (reading.value, pytest.approx(reading.expected - 0.02))
