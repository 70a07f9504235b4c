"""What a diagnosis hands on of a window is what was counted of it, and what others are told is what was decided."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.drift.judgement import DriftResult as Said
from app.core.drift.judgement import Judgement
from app.core.faults.traffic import Traffic
from app.core.findings import PerformanceRow, Subject
from app.core.labels.selection import WindowLabels
from app.core.performance.estimation import compare, estimate
from app.core.performance.label_checks import ALL_ARRIVED, check_labels
from app.core.performance.measures import measure
from app.core.performance.order_weights import order_weights
from app.core.verdict import diagnosis
from app.core.verdict.attribution import attribute
from app.core.verdict.decide import Advice, Explanation, Verdict
from app.core.verdict.diagnosis import Diagnosis, to_record
from app.core.verdict.evidence import Evidence
from app.core.verdict.segments import Segment
from app.core.verdict.situation import Misfit, Predecessor, Situation
from app.core.verdict.words import Example, say
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.spec import Performance as Settings
from schemas.wire import Explained, VerdictExample, VerdictSegment

NAMES = ["x", "y", "carrier"]
NO_TRAFFIC = Traffic(0)
ABOUT = Subject("p", "m", "7", Window(10, 20), 3)
Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(seed: int, n: int) -> Data:
    """Two numbers that are far from each other, a code (2 stands for what is none of its values), scores and labels."""
    rng = np.random.default_rng(seed)
    matrix = np.column_stack([rng.normal(0, 1, n), rng.normal(100, 10, n), rng.choice(3, n, p=[0.5, 0.45, 0.05])])
    matrix[rng.random(n) < 0.1, 0] = np.nan
    scores = rng.random(n)
    return matrix, scores, (rng.random(n) < scores) * 1.0


@functools.cache
def reference() -> Reference:
    matrix, scores, labels = draw(1, 4_000)
    columns = [numeric("x"), numeric("y"), category("carrier", 3, ["AA", "UA"])]
    return fit_reference(TrainingEvents(matrix, scores, labels), columns, 16)


def diagnose() -> Diagnosis:
    return Diagnosis(reference(), math.nan, "flights", Settings(0))


def judged(segment: str, metric: str, effect: float | None = 0.5, test: str = "psi") -> Judgement:
    return Judgement(segment, metric, test, 4_000, 500, Said(1.0, 1e-9, 1e-6, effect, "DRIFT"))


def counts_of(data: Data, n_labels: int | None = None) -> Counts:
    """Of all events, and the labels of the first so many."""
    matrix, scores, labels = data
    known = np.where(np.arange(len(labels)) < (len(labels) if n_labels is None else n_labels), labels, np.nan)
    return count(reference(), matrix, scores, known)


def look(  # what a verdict rests on
    monkeypatch: pytest.MonkeyPatch,
    counts: dict[str, Counts],
    drifts: Sequence[Judgement] = (),
    *,
    performance: Sequence[PerformanceRow] = (),
    traffic: Traffic = NO_TRAFFIC,
    least: float = math.nan,
    predecessor: Predecessor | None = None,
    with_labels: bool = True,
    known: Reference | None = None,
) -> Situation:
    """The situation that the verdict is about."""
    situations: list[Situation] = []
    monkeypatch.setattr(diagnosis, "decide", situations.append)
    of = Diagnosis(known or reference(), least, "flights", Settings(0))
    labels = WindowLabels(is_mature=with_labels, arrived=ALL_ARRIVED if with_labels else None)
    of.verdict(Evidence(counts, drifts, performance, traffic, predecessor, 0.002, labels))
    return situations[0]


# -- performance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_labels", [0, 300, 500])
def test_a_row_of_performance_says_what_is_estimated_and_what_came_true(n_labels: int) -> None:
    counts, of = counts_of(draw(2, 500), n_labels), diagnose()
    rows = of.performance(ABOUT, "k=1", counts, with_labels=True)

    scored = np.bincount(np.searchsorted(reference().metrics[-2].edges, draw(2, 500)[1], "right"), minlength=500)
    guessed = {each.name: each for each in estimate(of.calibration, scored[: reference().score_cells])}
    expected = {each.name: each for each in compare(of.calibration, counts.outcomes)}
    exact = {each.name: each for each in measure(counts, of.calibration)}
    assert [row.measure for row in rows] == list(guessed)
    assert {"auc", "accuracy", "precision", "recall", "f1", "log_loss", "positives"} == set(guessed)
    for row in rows:
        guess, due, true = guessed[row.measure], expected[row.measure], exact.get(row.measure)
        assert (row.pipeline, row.model, row.version, row.segment, row.revision) == ("p", "m", "7", "k=1", 3)
        assert (row.window_start_ms, row.window_end_ms) == (10, 20)
        assert (row.estimated, row.estimated_low, row.estimated_high) == (guess.estimated, guess.low, guess.high)
        # AUC, accuracy and log loss are counted exactly; of the others the score cells tell.
        realised = (true.realised, true.low, true.high) if true is not None else (due.realised, math.nan, math.nan)
        if row.measure == "positives":  # its range has a test of its own
            realised = due.realised, row.low, row.high
        assert (row.realised, row.low, row.high) == pytest.approx(realised, nan_ok=True)
        assert (row.expected, row.p_value) == pytest.approx((due.expected, due.p_value), nan_ok=True)
        assert (row.n_labels, row.label_maturity) == (n_labels, n_labels / 500)


def test_the_share_of_positives_stands_beside_what_the_scores_promise_of_the_labelled_events() -> None:
    """Where half of the labels 0 have come and all of the labels 1, more of those that are here are positive."""
    counts, of = counts_of(draw(2, 500), 300), diagnose()
    row, *_ = (each for each in of.performance(ABOUT, ALL, counts, with_labels=True) if each.measure == "positives")
    _, scores, labels = draw(2, 500)
    p = of.calibration.probability[np.searchsorted(reference().metrics[-2].edges, scores, "right")]
    assert row.estimated == pytest.approx(p.mean())
    assert row.expected == pytest.approx(p[:300].mean())
    assert row.realised == pytest.approx(labels[:300].mean())
    assert row.low < row.realised < row.high
    width = row.high - row.low
    effect = of.calibration.design_effects["positives"]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(row.realised * (1 - row.realised) / 300 * effect), rel=0.02)
    rows = of.performance(ABOUT, ALL, counts, with_labels=True, arrived=(0.5, 1.0))
    (early,) = (each for each in rows if each.measure == "positives")
    assert early.expected == pytest.approx((p[:300] / (p[:300] + 0.5 * (1 - p[:300]))).mean())


def test_before_labels_are_mature_nothing_is_said_of_them_and_without_events_no_share_has_come() -> None:
    for row in diagnose().performance(ABOUT, ALL, counts_of(draw(2, 500)), with_labels=False):
        assert not math.isnan(row.estimated)
        assert row.n_labels == 0
        unknown = (row.realised, row.low, row.high, row.expected, row.p_value, row.label_maturity)
        assert all(map(math.isnan, unknown))
    lost = replace(counts_of(draw(2, 500)), n=0)
    twice = replace(counts_of(draw(2, 500)), n=250)
    assert {math.isnan(row.label_maturity) for row in diagnose().performance(ABOUT, ALL, lost, with_labels=True)} == {
        True
    }
    assert {row.label_maturity for row in diagnose().performance(ABOUT, ALL, twice, with_labels=True)} == {1.0}


def auc_row(realised: float, segment: str = ALL, measure: str = "auc") -> PerformanceRow:
    (row,) = (
        each
        for each in diagnose().performance(ABOUT, segment, counts_of(draw(2, 500)), with_labels=True)
        if each.measure == measure
    )
    return row._replace(realised=realised, estimated=0.7)


def test_the_performance_is_the_realised_auc_of_all_events_or_the_estimated_one_beside_the_least_that_alert_rules_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = {ALL: counts_of(draw(2, 500))}
    before = Predecessor("6", 0.8, 0.5, 1)
    rows = [auc_row(0.5, "k=1"), auc_row(0.9, measure="accuracy")]

    def performance(*more: PerformanceRow, least: float = 0.65) -> tuple[object, ...] | None:
        known = look(monkeypatch, counts, performance=[*rows, *more], least=least, predecessor=before).performance
        return None if known is None else (known.measure, known.value, known.limit, known.predecessor)

    assert performance() is None
    assert performance(auc_row(0.62)) == ("AUC", 0.62, 0.65, before)
    assert performance(auc_row(math.nan)) == ("AUC", 0.7, 0.65, before)
    without = performance(auc_row(0.62), least=math.nan)
    assert without is not None
    assert math.isnan(without[2])  # type: ignore[arg-type]  # a float, third


# -- the situation -----------------------------------------------------------------------------------------------------


def test_scores_rates_and_numbers_of_events_are_those_of_the_window_and_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (matrix, scores, labels), (_, before, labels_before) = draw(2, 500), draw(1, 4_000)
    counts = counts_of((matrix, scores, labels), 300)
    situation = look(monkeypatch, {ALL: counts})

    assert (situation.n, situation.n_reference, situation.thresholds.alpha, situation.events) == (
        500,
        4_000,
        0.002,
        "flights",
    )
    assert (situation.score.reference, situation.score.detection) == pytest.approx(
        (before.mean(), scores.mean()), abs=1e-6
    )
    assert (situation.rate.reference, situation.rate.detection) == pytest.approx(
        (labels_before.mean(), labels[:300].mean())
    )
    assert (situation.changes, situation.segments, situation.faults) == ((), (), ())
    known = reference()
    assert situation.score.attribution == attribute(
        NAMES,
        known.counts[:3],
        counts.counts[:3],
        known.profiles[:3],
        situation.score.reference,
        situation.score.detection,
    )
    assert {share.metric for share in situation.score.attribution} == {*NAMES, "joint"}
    # The label's design effect goes for the prior, that of what scores leave unexplained for all else.
    effects = replace(known, design_effects=np.array([1.0, 1.0, 1.0, 7.0, 3.0]))
    situation = look(monkeypatch, {ALL: counts}, known=effects)
    weights = order_weights(known.training.outcomes, known.profiles[-2, : known.score_cells])
    effects = replace(effects, label_effect=2.0)
    situation = look(monkeypatch, {ALL: counts}, known=effects)
    labels_say = check_labels(known.training.outcomes, counts.outcomes, weights, 2.0, prior_effect=3.0)
    deviation = math.sqrt(situation.rate.reference * (1 - situation.rate.reference))
    assert situation.misfit == Misfit(
        p_direction=labels_say.p_direction,
        gap=labels_say.rate_gap / deviation,
        rate_expected=situation.rate.detection - labels_say.rate_gap,
        rate_realised=situation.rate.detection,
        p_order=labels_say.p_order,
        losses={},
        p_shape=labels_say.p_shape,
        effect=labels_say.effect / deviation,
        segment="",
        n=300,
    )
    assert situation.rate.p_value == labels_say.p_prior
    early = look(monkeypatch, {ALL: counts}, with_labels=False)
    assert early.rate.reference == situation.rate.reference
    assert early.misfit is None
    assert math.isnan(early.rate.detection)
    assert math.isnan(early.rate.p_value)
    assert math.isnan(look(monkeypatch, {ALL: counts_of((matrix, scores, labels), 0)}).rate.detection)


def test_what_signalled_over_all_events_has_changed_and_is_said_with_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix, scores, labels = draw(2, 1_000)
    matrix[:, 0] += 1.0
    matrix[:500, 2] = 2
    matrix[500:600, 2] = np.nan
    tested = [
        *(judged(ALL, name) for name in ("outcome", "x", "carrier", "score")),
        judged(ALL, "x"),
        judged("k=1", "y"),
    ]
    before, _, labels_before = draw(1, 4_000)
    situation = look(
        monkeypatch, {ALL: counts_of((matrix, scores, labels), 900), "k=1": counts_of(draw(3, 200))}, tested
    )

    assert [change.metric for change in situation.changes] == ["x", "carrier", "score", "outcome"]
    number, code, score, outcome = situation.changes
    assert [each.kind for each in situation.changes] == ["numeric", "category", "score", "outcome"]
    for change, then, now in ((number, before[:, 0], matrix[:, 0]), (score, draw(1, 4_000)[1], scores)):
        for deciles, values in ((change.deciles_before, then), (change.deciles_now, now)):
            # Beyond the range of training a cell reaches to the largest value.
            assert deciles[:7] == pytest.approx(np.nanquantile(values, np.arange(1, 8) / 10), abs=0.2)
            assert deciles[9] == np.nanmax(values)
        assert change.range_before == (np.nanmin(then), np.nanmax(then))
        assert (change.shares_before, change.shares_now) == ((), ())
    for change, then, now in ((number, before[:, 0], matrix[:, 0]), (code, before[:, 2], matrix[:, 2])):
        assert change.missing_before == pytest.approx(np.isnan(then).mean())
        assert change.missing_now == pytest.approx(np.isnan(now).mean())
    for shares, codes in ((code.shares_before, before[:, 2]), (code.shares_now, matrix[:, 2])):
        assert shares == pytest.approx([(codes == each).mean() for each in range(3)])
    assert code.effect == pytest.approx((matrix[:, 2] == 2).mean() - (before[:, 2] == 2).mean())
    assert (code.deciles_before, code.deciles_now, code.values) == ((), (), ("AA", "UA", "unseen"))
    # A label that has not come is not missing.
    positive = labels[:900].mean()
    assert outcome.shares_now == pytest.approx((1 - positive, positive))
    assert outcome.shares_before[1] == pytest.approx(labels_before.mean())
    assert (outcome.missing_before, outcome.missing_now, outcome.values) == (0.0, 0.0, ("0", "1"))
    assert (number.values, score.values) == ((), ())
    assert 0.3 < number.effect < 0.4  # a move by a deviation, in nine of ten that have a value


def test_a_segment_is_said_with_its_largest_effect_and_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {ALL: counts_of(draw(2, 500)), "k=1": counts_of(draw(3, 200)), "k=2": counts_of(draw(4, 300))}
    tested = [
        judged("k=1", "x", 0.2),
        judged("k=1", "x", -0.4),
        judged("k=1", "x", 0.3),
        judged("k=1", "y", None),
        judged("k=2", "x", 3.0),
        judged(ALL, "x"),
    ]
    situation = look(monkeypatch, counts, tested)

    assert [(each.segment, each.metric, each.effect, each.n) for each in situation.segments] == [
        ("k=1", "x", 0.4, 200),
        ("k=1", "y", 0.0, 200),
        ("k=2", "x", 1.0, 300),
    ]


def test_a_segment_is_held_against_its_own_training_and_that_against_all_events_whatever_has_signalled_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shares(data: Data) -> np.ndarray:
        return np.bincount(data[0][:, 2].astype(int), minlength=3) / len(data[1])

    def with_more_of(code: float, data: Data, share: float) -> Data:
        data[0][: int(share * len(data[1])), 2] = code
        return data

    own, here = with_more_of(1.0, draw(9, 800), 0.5), with_more_of(1.0, draw(3, 200), 0.9)
    everywhere = with_more_of(1.0, draw(2, 500), 0.3)
    known = replace(reference(), segments={"k=1": counts_of(own)})
    counts = {ALL: counts_of(everywhere), "k=1": counts_of(here)}
    whole = np.abs(shares(everywhere) - shares(draw(1, 4_000))).max()
    there = np.abs(shares(here) - shares(own)).max()
    for tested in ([judged("k=1", "carrier")], [judged("k=1", "carrier"), judged(ALL, "carrier")]):
        (change,) = look(monkeypatch, counts, tested, known=known).segments
        assert change.times == pytest.approx(there / whole)


def test_faults_are_looked_for_among_what_moved_with_what_else_differs_much(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, scores, labels = draw(2, 1_000)
    swapped = {ALL: counts_of((matrix[:, [1, 0, 2]], scores, labels))}
    (fault,) = look(monkeypatch, swapped, [judged(ALL, "x")]).faults
    assert (fault.kind, fault.metrics) == ("columns_swapped", ("x", "y"))
    assert look(monkeypatch, swapped).faults == ()
    (fault,) = look(monkeypatch, {ALL: counts_of(draw(2, 1_000))}, traffic=Traffic(0, [1_000] * 6)).faults
    assert fault.sentence == "No flights where 1000 are usual: some do not arrive."
    matrix[:, 2] = 0
    (fault,) = look(monkeypatch, {ALL: counts_of((matrix, scores, labels))}, [judged(ALL, "carrier")]).faults
    assert "'AA'" in fault.sentence
    # Forty events are enough to see that nothing else comes, unless ten of them count as one.
    few = {ALL: counts_of((matrix[:40], scores[:40], labels[:40]))}
    assert look(monkeypatch, few, [judged(ALL, "carrier")]).faults
    dependent = replace(reference(), design_effects=np.full(5, 10.0))
    assert not look(monkeypatch, few, [judged(ALL, "carrier")], known=dependent).faults


@pytest.mark.parametrize(("moved", "is_suspected"), [(0.11, True), (0.09, False)])
def test_a_feature_is_suspected_when_a_tenth_of_its_events_are_elsewhere(moved: float, is_suspected: bool) -> None:
    counts = replace(reference().training, counts=reference().counts.copy())
    row = counts.counts[1]
    (cells,) = np.nonzero(row[:8])
    n_moved, first = round(moved * 4_000), int(cells[0])
    for cell in cells[:0:-1]:
        step = min(n_moved, int(row[cell]))
        row[cell] -= step
        row[first] += step
        n_moved -= step
    assert n_moved == 0
    # The score and the outcome are no features, however far they have moved.
    counts.counts[-2:] = counts.counts[-2:, ::-1]
    assert diagnose()._movements.suspects(counts) == ({"y"} if is_suspected else set())


# -- what others are told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_labels", [True, False])
def test_others_are_told_all_of_a_verdict(with_labels: bool) -> None:
    verdict = Verdict(
        "feature_drift",
        "`x` is higher.",
        (Explanation("x", 0.7, "words"), Explanation("y", math.nan, "others")),
        (Segment("k=1", 0.4, 200, ("x", "y")),),
        Example("the middle value of `x`", "1", "2"),
        Advice("watch", "Because."),
        "feature_drift",
        (),
    )
    told = to_record(verdict, ABOUT, 4_000, 500, with_labels=with_labels)

    assert (told.pipeline, told.model, told.version, told.revision) == ("p", "m", "7", 3)
    assert (told.window_start_ms, told.window_end_ms) == (10, 20)
    assert (told.kind, told.headline, told.advice, told.reason) == (
        "feature_drift",
        "`x` is higher.",
        "watch",
        "Because.",
    )
    assert told.explained_by == [Explained("x", 0.7, "words"), Explained("y", None, "others")]
    assert told.segments == [VerdictSegment("k=1", 0.4, 200, ["x", "y"])]
    assert told.example == VerdictExample("the middle value of `x`", "1", "2")
    assert (told.n_reference, told.n_detection, told.with_labels) == (4_000, 500, with_labels)
    assert to_record(replace(verdict, example=None), ABOUT, 4_000, 500, with_labels=True).example is None


def test_a_flag_that_is_set_more_often_is_said_by_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its tenths moves: 4 % of 4 000 events, 8 % of 500 (of which 100 are missing, as they were)."""
    flag, now = (np.where(np.arange(n) % 25 < some, 1.0, 0.0)[:, None] for n, some in ((4_000, 1), (500, 2)))
    flag[3::5], now[3::5] = np.nan, np.nan
    known = fit_reference(TrainingEvents(flag, np.full(4_000, 0.5), np.zeros(4_000)), [numeric("is_new")], 16)
    counts = {ALL: count(known, now, np.full(500, 0.5))}
    (change,) = look(monkeypatch, counts, [judged(ALL, "is_new")], known=known).changes
    shares = tuple(float(np.nansum(each) / len(each)) for each in (flag, now))
    assert change.at_least == pytest.approx((1.0, *shares))
    assert say(change, "orders").short == "`is_new` is more often 1 or more"


def test_values_that_training_never_had_are_said_with_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 values 43 % are below the least of training: the tenth, and in other windows only some of the others."""
    values, now = np.linspace(10.0, 20.0, 4_000), np.linspace(10.0, 20.0, 500)
    now[:215], now[-15:] = np.linspace(1.0, 9.9, 215), 21.0
    known = fit_reference(TrainingEvents(values[:, None], np.full(4_000, 0.5), np.zeros(4_000)), [numeric("x")], 16)
    counts = {ALL: count(known, now[:, None], np.full(500, 0.5))}
    (change,) = look(monkeypatch, counts, [judged(ALL, "x")], known=known).changes
    assert change.beyond == pytest.approx((0.43, 0.03))
    assert say(change, "orders").rest.startswith("43 % of the orders have less than 10, the smallest in training, ")
    within = replace(change, deciles_now=tuple(np.linspace(10.5, 14.0, 10).tolist()))
    for beyond, words in (
        ((0.43, 0.03), "; 43 % have less than 10, the smallest in training"),
        ((0.05, 0.06), "; 6 % have more than 20, the largest in training"),
    ):
        assert say(replace(within, beyond=beyond), "orders").rest.endswith(words)
    assert ";" not in say(replace(within, beyond=(0.04, 0.03)), "orders").rest
