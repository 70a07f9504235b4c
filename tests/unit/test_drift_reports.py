"""A window is judged within its budget: signals where something has moved, and false alarms as often as declared."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import false_discovery_control, ks_2samp

from app.core.drift.budget import OF_ERRORS, OF_LABELS, OF_OUTCOMES, OF_WINDOWS, alpha_of_window, spend
from app.core.drift.comparison import TESTS, Comparison, smallest_p
from app.core.drift.judge import Judge
from app.core.drift.judgement import DriftResult, Judgement, View
from app.core.drift.over_time import Past, PastResult, classic_interval, classic_trend, look_at_interval, look_for_trend
from app.core.drift.smallest_p import SmallestP
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.drift import DEFAULT_TESTS, DRIFT_TESTS, default_test
from schemas.pipeline.spec import FalseAlarms

COLUMNS = [numeric("normal"), numeric("count"), category("kind", 4), numeric("nulls")]
NAMES = [column.name for column in COLUMNS]


def draw(generator: np.random.Generator, n: int, rho: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Four features and a score, each an AR(1) at heart."""
    noise = generator.normal(size=(n, 5)) * math.sqrt(1 - rho**2)
    noise[0] /= math.sqrt(1 - rho**2)
    values = np.asarray(lfilter([1], [1, -rho], noise, axis=0))
    kind = np.searchsorted([-1.0, 0.0, 1.5], values[:, 2]).astype(float)
    nulls = np.where(np.abs(values[:, 3]) < 0.06, np.nan, np.exp(values[:, 3]))
    return np.column_stack([values[:, 0], np.floor(3 + values[:, 1]), kind, nulls]), 1 / (1 + np.exp(-values[:, 4]))


@functools.cache
def reference(rho: float = 0.0, n: int = 8_000) -> Reference:
    generator = np.random.default_rng(1)
    matrix, scores = draw(generator, n, rho)
    return fit_reference(TrainingEvents(matrix, scores, np.full(n, np.nan)), COLUMNS, 128)


@functools.cache
def judge_of(tests: tuple[str, ...], rho: float = 0.0) -> Judge:
    return Judge(reference(rho), [default_test(test) for test in tests])


def no_past(n_metrics: int = 5) -> list[Past]:
    """Of one segment."""
    same = np.tile(np.arange(10.0), (n_metrics, 1))
    return [Past(np.zeros(1), np.empty((0, n_metrics, 10)), same, same)]


def view_of(matrix: np.ndarray, scores: np.ndarray, alpha: float = 0.05, against: Reference | None = None) -> View:
    known = against or reference()
    window = count(known, matrix, scores)
    return View(["all"], range(5), known.counts[None], window.counts[None], no_past(), alpha)


def signals(judgements: list[Judgement], metric: str) -> dict[str, str]:
    return {each.test: each.verdict.signal for each in judgements if each.metric == metric}


# -- what moves is found -----------------------------------------------------------------------------------------------

Change = Callable[[np.ndarray], np.ndarray]
#: What moves in "normal", and which tests are to say that it matters.
MOVES: dict[str, tuple[Change, set[str]]] = {
    "nothing": (lambda x: x, set()),
    "mean": (lambda x: x + 0.8, {"psi", "ks", "wasserstein", "jensen_shannon"}),
    "nulls": (lambda x: np.where(np.arange(len(x)) % 8, x, np.nan), {"null_rate", "psi", "jensen_shannon"}),
    "range": (lambda x: np.where(np.arange(len(x)) % 80, x, 9.0), {"range"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("move", list(MOVES))
def test_each_kind_of_move_is_found_by_the_tests_for_it(move: str) -> None:
    change, expected = MOVES[move]
    matrix, scores = draw(np.random.default_rng(18), 4_000)
    matrix[:, 0] = change(matrix[:, 0])
    judgements = judge_of(tuple(TESTS)).judge(view_of(matrix, scores))
    assert {test for test, signal in signals(judgements, "normal").items() if signal == "DRIFT"} == expected
    assert {each.verdict.signal for each in judgements if each.metric != "normal"} == {"NONE"}


@pytest.mark.slow
def test_a_small_but_certain_difference_is_a_warning() -> None:
    matrix, scores = draw(np.random.default_rng(19), 200_000)
    matrix[:, 0] += 0.1
    said = signals(judge_of(("ks",)).judge(view_of(matrix, scores)), "normal")
    assert said == {"ks": "WARNING"}


@pytest.mark.slow
def test_a_test_signals_below_its_threshold_and_nowhere_else() -> None:
    matrix, scores = draw(np.random.default_rng(20), 4_000)
    matrix[:, 0] += 0.09
    for each in judge_of(("psi", "ks", "wasserstein")).judge(view_of(matrix, scores)):
        p_value, threshold = each.verdict.p_value, each.verdict.threshold
        assert p_value is not None
        assert threshold is not None
        assert (each.verdict.signal != "NONE") == (p_value <= threshold)


@pytest.mark.slow
@pytest.mark.parametrize("move", list(MOVES))
def test_of_a_metric_that_has_moved_only_the_tests_below_their_threshold_signal(move: str) -> None:
    change, _ = MOVES[move]
    matrix, scores = draw(np.random.default_rng(18), 4_000)
    matrix[:, 0] = change(matrix[:, 0])
    of_normal = [
        each.verdict for each in judge_of(tuple(TESTS)).judge(view_of(matrix, scores)) if each.metric == "normal"
    ]
    is_rejected = any(each.signal != "NONE" for each in of_normal)
    assert is_rejected == (move != "nothing")
    for each in of_normal:
        assert each.p_value is not None
        assert each.threshold is not None
        assert (each.signal != "NONE") == (is_rejected and each.p_value <= each.threshold)


@pytest.mark.slow
def test_every_test_of_a_pipeline_file_says_something_about_a_window() -> None:
    matrix, scores = draw(np.random.default_rng(21), 1_000)
    judgements = judge_of(tuple(DRIFT_TESTS)).judge(view_of(matrix, scores))
    assert {each.test for each in judgements} == set(DRIFT_TESTS)
    order = [
        (NAMES.index(each.metric) if each.metric in NAMES else 9, list(DRIFT_TESTS).index(each.test))
        for each in judgements
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("test", [test for test in DRIFT_TESTS if test not in TESTS])
def test_a_test_that_compares_no_two_windows_may_be_the_only_one_of_a_pipeline_file(test: str) -> None:
    matrix, scores = draw(np.random.default_rng(21), 1_000)
    assert {each.test for each in judge_of((test,)).judge(view_of(matrix, scores))} == {test}


@pytest.mark.slow
def test_shares_and_ranges_are_said_in_numbers() -> None:
    training, _ = draw(np.random.default_rng(1), 8_000)
    matrix, scores = draw(np.random.default_rng(26), 4_000)
    matrix[:3, 0], matrix[3:8, 0] = -1e6, 1e6
    matrix[:, 3] = np.where(np.arange(4_000) < 500, np.nan, 1.0)
    matrix[:, 2] = np.where(np.arange(4_000) < 80, 3.0, 1.0)  # the last code stands for values that are none of its own
    matrix[3_600:, 2] = np.nan
    notes = {
        (each.metric, each.test): each.verdict.note for each in judge_of(tuple(TESTS)).judge(view_of(matrix, scores))
    }
    lowest, highest = training[:, 0].min(), training[:, 0].max()
    assert notes["normal", "range"] == f"3 below {lowest:.4g}, 5 above {highest:.4g} of training"
    assert notes["nulls", "null_rate"] == f"12.50% against {np.isnan(training[:, 3]).mean():.2%} missing"
    share = (training[:, 2] == 3).mean()
    assert (
        notes["kind", "unseen"] == f"2.22% against {share:.2%} are none of its values"
    )  # 80 of the 3 600 that have one
    assert notes["score", "range"] == notes["normal", "psi"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "design_effect", "is_judged"), [(29, 1.0, False), (30, 1.0, True), (74, 2.5, False), (75, 2.5, True)]
)
def test_thirty_independent_events_are_enough(n: int, design_effect: float, is_judged: bool) -> None:
    known = replace(reference(), design_effects=np.full(6, design_effect))
    judge = Judge(known, [default_test("psi")])
    matrix, scores = draw(np.random.default_rng(27), n)
    found = judge.judge(view_of(matrix, scores, against=known))
    assert {each.verdict.threshold is not None for each in found} == {is_judged}
    few = "too few events to judge: 30 are needed in both windows"
    alike = (
        "hardly to be judged: 30 independent looks a window (75 events are needed in both windows); only a change of"
        " its shares by 0.25 would be sure"
    )
    assert {each.verdict.note for each in found} == {"" if is_judged else few if design_effect == 1 else alike}
    assert {(each.n_reference, each.n_detection) for each in found} == {(8_000, n)}


# -- too little, and nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 29])
def test_too_few_events_are_reported_and_not_judged(n: int) -> None:
    matrix, scores = draw(np.random.default_rng(22), n)
    judgements = judge_of(DEFAULT_TESTS).judge(view_of(matrix + 50.0, scores))
    assert {each.verdict.signal for each in judgements if not each.test.startswith("classic")} == {"NONE"}
    (psi,) = (each.verdict for each in judgements if (each.metric, each.test) == ("normal", "psi"))
    assert psi.threshold is None
    assert psi.note == "too few events to judge: 30 are needed in both windows"


def test_a_reference_of_twenty_rows_judges_nothing_and_says_so() -> None:
    small = reference(n=20)
    judge = Judge(small, [default_test(test) for test in DEFAULT_TESTS])
    judgements = judge.judge(view_of(*draw(np.random.default_rng(23), 5_000), against=small))
    (ks,) = (each.verdict for each in judgements if (each.metric, each.test) == ("normal", "ks"))
    assert ks.note.startswith("too few events to judge")


def test_an_empty_window_and_an_absent_reference_say_why_they_say_nothing() -> None:
    judge, empty = judge_of(DEFAULT_TESTS), reference().zeros().counts[None]
    for then, now, words in (
        (reference().counts[None], empty, "no values"),
        (empty, reference().counts[None], "none yet"),
    ):
        view = View(["all"], range(5), then, now, no_past(), 0.05, absence="none yet")
        found = {each.test: each.verdict for each in judge.judge(view) if each.metric == "normal"}
        assert found["psi"].statistic is None
        assert words in found["psi"].note


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
def test_a_feature_of_one_value_all_null_or_infinite_is_found(value: float) -> None:
    matrix, scores = draw(np.random.default_rng(24), 2_000)
    matrix[:, 0] = value
    said = signals(judge_of(DEFAULT_TESTS).judge(view_of(matrix, scores)), "normal")
    assert "DRIFT" in {said["psi"], said["ks"], said["null_rate"], said["range"]}


def test_a_feature_that_is_constant_in_both_windows_is_no_drift() -> None:
    generator = np.random.default_rng(25)
    one = np.ones((1_000, 1))
    known = fit_reference(TrainingEvents(one, generator.random(1_000), np.full(1_000, np.nan)), [numeric("x")], 16)
    judge = Judge(known, [default_test(test) for test in DRIFT_TESTS])
    window = count(known, one[:500], generator.random(500))
    view = View(["all"], range(1), known.counts[None], window.counts[None], no_past(1), 0.05)
    assert {each.verdict.signal for each in judge.judge(view)} == {"NONE"}


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_drifts_of_a_window_are_the_judgements_that_are_drifts(shift: float) -> None:
    """Of two segments one has moved, now and over time; one of its metrics is not compared."""
    generator, known = np.random.default_rng(29), reference()
    windows = [count(known, *draw(generator, 3_000)) for _ in range(2)]
    matrix, scores = draw(generator, 3_000)
    windows[1] = count(known, matrix + shift, scores)
    past = Past(np.arange(2_001.0), generator.normal(size=(2_000, 5, 10)), np.zeros((5, 10)), np.ones((5, 10)))
    rising = past.deciles + shift * past.times[:-1, None, None] / 100
    risen = replace(past, deciles=rising, current=np.full((5, 10), 20 * shift))
    counts = np.stack([known.counts] * 2), np.stack([each.counts for each in windows])
    view = View(["all", "k"], range(5), *counts, [past, risen], 0.1, silent={3: "not compared"})
    judge = judge_of(tuple(DRIFT_TESTS))
    drifts = judge.drifts(view)
    assert drifts == [each for each in judge.judge(view) if each.verdict.signal == "DRIFT"]
    assert {each.segment for each in drifts} == ({"k"} if shift else set())
    assert {each.test for each in drifts} >= ({"ks", "trend"} if shift else set())
    assert "nulls" not in {each.metric for each in drifts}


# -- over time ---------------------------------------------------------------------------------------------------------


@functools.cache
def one_feature() -> Reference:
    generator = np.random.default_rng(31)
    values = generator.normal(size=(2_000, 1))
    return fit_reference(TrainingEvents(values, generator.random(2_000), np.full(2_000, np.nan)), [numeric("x")], 32)


def said_over_time(
    n_past: int,
    moved: float = 0.0,
    *,
    alpha: float = 0.2,
    slope: float = 0.0,
    tests: Sequence[str] = ("ks", "trend", "interval"),
    effect: float = 1.0,
    memory: float = 0.0,
) -> dict[str, DriftResult]:
    """Of a window like training, after so many with deciles 0, 1, … 9 and some noise that is up or down by turns."""
    generator = np.random.default_rng(32)
    noise = generator.normal(0, 0.05, size=(n_past + 1, 1, 10)) + slope * np.arange(n_past + 1.0)[:, None, None]
    deciles = np.arange(10.0) + noise
    past = Past(np.arange(n_past + 1.0), deciles[:-1], deciles[-1] + moved, np.arange(10.0)[None])
    window = count(one_feature(), np.random.default_rng(33).normal(size=(500, 1)), np.full(500, 0.5))
    view = View(["all"], range(1), one_feature().counts[None], window.counts[None], [past], 0.2)
    known = replace(one_feature(), design_effects=np.array([effect, 1.0, 1.0]))
    judge = Judge(known, [default_test(test) for test in tests], [memory])
    return {each.test: each.verdict for each in judge.judge(view)}


def test_the_budget_is_for_what_a_window_shows_now_and_a_tenth_each_for_its_past() -> None:
    """With 2 000 windows an interval can have a p-value of 0.009: below a tenth of 0.2."""
    said = said_over_time(2_000)
    assert list(said) == ["ks", "trend", "interval"]
    assert said["trend"].threshold == pytest.approx(0.2 * 0.1)
    assert said["interval"].threshold == pytest.approx(0.2 * 0.1)
    law = SmallestP.draw(one_feature(), ("ks",), 1_024, 256)  # 2 000 and 500, to the nearest power of four
    assert said["ks"].threshold == pytest.approx(law.smallest(np.full(3, 0.2 * 0.8))[0])
    assert {each.signal for each in said.values()} == {"NONE"}
    assert {each.note for each in said.values() if each is not said["trend"]} == {""}


@pytest.mark.slow
def test_what_its_past_cannot_reject_takes_nothing_of_the_budget_and_says_so() -> None:
    said = said_over_time(60)
    interval = said["interval"]
    assert interval.note == f"too little history for this budget: its p-value cannot be below {18 / 61:.2g}"
    assert (interval.threshold, interval.signal) == (None, "NONE")
    assert interval.p_value is not None
    assert interval.statistic is not None
    assert said["trend"].threshold == pytest.approx(0.2 * 0.1 / 0.9)
    young = said_over_time(19)
    assert young["trend"] == DriftResult(None, None, None, None, "NONE", "too little history (19 of 20 windows)")
    assert said_over_time(20)["trend"].threshold is not None
    law = SmallestP.draw(one_feature(), ("ks",), 1_024, 256)
    assert young["ks"].threshold == pytest.approx(law.smallest(np.full(3, 0.2))[0])


@pytest.mark.slow
def test_a_window_beyond_its_past_signals_and_matters_from_the_least_effect_on() -> None:
    beyond = said_over_time(2_000, moved=1.0)["interval"]
    assert beyond.p_value == pytest.approx(9 * 2 / 2_001)
    assert (beyond.signal, beyond.statistic) == ("DRIFT", 10.0)
    assert beyond.effect is not None
    assert 0.5 < beyond.effect < 1.0
    near = said_over_time(2_000, moved=0.25)["interval"]
    assert near.effect is not None
    assert 0.0 < near.effect < 0.5
    assert near.signal == "WARNING"
    falling = said_over_time(60, slope=-0.1)["trend"]
    assert (falling.signal, falling.effect) == ("DRIFT", pytest.approx(-6 / 8, rel=0.05))
    slight = said_over_time(60, slope=-0.01)["trend"]
    assert (slight.signal, slight.effect) == ("WARNING", pytest.approx(-0.6 / 8, rel=0.2))


@pytest.mark.slow
def test_what_changes_slowly_by_itself_is_not_compared_with_past_windows() -> None:
    """Sums of a week, in windows of a day, rise and fall for days; so does what has 29 independent looks a window."""
    assert {said_over_time(60, slope=-0.1, memory=1.0)["trend"].signal} == {"DRIFT"}
    assert {said_over_time(60, slope=-0.1, effect=500 / 31)["trend"].signal} == {"DRIFT"}
    carried = said_over_time(2_000, 1.0, slope=-0.1, memory=7.0)
    slow = said_over_time(2_000, 1.0, slope=-0.1, effect=500 / 29)
    for said, words in ((carried, "it carries the past of 7 of them"), (slow, "too few independent events")):
        for test in ("trend", "interval"):
            assert (said[test].signal, said[test].p_value) == ("NONE", None)
            assert words in said[test].note
    assert carried["ks"].threshold == pytest.approx(
        SmallestP.draw(one_feature(), ("ks",), 1_024, 256).smallest(np.full(3, 0.2))[0]
    )


def test_what_is_infinite_is_no_number_of_a_report() -> None:
    n = 30
    past = Past(np.arange(n + 1.0), np.zeros((n, 1, 10)), np.zeros((1, 10)), np.arange(10.0)[None])
    past.deciles[:, 0] = np.arange(float(n))[:, None]
    line = replace(past, current=np.full((1, 10), float(n)))
    window = count(one_feature(), np.zeros((500, 1)), np.full(500, 0.5))
    view = View(["all"], range(1), one_feature().counts[None], window.counts[None], [line], 0.2)
    tests = [default_test(test) for test in ("trend", "classic_trend")]
    for each in Judge(one_feature(), tests).judge(view):
        assert (each.verdict.statistic, each.verdict.p_value) == (None, 0.0)
        assert each.verdict.effect == pytest.approx(n / 8)
        assert each.verdict.signal == ("DRIFT" if each.test == "trend" else "WARNING")


def test_a_textbooks_test_warns_at_its_own_level_and_never_calls_it_drift() -> None:
    tests = ("classic_ks", "classic_interval", "classic_trend")
    quiet, moved = said_over_time(60, tests=tests), said_over_time(60, moved=3.0, tests=tests)
    assert {test: each.threshold for test, each in quiet.items()} == {
        "classic_ks": 0.05,
        "classic_interval": None,
        "classic_trend": 0.05,
    }
    assert quiet["classic_ks"].signal == "NONE"
    assert quiet["classic_ks"].p_value is not None
    assert quiet["classic_ks"].effect == quiet["classic_ks"].statistic
    assert (moved["classic_interval"].signal, moved["classic_interval"].p_value) == ("WARNING", None)
    assert moved["classic_interval"].note.startswith("d1, d2, d3, d4, d5, d6, d7, d8, d9, d10 above")
    assert said_over_time(60, slope=0.1, tests=tests)["classic_trend"].signal == "WARNING"
    young = said_over_time(4, tests=tests)
    assert young["classic_trend"] == DriftResult(None, None, 0.05, None, "NONE", "too little history (4 of 5 windows)")
    assert young["classic_interval"].note == "too little history (4 of 5 windows)"


def test_the_textbooks_kolmogorov_smirnov_is_that_of_the_values_alone() -> None:
    matrix, scores = draw(np.random.default_rng(34), 1_000)
    matrix[:, 0] += 0.3
    matrix[:300, 3] = np.nan
    found = {each.metric: each.verdict for each in judge_of(("classic_ks",)).judge(view_of(matrix, scores))}
    training, training_scores = draw(np.random.default_rng(1), 8_000)
    assert found.keys() == {"normal", "count", "nulls", "score"}  # a category has no order
    for name, then, now in (
        ("normal", training[:, 0], matrix[:, 0]),
        ("nulls", training[:, 3], matrix[:, 3]),
        ("score", training_scores, scores),
    ):
        expected = ks_2samp(then[~np.isnan(then)], now[~np.isnan(now)], method="asymp")
        assert found[name].statistic == pytest.approx(expected.statistic, abs=0.02)
        assert found[name].signal == ("WARNING" if (found[name].p_value or 0.0) < 0.05 else "NONE")
    assert found["normal"].signal == "WARNING"
    matrix[:, 0] = np.nan
    nothing = judge_of(("classic_ks",)).judge(view_of(matrix, scores))[0].verdict
    assert nothing == DriftResult(None, None, 0.05, None, "NONE", "no values to compare")


def test_what_is_not_compared_needs_no_law() -> None:
    matrix, scores = draw(np.random.default_rng(35), 2_000)
    view = view_of(matrix, scores)
    for silent, is_none in (
        ({}, False),
        ({0: "filling", 2: "filling"}, False),
        (dict.fromkeys(range(5), "shared"), True),
    ):
        (law,) = judge_of(DEFAULT_TESTS).calibrate(replace(view, silent=silent))
        assert (law is None) is is_none


def test_windows_of_about_so_many_events_have_one_law_and_those_of_too_few_have_none() -> None:
    judge, known = Judge(one_feature(), [default_test("ks")]), one_feature()

    def law_of(n: int, *, segments: int = 1) -> list[SmallestP | None]:
        window = count(known, np.zeros((n, 1)), np.full(n, 0.5))
        nothing = known.zeros().counts
        detection = np.stack([window.counts, *[nothing] * (segments - 1)])
        then = np.stack([known.counts] * segments)
        return judge.calibrate(View(["all", "k"][:segments], range(1), then, detection, no_past(1) * segments, 0.05))

    assert law_of(29) == [None]
    (small,), (same,), (larger,) = law_of(130), law_of(500), law_of(520)
    assert small is same is not larger is not None
    assert law_of(500, segments=2) == [small, None]


# -- the budget --------------------------------------------------------------------------------------------------------


def alarm_rate(rho: float, alpha: float, n_windows: int, n: int = 700) -> float:
    """Share of windows without drift in which anything signals; each with a reference of its own draw."""
    generator = np.random.default_rng(26)
    known, judge = reference(rho), judge_of(("psi", "ks", "chi_square", "null_rate", "range"), rho)
    alarms = 0
    for _ in range(n_windows):
        then, now = (count(known, *draw(generator, size, rho)) for size in (4_000, n))
        view = View(["all"], range(5), then.counts[None], now.counts[None], no_past(), alpha)
        alarms += any(each.verdict.signal != "NONE" for each in judge.judge(view))
    return alarms / n_windows


@pytest.mark.slow
def test_a_window_without_drift_alarms_as_often_as_its_budget_says() -> None:
    """Of 1 200 windows 10 % are 120, give or take 10.4."""
    assert 0.075 < alarm_rate(0.0, 0.1, 1_200) < 0.126


@pytest.mark.slow
def test_events_that_resemble_those_before_them_spend_no_more() -> None:
    assert alarm_rate(0.6, 0.1, 400) < 0.12  # without design effects: 0.6


@pytest.mark.slow
def test_the_smallest_p_value_is_worth_more_than_one_and_less_than_all_of_its_tests() -> None:
    law = SmallestP.draw(reference(), ("psi", "ks", "null_rate", "range"), 4_096, 1_024)
    for p_value in (0.05, 0.01, 1e-3, 1e-5):
        smallest = law.smallest(np.full(6, p_value))
        assert (smallest[[0, 3, 4]] < p_value).all()
        assert (smallest[[0, 3, 4]] > p_value / 12).all()
        assert law.p_value(smallest)[[0, 3, 4]] == pytest.approx(p_value, rel=1e-6)


def test_the_law_of_the_smallest_p_value_by_hand() -> None:
    """Four quantiles of two metrics; below the edge a power, and of the second no test ever says anything."""
    law = SmallestP(
        np.array([[0.1, 1.0], [0.2, 1.0], [0.5, 1.0], [1.0, 1.0]]), np.array([0.1, 1.0]), np.array([0.5, 1.0])
    )
    for smallest, expected in (
        (0.1, 0.25),
        (0.19, 0.25),
        (0.2, 0.5),
        (0.6, 0.75),
        (1.0, 1.0),
        (0.025, 0.1 * 0.5),
        (0.1 / 100, 0.1 / 10),
    ):
        assert law.p_value(np.array([smallest, 0.3])) == pytest.approx([expected, 0.3])
    assert np.isnan(law.p_value(np.array([math.nan, math.nan]))).all()
    assert law.p_value(np.full((3, 2), 0.025)) == pytest.approx(np.tile([0.05, 0.025], (3, 1)))
    for p_value, expected in ((0.05, 0.025), (0.01, 0.001), (0.9, 1.0)):
        assert law.smallest(np.array([p_value, p_value])) == pytest.approx([expected, p_value])
    assert law.smallest(np.array([0.01, 3.0]))[1] == 1.0
    edges = SmallestP(law.bulk, np.array([0.5, 0.499]), np.array([0.5, 0.5]))
    assert edges.p_value(np.array([0.4, 0.4])) == pytest.approx([0.4, 0.1 * (0.4 / 0.499) ** 0.5])
    assert edges.smallest(np.array([0.05, 0.05])) == pytest.approx([0.05, 0.499 / 4])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(4_096, 1_024), (1_024, 1_024), (1_024, 65_536)])
def test_the_drawn_law_is_that_of_windows_from_the_shares_of_the_reference(n: int, m: int) -> None:
    """Of 500 other draws, of exactly so many events and each with its own reference; 5 % are 25, give or take 5."""
    tests = ("psi", "ks", "null_rate", "range")
    law = SmallestP.draw(reference(), tests, n, m)
    comparison, generator = Comparison(reference(), tests).with_independent_events(), np.random.default_rng(2)
    shares = reference().counts / np.maximum(reference().counts.sum(axis=1, keepdims=True), 1)
    then, now = (generator.multinomial(size, shares, size=(500, 6)) for size in (n, m))
    found = law.p_value(smallest_p(comparison.compare(then, now)))[:, :5]
    assert law.bulk.shape == (200, 6)
    assert (np.diff(law.bulk, axis=0) >= 0).all()
    assert (law.bulk[19] <= law.edge).all()
    assert (law.edge <= law.bulk[20]).all()
    assert (law.exponents[:5] > 0.7).all()
    for level, most in ((0.01, 0.01), (0.05, 0.022), (0.2, 0.04), (0.5, 0.05)):
        assert (found < level).mean(axis=0) == pytest.approx(level, abs=most)
    assert (law.edge[5], law.bulk[0, 5]) == (1.0, 1.0)


@pytest.mark.slow
def test_a_calibration_is_the_same_each_time() -> None:
    one, other = (SmallestP.draw.__wrapped__(SmallestP, reference(), ("psi", "ks"), 1_024, 256) for _ in range(2))
    assert one.bulk.tobytes() == other.bulk.tobytes()
    assert one.exponents.tobytes() == other.exponents.tobytes()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_equal_weights_give_the_procedure_of_benjamini_and_hochberg(p_values: list[float], alpha: float) -> None:
    spent = spend(np.array(p_values), np.ones(len(p_values)), alpha)
    adjusted = false_discovery_control(p_values)
    clear = np.abs(adjusted - alpha) > 1e-9
    assert (spent.rejected == (adjusted <= alpha))[clear].all()
    assert (spent.rejected == (np.array(p_values) <= spent.threshold)).all()


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=12))
def test_what_cannot_be_tested_takes_nothing_of_the_budget(p_values: list[float]) -> None:
    values = np.array(p_values)
    weights = np.arange(1.0, len(values) + 1)
    known = ~np.isnan(values)
    spent, without = spend(values, weights, 0.05), spend(values[known], weights[known], 0.05)
    assert spent.rejected[known].tolist() == without.rejected.tolist()
    assert not spent.rejected[~known].any()


def test_a_budget_by_hand() -> None:
    day = 86_400_000
    month = FalseAlarms(1, per_ms=30 * day)
    assert alpha_of_window(month, 1.0, day, 0) == pytest.approx(1 / 30)
    assert alpha_of_window(FalseAlarms(2, per_ms=30 * day), 0.5, day / 24, 0) == pytest.approx(1 / 720)
    assert alpha_of_window(month, 1.0, 30.4 * day, 0) == 0.05  # each month may not alarm
    assert alpha_of_window(FalseAlarms(1, per_events=10**6), 1.0, day, 2_000) == 0.002


def test_what_a_pipeline_with_labels_may_spend_is_the_whole_budget() -> None:
    assert math.isclose(OF_WINDOWS + OF_OUTCOMES + OF_LABELS + OF_ERRORS, 1)


# -- tests in batches --------------------------------------------------------------------------------------------------


def test_many_windows_are_compared_as_one_by_one() -> None:
    generator = np.random.default_rng(27)
    comparison = Comparison(reference(), TESTS)
    windows = np.stack([count(reference(), *draw(generator, n)).counts for n in (5, 300, 4_000)])
    then = np.broadcast_to(reference().counts, windows.shape)
    together = comparison.compare(then, windows)
    for at, window in enumerate(windows):
        for test, outcome in comparison.compare(reference().counts, window).items():
            for mine, theirs in zip(outcome, together[test], strict=True):
                np.testing.assert_array_equal(mine, theirs[at])
    assert smallest_p(together).shape == (3, 6)


@given(st.integers(0, 2**32), st.integers(0, 30))
def test_the_past_of_many_metrics_is_that_of_each(seed: int, n_windows: int) -> None:
    generator = np.random.default_rng(seed)
    deciles = np.sort(generator.normal(size=(n_windows, 4, 10)), axis=2)
    deciles[generator.random((n_windows, 4)) < 0.1] = np.nan  # a window that does not know a metric
    current = np.sort(generator.normal(size=(4, 10)), axis=1)
    current[generator.random(4) < 0.1] = np.nan
    together = Past(np.arange(n_windows + 1.0), deciles, current, np.tile(np.arange(10.0), (4, 1)))
    looks: list[Callable[[Past], list[PastResult]]] = [
        lambda past: look_for_trend(past, 5),
        look_at_interval,
        lambda past: classic_interval(past, {"low": 2.5, "high": 97.5, "minimum_history": 3}),
        lambda past: classic_trend(past, {"minimum_history": 3}),
    ]
    for look in looks:
        alone = [
            look(Past(together.times, deciles[:, [row]], current[[row]], together.reference[[row]]))[0]
            for row in range(4)
        ]
        for mine, theirs in zip(look(together), alone, strict=True):
            assert mine.note == theirs.note
            assert (mine.statistic, mine.p_value, mine.effect) == pytest.approx(
                (theirs.statistic, theirs.p_value, theirs.effect), rel=1e-9, nan_ok=True
            )


def test_intervals_and_trends_by_hand() -> None:
    past = np.tile(np.arange(1.0, 11.0), (39, 1, 1)) + np.linspace(-0.1, 0.1, 39)[:, None, None]
    times, reference = np.arange(40.0), np.arange(10.0)[None]
    (told,) = look_at_interval(Past(times, past, np.full((1, 10), 20.0), reference))
    assert told.p_value == pytest.approx(9 * 2 / 40)  # the 40th of 40 values, to either side, times nine deciles
    assert told.statistic == 10
    assert told.note == "d1, d2, d3, d4, d5, d6, d7, d8, d9, d10 above the interval of 39 past windows"
    (rising,) = look_for_trend(Past(times, past + times[:-1, None, None], past[0] + 39.0, reference), 20)
    assert rising.p_value < 1e-6
    assert rising.effect == pytest.approx(39 / 8, rel=0.02)  # the reference is 0 … 9: d9 - d1 is 8


@given(st.floats(1.5, 1e5), st.integers(1, 10_000))
@pytest.mark.slow
def test_what_is_said_to_be_sure_would_be_rejected_by_its_distance(design_effect: float, n: int) -> None:
    """Of as many independent events as count, so large a distance of two distributions has the p-value alpha."""
    known = replace(reference(), design_effects=np.full(6, design_effect))
    judge = Judge(known, [default_test("ks")])
    view = view_of(*draw(np.random.default_rng(27), n), against=known)
    (note,) = {each.verdict.note for each in judge.judge(view) if each.metric == "normal"}
    if n >= 30 * design_effect:
        assert not note
        return
    looks = float(re.search(r"judged: (\S+) independent looks", note)[1])  # type: ignore[index]
    assert looks == pytest.approx(n / design_effect, rel=0.05)
    sure = re.search(r"by (\S+) would be sure", note)
    apart = float(sure[1]) if sure else 1.0
    independent = 1 / (1 / 8_000 + 1 / n) / design_effect
    at_most = 2 * math.exp(-2 * independent * apart**2)
    assert at_most == pytest.approx(view.alpha, rel=0.4) if sure else at_most > view.alpha * 0.999


@pytest.mark.slow
def test_a_metric_that_is_not_compared_says_why_and_has_no_part_in_the_budget() -> None:
    """What it would have said changes nothing for the others."""
    matrix, scores = draw(np.random.default_rng(20), 4_000)
    found = []
    for shift in (0.0, 0.8):
        moved = matrix.copy()
        moved[:, :2] += shift
        view = replace(view_of(moved, scores), silent=dict.fromkeys((0, 1), "it is filling"))
        found.append(judge_of(tuple(DEFAULT_TESTS)).judge(view))
    for judgements in found:
        own = [each.verdict for each in judgements if each.metric == "normal"]
        assert own == [DriftResult(None, None, None, None, "NONE", "it is filling")] * len(own) != []
        assert all(each.n_detection == 4_000 for each in judgements if each.metric == "normal")
    others = [[each for each in judgements if each.metric not in NAMES[:2]] for judgements in found]
    assert others[0] == others[1]
