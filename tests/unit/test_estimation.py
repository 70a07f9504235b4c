"""Performance without labels: calibration, estimates, comparison and checks against the labels, direct loss."""

import itertools
import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.random import Generator
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from app.core.batches import Floats, Ints
from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.estimation import Estimate, MeasureCheck, calibrate, compare, design_effects, estimate
from app.core.performance.label_checks import LabelCheck, check_labels
from app.core.performance.measures import NORMAL_95, auc
from app.core.performance.order_weights import order_weights
from app.evaluation.census import MEASURES, census
from app.evaluation.direct_loss import estimate_loss
from app.evaluation.loss_cells import LossCells
from models.reference.counting import count_outcomes
from models.reference.fit import fit_reference
from models.reference.training_events import TrainingEvents

Found = TypeVar("Found", Estimate, MeasureCheck)

EDGES = np.arange(1, 64) / 64
THRESHOLD_CELL = 32
MEAN_SCORES = (np.arange(64) + 0.5) / 64

counts_2xs = hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(1, 40)), elements=st.integers(0, 30))


def check(reference: Ints, outcomes: Ints, *more: object) -> LabelCheck:
    """Of scores that say what their cells do."""
    middles = (np.arange(reference.shape[1]) + 0.5) / reference.shape[1]
    return check_labels(reference, outcomes, order_weights(reference, middles), *more)  # type: ignore[arg-type]


def cells_of(scores: Floats) -> Ints:
    return np.searchsorted(EDGES, scores, side="right")


def count(scores: Floats, labels: Ints) -> Ints:
    return np.bincount(labels * 64 + cells_of(scores), minlength=128).reshape(2, 64)


def draw(rng: Generator, n: int, shift: float = 0.0, concept: float = 0.0) -> tuple[Floats, Ints]:
    """Scores that are too sure, and labels; ``shift`` moves the inputs, ``concept`` what they mean."""
    x = 2 * rng.normal(size=n) + shift
    return sigmoid(1.5 * x - 0.3), (rng.random(n) < sigmoid(x + concept)).astype(np.int64)


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def reference_of(seed: int) -> tuple[Ints, Calibration]:
    outcomes = count(*draw(np.random.default_rng(seed), 20_000))
    return outcomes, fit_calibration(outcomes, THRESHOLD_CELL, MEAN_SCORES)


def certain(probability: Floats, threshold_cell: int, mean_scores: Floats | None = None) -> Calibration:
    """A calibration that has these probabilities exactly."""
    n_cells = len(probability)
    fitted = fit_calibration(np.full((2, n_cells), 1000), threshold_cell, mean_scores)
    return replace(fitted, probability=probability, variance=np.zeros_like(fitted.variance))


def is_within(check: MeasureCheck) -> bool:
    """Whether what came true lies in the 95 % band of what was expected."""
    return abs(check.realised - check.expected) <= NORMAL_95 * check.deviation


def named(figures: list[Found]) -> dict[str, Found]:
    return {figure.name: figure for figure in figures}


# Calibration


@given(counts_2xs)
def test_probabilities_never_fall_with_the_score_and_are_never_certain(outcomes: Ints) -> None:
    calibration = fit_calibration(outcomes, outcomes.shape[1] // 2)
    if not outcomes.any(axis=1).all():
        assert np.isnan(calibration.probability).all()
        return
    assert (np.diff(calibration.probability) >= -1e-12).all()
    assert (calibration.probability > 0).all()
    assert (calibration.probability < 1).all()
    gap = calibration.by_gap.sum(axis=1)
    assert (gap >= 0).all()
    assert (gap[outcomes.sum(axis=0) > 0] == 0).all()


def test_with_many_labels_in_every_cell_the_map_is_scikit_learns_isotonic_regression() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(5_000, 9_000, 12)
    positives = rng.binomial(labels, np.sort(rng.random(12))[[1, 0, 2, 3, 5, 4, 6, 7, 9, 8, 10, 11]])
    calibration = fit_calibration(np.array([labels - positives, positives]), 6)
    expected = IsotonicRegression().fit_transform(np.arange(12), positives / labels, sample_weight=labels)
    assert calibration.probability == pytest.approx(expected, abs=2e-4)


def groups_by_definition(outcomes: Ints, threshold_cell: int) -> list[list[int]]:
    """Cells with labels, joined from the lowest up; what is left over below or above the threshold joins its last."""
    most = [n / 32 if n <= 32_768 else n / round(n ** (1 / 3), 9) for n in outcomes.sum(axis=1).tolist()]
    enough = [max(share, min(10, n / 5)) for share, n in zip(most, outcomes.sum(axis=1).tolist(), strict=True)]
    groups: list[list[int]] = []
    labelled = [cell for cell in range(outcomes.shape[1]) if outcomes[:, cell].any()]
    for side in ([c for c in labelled if c < threshold_cell], [c for c in labelled if c >= threshold_cell]):
        closed: list[list[int]] = []
        open_group: list[int] = []
        for cell in side:
            open_group = [*open_group, cell]
            if any(outcomes[label, open_group].sum() >= enough[label] for label in (0, 1)):
                closed, open_group = [*closed, open_group], []
        if open_group:
            closed = [*closed[:-1], [*closed[-1], *open_group]] if closed else [open_group]
        groups += closed
    return groups


@given(counts_2xs, st.sampled_from([1, 1, 1, 40, 3_000]), st.integers(0, 40))
def test_the_map_pools_groups_of_enough_labels_as_scikit_learn_does(shape: Ints, times: int, threshold: int) -> None:
    outcomes = shape * [[times], [1]]
    calibration = fit_calibration(outcomes, threshold)
    if not outcomes.any(axis=1).all():
        return
    groups = groups_by_definition(outcomes, threshold)
    n = np.array([outcomes[:, group].sum() for group in groups])
    k = np.array([outcomes[1, group].sum() for group in groups])
    rates = IsotonicRegression().fit_transform(
        np.arange(len(groups)), (k + k.sum() / n.sum() / 4) / (n + 0.25), sample_weight=n + 0.25
    )
    known = np.array([cell for group in groups for cell in group])
    expected = np.repeat(rates, [len(group) for group in groups])
    assert calibration.probability[known] == pytest.approx(expected)
    # Jeffreys' posterior of each block of groups with one rate, and a cell between two blocks has half of each error.
    steps = np.flatnonzero(np.diff(rates, prepend=-1.0) > 1e-12)
    blocks = [
        stats.beta(b + 0.5, a - b + 0.5) for a, b in zip(*(np.add.reduceat(x, steps) for x in (n, k)), strict=True)
    ]
    variance = np.array([0.0, *(block.var() for block in blocks), 0.0])
    assume(len(variance) == len(calibration.variance))  # groups of the same rate are one block or two: rounding decides
    block_of = np.repeat(np.cumsum(np.isin(np.arange(len(groups)), steps)), [len(group) for group in groups])
    lows, highs = np.append(0, block_of), np.append(block_of, len(blocks) + 1)
    for cell in range(outcomes.shape[1]):
        below, above = np.searchsorted(known, cell, side="right"), np.searchsorted(known, cell)
        weights = (np.eye(len(variance))[lows[below]] + np.eye(len(variance))[highs[above]]) / 2
        gap = np.append(np.append(0.0, rates[steps]), 1.0)[[lows[below], highs[above]]]
        assert calibration.probability[cell] == pytest.approx(gap.mean())
        variances = calibration.propagated(np.eye(outcomes.shape[1])[[cell]])
        assert variances == pytest.approx([weights**2 @ variance + np.ptp(gap) ** 2 / 12], abs=1e-15)


def test_the_log_loss_of_a_cell_is_that_of_its_mean_score_or_of_one_between_its_neighbours() -> None:
    means = np.array([np.nan, 0.2, np.nan, np.nan, 0.8, 1.0, np.nan])
    losses = fit_calibration(np.ones((2, 7), int), 3, means).losses
    assert losses is not None
    scores = [0.2, 0.2, 0.4, 0.6, 0.8]
    assert losses[0, :5] == pytest.approx([-math.log(1 - score) for score in scores])
    assert losses[1, :5] == pytest.approx([-math.log(score) for score in scores])
    assert losses[:, 5:].tolist() == [[-math.log(1e-15)] * 2, [0.0] * 2]
    unknown = fit_calibration(np.ones((2, 7), int), 3, np.full(7, np.nan)).losses
    assert unknown is not None
    assert unknown.shape == (2, 7)
    assert np.isnan(unknown).all()
    assert fit_calibration(np.ones((2, 7), int), 3).losses is None


def test_labels_that_arrive_unevenly_change_what_a_score_means_by_bayes_rule() -> None:
    calibration = fit_calibration(np.array([[800, 500], [200, 500]]), 1)
    p = calibration.probability
    arrived = calibration.among_arrived((0.9, 0.6))
    assert arrived.probability == pytest.approx(0.6 * p / (0.6 * p + 0.9 * (1 - p)))
    gradients = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert arrived.propagated(gradients) == pytest.approx(calibration.propagated(gradients * arrived.slope))


def test_a_cell_without_labels_lies_between_its_neighbours_and_nobody_knows_where() -> None:
    outcomes = np.array([[0, 700, 0, 0, 300, 0], [0, 300, 0, 0, 700, 0]])
    calibration = fit_calibration(outcomes, 3)
    low, high = calibration.probability[[1, 4]]
    assert calibration.probability == pytest.approx([low / 2, low, 0.5, 0.5, high, (1 + high) / 2])
    assert calibration.by_gap.sum(axis=1) == pytest.approx([low, 0, high - low, high - low, 0, 1 - high])
    known, unknown = (named(estimate(calibration, np.eye(6, dtype=int)[at] * 10_000))["accuracy"] for at in (1, 2))
    assert unknown.high - unknown.low > 5 * (known.high - known.low)


def test_where_a_probability_is_in_its_gap_is_as_uncertain_as_a_uniform_number() -> None:
    outcomes = np.array([[0, 700, 0, 0, 300, 0], [0, 300, 0, 0, 700, 0]])
    calibration = replace(fit_calibration(outcomes, 3), variance=np.zeros(4))
    widths = calibration.by_gap.sum(axis=1)
    # One figure for each cell alone; the two cells in the middle share a gap, so their difference is certain.
    variances = calibration.propagated(np.vstack([np.eye(6), [0, 0, 1, -1, 0, 0], [0, 0, 1, 1, 0, 0]]))
    assert variances[:6] == pytest.approx(widths**2 * stats.uniform.var())
    assert variances[6:] == pytest.approx([0.0, stats.uniform.var(scale=2 * widths[2])])


def test_few_labels_make_groups_of_a_fifth_of_them() -> None:
    few = np.array([[8, 6, 4, 1, 1], [1, 1, 4, 6, 8]])
    assert len(set(fit_calibration(few, 2).probability)) == 5
    # With 50 or more of each a group holds ten of either, and what is left over joins the last one.
    more = np.array([[30, 9, 3, 4, 4], [1, 9, 20, 20, 9]])
    rates = [1 / 31, *[29 / 41] * 2, *[29 / 37] * 2]
    assert fit_calibration(more, 5).probability == pytest.approx(rates, abs=0.005)


@pytest.mark.parametrize(("negative", "positive"), [(5, 10), (10, 5), (9, 9)])
@pytest.mark.parametrize("threshold_cell", [0, 3])
def test_ten_of_either_label_are_a_group_and_nine_are_not(negative: int, positive: int, threshold_cell: int) -> None:
    outcomes = np.array([[50 - negative, negative, 0], [0, positive, 50 - positive]])
    low, middle, high = fit_calibration(outcomes, threshold_cell).probability
    assert low < middle
    assert (middle < high) == (10 in {negative, positive})


def test_rare_positives_have_groups_of_their_own_at_the_top() -> None:
    labels, rates = np.full(50, 20_000), np.append(np.full(46, 0.0005), [0.002, 0.01, 0.05, 0.3])
    positives = (labels * rates).astype(int)
    calibration = fit_calibration(np.array([labels - positives, positives]), 49)
    assert calibration.probability[-2:] == pytest.approx(rates[-2:], rel=0.02)
    assert calibration.probability[0] == pytest.approx(rates[0], rel=0.02)


def test_a_reference_that_lacks_a_label_estimates_nothing() -> None:
    for outcomes in (np.zeros((2, 4), int), np.array([[5, 5, 5, 5], [0, 0, 0, 0]])):
        estimates = estimate(fit_calibration(outcomes, 2, np.linspace(0, 1, 4)), np.array([1, 2, 3, 4]))
        assert len(estimates) == 7
        assert all(math.isnan(each.estimated) and math.isnan(each.low) and math.isnan(each.high) for each in estimates)


def test_what_came_true_is_known_though_a_reference_that_lacks_a_label_expects_nothing() -> None:
    calibration = fit_calibration(np.array([[5, 5, 5, 5], [0, 0, 0, 0]]), 2)
    cost_check = named(compare(calibration, np.array([[3, 0, 0, 1], [1, 0, 0, 3]])))
    assert (cost_check["accuracy"].realised, cost_check["auc"].realised) == (0.75, 0.75)
    assert math.isnan(cost_check["accuracy"].expected)
    assert math.isnan(cost_check["accuracy"].p_value)


def test_a_reference_of_another_shape_is_refused_with_what_to_give() -> None:
    for shape in ((5,), (3, 5), (1, 5), (2, 2, 5)):
        with pytest.raises(ValueError, match="label \\(0, 1\\) x score cell"):
            fit_calibration(np.zeros(shape, int), 2)


def test_what_is_left_over_joins_the_only_group_and_without_labels_a_gap_is_everything() -> None:
    left_over = fit_calibration(np.array([[40, 1], [38, 2]]), 2).probability
    assert left_over[0] == left_over[1]
    assert fit_calibration(np.zeros((2, 4), int), 2).by_gap.sum(axis=1).tolist() == [1.0] * 4


# Estimates


@pytest.mark.slow
def test_tiny_windows_are_those_of_all_their_possible_labels() -> None:
    probability, window = np.array([0.1, 0.4, 0.5, 0.9]), np.array([2, 1, 3, 2])
    losses = np.array([0.2, 0.4, 0.6, 0.9])
    p = np.repeat(probability, window)
    cells = np.repeat(np.arange(4), window)
    decisions = cells >= 2
    chances, right, loss, in_order, pairs = [], [], [], [], []
    for labels in itertools.product([0, 1], repeat=len(p)):
        y = np.array(labels)
        chances.append(np.prod(np.where(y == 1, p, 1 - p)))
        right.append((decisions == y).mean())
        loss.append(-np.log(np.where(y == 1, losses[cells], 1 - losses[cells])).mean())
        n_pairs = y.sum() * (1 - y).sum()
        pairs.append(n_pairs)
        in_order.append(roc_auc_score(y, cells) * n_pairs if n_pairs else 0.0)
    chances = np.array(chances)
    estimates = named(estimate(certain(probability, 2, losses), window))
    for name, values in (("accuracy", right), ("log_loss", loss)):
        mean = chances @ values
        assert estimates[name].estimated == pytest.approx(mean)
        assert estimates[name].deviation == pytest.approx(math.sqrt(chances @ (np.array(values) - mean) ** 2))
    assert estimates["auc"].estimated == pytest.approx((chances @ in_order) / (chances @ pairs))


def test_large_windows_have_the_measures_of_scikit_learn_with_expected_labels_as_weights() -> None:
    rng = np.random.default_rng(2)
    probability, window = np.sort(rng.random(20)), rng.integers(1, 9, 20) * 10**9
    truth, cells = np.repeat([0, 1], 20), np.tile(np.arange(20), 2)
    weights = np.concatenate([(1 - probability) * window, probability * window])
    estimates = named(estimate(certain(probability, 8), window))
    assert estimates["auc"].estimated == pytest.approx(roc_auc_score(truth, cells, sample_weight=weights))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert estimates[name].estimated == pytest.approx(score(truth, cells >= 8, sample_weight=weights))


def test_the_reference_estimates_its_own_performance() -> None:
    labels = np.full(16, 40_000)
    positives = (labels * np.linspace(0.02, 0.97, 16)).astype(int)
    outcomes = np.array([labels - positives, positives])
    estimates = named(estimate(fit_calibration(outcomes, 7), labels))
    right = outcomes[0, :7].sum() + outcomes[1, 7:].sum()
    assert estimates["auc"].estimated == pytest.approx(auc(outcomes), abs=2e-5)
    assert estimates["accuracy"].estimated == pytest.approx(right / labels.sum(), abs=2e-5)


@given(counts_2xs, st.data())
def test_measures_and_bands_stay_in_their_range(outcomes: Ints, data: st.DataObject) -> None:
    cells = outcomes.shape[1]
    window = data.draw(hnp.arrays(np.int64, cells, elements=st.integers(0, 100)))
    threshold_cell = data.draw(st.integers(0, cells))
    for figure in estimate(fit_calibration(outcomes, threshold_cell, np.linspace(0, 1, cells)), window):
        if math.isnan(figure.estimated):
            assert math.isnan(figure.low)
            assert math.isnan(figure.high)
        else:
            assert 0 <= figure.low <= figure.estimated <= figure.high
            assert figure.name == "log_loss" or figure.high <= 1


@given(st.lists(hnp.arrays(np.int64, 64, elements=st.integers(0, 50)), min_size=2, max_size=4))
def test_the_accuracy_of_merged_windows_is_the_mean_of_the_parts_weighted_by_events(parts: list[Ints]) -> None:
    calibration = certain(np.linspace(0.01, 0.99, 64), 32)
    merged = named(estimate(calibration, np.sum(parts, axis=0)))["accuracy"].estimated
    sizes = [int(part.sum()) for part in parts]
    if not sum(sizes):
        assert math.isnan(merged)
        return
    each = [named(estimate(calibration, part))["accuracy"].estimated for part in parts]
    assert merged == pytest.approx(sum(n * value for n, value in zip(sizes, each, strict=True) if n) / sum(sizes))


@pytest.mark.slow
@pytest.mark.parametrize("n_reference", [200, 5_000])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_band_covers_what_comes_true_without_drift_and_when_only_the_inputs_shift(
    n_reference: int, shift: float
) -> None:
    rng = np.random.default_rng([n_reference, int(shift)])
    within = {"auc": [], "accuracy": [], "log_loss": []}
    for _ in range(300):
        calibration = fit_calibration(count(*draw(rng, n_reference)), THRESHOLD_CELL, MEAN_SCORES)
        outcomes = count(*draw(rng, 2_000, shift))
        for check in compare(calibration, outcomes):
            if check.name in within:
                within[check.name].append(is_within(check))
    for name, hits in within.items():
        assert 0.91 <= np.mean(hits) <= 0.985, name


@pytest.mark.slow
def test_the_band_of_a_reference_covers_labels_that_err_together() -> None:
    def together(rng: Generator, n: int) -> tuple[Floats, Ints]:
        scores, _ = draw(rng, n)
        logit = (np.log(scores / (1 - scores)) + 0.3) / 1.5
        wander = np.repeat(rng.normal(size=n // 50), 50)  # fifty neighbours share what the score does not know
        return scores, (rng.random(n) < sigmoid(logit + wander)).astype(np.int64)

    rng = np.random.default_rng(3)
    within, rates = [], []
    for _ in range(150):
        scores, labels = together(rng, 20_000)
        reference = fit_reference(TrainingEvents(np.empty((20_000, 0)), scores, labels.astype(float)), [], 64)
        calibration = calibrate(reference)
        rates.append(calibration.design_effects["rate"])
        scores, labels = together(rng, 2_000)
        window = count_outcomes(reference, scores, labels.astype(float)).outcomes
        recall = named(compare(calibration, window))["recall"]
        within.append(is_within(recall))
    assert np.mean(rates) > 4
    assert 0.9 <= np.mean(within) <= 0.99


def test_design_effects_are_one_for_independent_events_and_k_for_events_that_come_k_times() -> None:
    rng = np.random.default_rng(4)
    _, calibration = reference_of(5)
    once = np.array([count(*draw(rng, 100)) for _ in range(2_000)])
    effects, repeated = design_effects(calibration, once), design_effects(calibration, 5 * once)
    assert effects.keys() == {"rate", "auc", "accuracy", "precision", "recall", "f1", "log_loss", "positives"}
    for name, effect in effects.items():
        assert effect < 1.15, name
        assert repeated[name] == pytest.approx(5, rel=0.15), name
    assert set(design_effects(calibration, np.zeros((0, 2, 64), int)).values()) == {1.0}


def test_a_design_effect_of_four_doubles_the_band_of_its_measure_alone() -> None:
    outcomes, plain = reference_of(6)
    window = count(*draw(np.random.default_rng(7), 5_000)).sum(axis=0)
    before = named(estimate(plain, window))
    after = named(estimate(fit_calibration(outcomes, THRESHOLD_CELL, MEAN_SCORES, {"auc": 4.0}), window))
    assert after["auc"].deviation == pytest.approx(2 * before["auc"].deviation)
    assert after["accuracy"] == before["accuracy"]


# Where it cannot work


def test_concept_drift_moves_the_performance_and_not_the_estimate_but_the_labels_tell() -> None:
    reference, calibration = reference_of(8)
    rng = np.random.default_rng(9)
    scores, labels = draw(rng, 5_000)
    turned = np.where(rng.random(5_000) < 0.2, 1 - labels, labels)  # every fifth label means the opposite now
    before, after = count(scores, labels), count(scores, turned)
    assert estimate(calibration, before.sum(axis=0)) == estimate(calibration, after.sum(axis=0))
    accuracy = named(compare(calibration, after))["accuracy"]
    assert accuracy.realised < accuracy.expected - 2 * accuracy.deviation - 0.05
    assert accuracy.p_value < 1e-6
    assert check(reference, after).p_order < 1e-6
    assert check(reference, before).p_order > 0.01


def test_unknown_inputs_with_familiar_scores_are_not_noticed() -> None:
    _, calibration = reference_of(10)
    rng = np.random.default_rng(11)
    scores, _ = draw(rng, 5_000)
    outcomes = count(scores, rng.integers(0, 2, 5_000))  # the model has no idea of them, and scores all the same
    area = named(compare(calibration, outcomes))["auc"]
    assert area.expected > 0.85
    assert area.realised < 0.55


def test_a_reference_of_training_rows_is_as_optimistic_as_the_model() -> None:
    rng = np.random.default_rng(12)
    inputs = rng.normal(size=(9_000, 5))
    labels = (rng.random(9_000) < sigmoid(inputs @ np.ones(5))).astype(np.int64)
    model = DecisionTreeClassifier(min_samples_leaf=2, random_state=0).fit(inputs[:3_000], labels[:3_000])
    outcomes = count(model.predict_proba(inputs)[:3_000, 1], labels[:3_000])
    unseen = count(model.predict_proba(inputs[3_000:6_000])[:, 1], labels[3_000:6_000])
    window = count(model.predict_proba(inputs[6_000:])[:, 1], labels[6_000:])
    on_training = named(compare(fit_calibration(outcomes, THRESHOLD_CELL), window))["auc"]
    on_unseen = named(compare(fit_calibration(unseen, THRESHOLD_CELL), window))["auc"]
    assert on_training.expected - 2 * on_training.deviation > on_training.realised + 0.05
    assert is_within(on_unseen)


# Compared with what came true


def test_labels_that_come_first_for_hard_events_do_not_fake_a_fall() -> None:
    _, calibration = reference_of(13)
    scores, labels = draw(np.random.default_rng(14), 8_000)
    is_hard = np.abs(scores - 0.5) < 0.3
    whole, early = count(scores, labels), count(scores[is_hard], labels[is_hard])
    checks, truth = (named(compare(calibration, outcomes)) for outcomes in (early, whole))
    for name in ("auc", "accuracy", "log_loss"):
        assert abs(checks[name].realised - truth[name].realised) > 0.08, name  # as if the model had become worse
        assert checks[name].p_value > 0.01, name


def test_labels_that_come_first_for_positives_are_corrected_by_the_shares_that_have_arrived() -> None:
    reference, calibration = reference_of(15)
    rng = np.random.default_rng(16)
    scores, labels = draw(rng, 20_000)
    arrived = (0.3, 0.9)
    is_here = rng.random(20_000) < np.array(arrived)[labels]
    early = count(scores[is_here], labels[is_here])
    naive = named(compare(calibration, early))
    checks = named(compare(calibration, early, arrived))
    for name in ("precision", "recall"):
        assert naive[name].p_value < 1e-6, name
    for name in ("accuracy", "precision", "recall", "log_loss"):
        assert checks[name].p_value > 0.01, name
    assert check(reference, early).p_direction < 1e-6
    assert check(reference, early, 1.0, arrived).p_direction > 0.01


def test_the_maps_uncertainty_goes_through_the_arrival_shares_by_their_derivative() -> None:
    _, calibration = reference_of(23)
    moved = replace(calibration, probability=calibration.probability + 1e-6)
    arrived = (0.3, 0.9)
    derivative = (moved.among_arrived(arrived).probability - calibration.among_arrived(arrived).probability) / 1e-6
    assert calibration.among_arrived(arrived).slope == pytest.approx(derivative, rel=1e-3)
    assert calibration.among_arrived((0.5, 0.5)) is calibration


def test_what_is_realised_on_the_labels_is_exact_but_for_the_cells() -> None:
    _, calibration = reference_of(19)
    outcomes = count(*draw(np.random.default_rng(20), 3_000))
    checks = named(compare(calibration, outcomes))
    assert checks["auc"].realised == pytest.approx(auc(outcomes), rel=1e-12)
    right = outcomes[0, :THRESHOLD_CELL].sum() + outcomes[1, THRESHOLD_CELL:].sum()
    assert checks["accuracy"].realised == pytest.approx(right / 3_000)


# Direct loss estimation


def test_the_reference_estimates_its_own_mean_loss_and_a_window_that_of_its_cells() -> None:
    rng = np.random.default_rng(50)
    cells = rng.integers(0, 5, 2_000)
    losses = rng.exponential(1.0 + cells)
    sums, squares = np.bincount(cells, losses), np.bincount(cells, losses**2)
    counts = np.bincount(cells)
    assert estimate_loss(sums, squares, counts, counts).estimated == pytest.approx(losses.mean())
    window = np.array([0, 0, 1, 0, 3])
    assert estimate_loss(sums, squares, counts, window).estimated == pytest.approx(
        (losses[cells == 2].mean() + 3 * losses[cells == 4].mean()) / 4
    )


def test_the_band_of_the_loss_covers_what_comes_true_when_only_the_predictions_shift() -> None:
    rng = np.random.default_rng(51)
    within = []
    for _ in range(400):
        cells, later = rng.integers(0, 10, 500), rng.binomial(9, 0.8, 300)
        losses, true = rng.exponential(1.0 + cells), rng.exponential(1.0 + later).mean()
        sums, squares = np.bincount(cells, losses, 10), np.bincount(cells, losses**2, 10)
        loss = estimate_loss(sums, squares, np.bincount(cells, minlength=10), np.bincount(later, minlength=10))
        within.append(loss.low <= true <= loss.high)
    assert 0.92 <= np.mean(within) <= 0.98


def test_the_band_of_a_loss_by_hand() -> None:
    """Losses 1, 3 and 5, 7: within cells 2 and 2, over 4 - 2 degrees of freedom 2; with it each cell's spread is 2.

    Of a window with shares 1/4 and 3/4 the variance is (1/16 + 9/16) 2 / 2 for the reference, and 2 / 4 for the window.
    """
    sums, squares, counts = np.array([4.0, 12.0, 0.0]), np.array([10.0, 74.0, 0.0]), np.array([2, 2, 0])
    loss = estimate_loss(sums, squares, counts, np.array([1, 3, 50]))
    assert loss.estimated == 5.0
    assert loss.deviation == pytest.approx(math.sqrt(10 / 16 + 0.5))
    assert loss.high - 5.0 == pytest.approx(5.0 - loss.low) == pytest.approx(1.96 * loss.deviation, rel=1e-3)
    assert estimate_loss(sums, squares, counts, np.array([1, 3, 50]), 4.0).deviation == pytest.approx(
        2 * loss.deviation
    )
    # Small losses are as certain as they are small.
    small = estimate_loss(sums / 1000, squares / 1e6, counts, np.array([1, 3, 50]))
    assert small.deviation == pytest.approx(loss.deviation / 1000)
    # A cell of one event each: the spread is that between them.
    single = estimate_loss(np.array([1.0, 3.0]), np.array([1.0, 9.0]), np.array([1, 1]), np.array([2, 2]))
    assert single.deviation == pytest.approx(math.sqrt(0.5 * 2 + 2 / 4))


def test_direct_loss_estimation_does_not_see_errors_that_grow_within_the_cells() -> None:
    counts = np.array([100, 100])
    before = estimate_loss(np.array([100.0, 300.0]), np.array([200.0, 1_000.0]), counts, counts)
    assert before.estimated == 2.0  # whatever the window's errors are: its predictions are all that is looked at


def test_the_direct_log_loss_is_that_of_the_calibration() -> None:
    rng = np.random.default_rng(52)
    scores, labels = draw(rng, 50_000)
    outcomes = count(scores, labels)
    by_cell = -np.log(np.where(np.arange(2)[:, None] == 1, MEAN_SCORES, 1 - MEAN_SCORES))
    window = count(*draw(rng, 5_000, 0.5)).sum(axis=0)
    sums, squares = (outcomes * by_cell).sum(axis=0), (outcomes * by_cell**2).sum(axis=0)
    direct = estimate_loss(sums, squares, outcomes.sum(axis=0), window)
    estimated_loss = named(estimate(fit_calibration(outcomes, THRESHOLD_CELL, MEAN_SCORES), window))["log_loss"]
    assert direct.estimated == pytest.approx(estimated_loss.estimated, rel=0.01)
    assert direct.high - direct.low == pytest.approx(estimated_loss.high - estimated_loss.low, rel=0.1)


def test_cells_of_a_loss_are_the_leaves_of_what_it_depends_on_and_their_counts_add_up() -> None:
    rng = np.random.default_rng(53)
    matrix, predictions = rng.integers(0, 4, (8_000, 2)).astype(float), rng.normal(size=8_000)
    matrix[::9, 1] = np.nan
    cells = LossCells.fit(matrix, predictions, rng.exponential(1.0 + matrix[:, 0]))
    assert cells.counts.sum() == 4_000  # the other half made the tree
    means = cells.loss_sums / cells.counts
    held = [cells.count(matrix[matrix[:, 0] == age], predictions[matrix[:, 0] == age]) @ means for age in range(4)]
    sizes = np.bincount(matrix[:, 0].astype(int))
    assert held / sizes == pytest.approx([1.0, 2.0, 3.0, 4.0], rel=0.15)
    parts = [cells.count(matrix[rows], predictions[rows]) for rows in (slice(0, 10), slice(10, 10), slice(10, None))]
    assert sum(parts).tolist() == cells.count(matrix, predictions).tolist()
    with pytest.raises(ValueError, match="one of each per event"):
        LossCells.fit(matrix, predictions[1:], predictions)


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 0), (150, 0), (6_000, 3), (16_000, 0)])
def test_the_cells_of_a_loss_are_those_of_a_tree_on_every_second_event_with_the_losses_of_the_others(
    n: int, seed: int
) -> None:
    rng = np.random.default_rng(54)
    matrix, predictions = rng.normal(size=(n, 3)), rng.normal(size=n)
    matrix[:, 2] = matrix[:, 1]  # which of the two a tree asks is left to its seed
    losses = rng.exponential(1.0 + np.abs(matrix[:, 0]) + (predictions > 0))
    odd = matrix.copy()
    odd[::7, 0] = np.inf
    plain = np.column_stack([np.where(np.isfinite(odd), odd, np.nan), predictions])
    tree = DecisionTreeRegressor(max_leaf_nodes=64, min_samples_leaf=min(100, n // 2), random_state=seed)
    held = tree.fit(plain[::2], losses[::2]).apply(plain[1::2])
    cells = LossCells.fit(odd, predictions, losses, **({"seed": seed} if seed else {}))
    assert cells.tree.tree_.feature.tolist() == tree.tree_.feature.tolist()
    assert cells.leaves.tolist() == [at for at, child in enumerate(tree.tree_.children_left) if child < 0]
    for place, leaf in enumerate(cells.leaves.tolist()):
        lost = losses[1::2][held == leaf]
        assert cells.counts[place] == len(lost)
        assert cells.loss_sums[place] == pytest.approx(lost.sum())
        assert cells.loss_squares[place] == pytest.approx((lost**2).sum())
    assert cells.count(odd[1::2], predictions[1::2]).tolist() == cells.counts.tolist()
    assert cells.count(odd[:0], predictions[:0]).tolist() == [0] * len(cells.leaves)
    for rows in ((matrix[:1], predictions[:1], losses[:1]), (matrix[1:], predictions, losses)):
        with pytest.raises(ValueError, match="two events or more"):
            LossCells.fit(*rows)
    with pytest.raises(ValueError, match="one of each per event"):
        LossCells.fit(matrix, predictions, losses[1:])


def test_a_loss_without_events_or_reference_is_not_known() -> None:
    one, none = np.array([4.0, 0.0]), np.array([0, 0])
    assert math.isnan(estimate_loss(one, one, np.array([3, 0]), none).estimated)
    assert math.isnan(estimate_loss(one, one, np.array([3, 0]), np.array([0, 5])).estimated)
    assert math.isnan(estimate_loss(one, one, np.array([1, 0]), np.array([5, 0])).low)
    assert estimate_loss(one, one, np.array([2, 0]), np.array([5, 9])).estimated == 2.0  # known cells only


# Bad input


def test_an_empty_window_has_no_estimate() -> None:
    _, calibration = reference_of(60)
    nothing = np.zeros(64, int)
    assert all(math.isnan(figure.estimated) and math.isnan(figure.low) for figure in estimate(calibration, nothing))
    compared = compare(calibration, np.zeros((2, 64), int))
    assert all(math.isnan(check.realised) and math.isnan(check.expected) for check in compared)


def test_a_single_event_has_an_accuracy_and_no_pairs() -> None:
    _, calibration = reference_of(61)
    window = np.zeros(64, int)
    window[50] = 1
    estimates = named(estimate(calibration, window))
    assert math.isnan(estimates["auc"].estimated)
    assert estimates["accuracy"].estimated == pytest.approx(calibration.probability[50])
    assert (estimates["accuracy"].low, estimates["accuracy"].high) != (0.0, 0.0)


def test_labels_of_one_kind_have_an_accuracy_and_no_auc() -> None:
    reference, calibration = reference_of(62)
    outcomes = np.zeros((2, 64), int)
    outcomes[1, 40:60] = 5
    checks = named(compare(calibration, outcomes))
    assert math.isnan(checks["auc"].realised)
    assert math.isnan(checks["auc"].p_value)
    assert checks["accuracy"].realised == 1
    assert check(reference, outcomes).rate_gap > 0
    assert math.isnan(check(np.zeros((2, 64), int), outcomes).p_direction)


def test_scores_that_all_fall_into_one_cell_rank_nobody() -> None:
    _, calibration = reference_of(63)
    window = np.zeros(64, int)
    window[40] = 1_000
    area = named(estimate(calibration, window))["auc"]
    assert area.estimated == pytest.approx(0.5)
    assert area.high - area.low < 1e-9
    one_cell = fit_calibration(np.array([[30], [70]]), 0)
    assert one_cell.probability == pytest.approx([0.7])


def test_a_reference_of_twenty_rows_says_little_and_says_so() -> None:
    rng = np.random.default_rng(64)
    within, widths = [], []
    for _ in range(200):
        outcomes = count(*draw(rng, 20))
        window = count(*draw(rng, 1_000))
        accuracy = named(compare(fit_calibration(outcomes, THRESHOLD_CELL), window))["accuracy"]
        if not math.isnan(accuracy.expected):
            within.append(is_within(accuracy))
            widths.append(2 * NORMAL_95 * accuracy.deviation)
    assert np.mean(within) > 0.85
    assert np.median(widths) > 0.15


# The measurement on the census, with drawn data


def test_the_census_finds_the_estimate_nearer_than_the_constant_where_inputs_wander() -> None:
    rng = np.random.default_rng(70)
    shifts = [-1.0, 0.0, 1.0, 2.0]
    drawn = [draw(rng, 2_000, shift) for shift in shifts]
    scores, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    before, truth = draw(rng, 10_000)
    figures = census(before, truth.astype(float), scores[:-500], labels[:-500].astype(float), window=2_000)
    assert [error.name for error in figures.errors] == list(MEASURES)
    assert figures.realised.shape == figures.estimated.shape == (4, 3)
    assert len(figures.checks) == 4
    assert [check.n_labels for check in figures.checks] == [2_000, 2_000, 2_000, 1_500]
    for error in figures.errors[1:]:
        assert error.mean < error.constant / 2
        assert error.mean < error.previous / 2
        assert error.coverage >= 0.75
    assert figures.realised[1, 0] == pytest.approx(roc_auc_score(labels[2_000:4_000], scores[2_000:4_000]))


def test_the_census_leaves_out_rows_without_score_or_label() -> None:
    rng = np.random.default_rng(71)
    before, truth = draw(rng, 3_000)
    scores, labels = draw(rng, 2_000)
    holes = np.full(10, np.nan)
    plain = census(before, truth.astype(float), scores, labels.astype(float), window=1_000)
    dirty = census(
        np.concatenate([before, holes, np.ones(10)]),
        np.concatenate([truth, np.ones(10), holes]),
        np.concatenate([holes, scores]),
        np.concatenate([np.zeros(10), labels]),
        window=1_000,
    )
    assert dirty.errors == plain.errors


def test_a_cost_is_that_of_the_errors_to_be_expected_and_of_those_that_came() -> None:
    reference, known = reference_of(70)
    priced = fit_calibration(reference, THRESHOLD_CELL, costs=(1.0, 20.0))
    window = count(*draw(np.random.default_rng(71), 4_000))
    scored, yes = window.sum(axis=0), np.arange(64) >= THRESHOLD_CELL
    due = (np.where(yes, (1 - known.probability), 20 * known.probability) @ scored) / scored.sum()
    came = (window[0] @ yes + 20 * (window[1] @ ~yes)) / scored.sum()
    cost_check = named(compare(priced, window))["cost"]
    assert named(estimate(priced, scored))["cost"].estimated == pytest.approx(due)
    assert (cost_check.expected, cost_check.realised) == pytest.approx((due, came))
    assert cost_check.deviation > 0
    assert "cost" not in named(estimate(known, scored))


@pytest.mark.slow
def test_costs_that_come_as_promised_are_rejected_as_seldom_as_promised() -> None:
    p_values = []
    for seed in range(300):
        rng = np.random.default_rng([72, seed])
        priced = fit_calibration(count(*draw(rng, 20_000)), THRESHOLD_CELL, costs=(1.0, 20.0))
        window = count(*draw(rng, 2_000))
        p_values.append(named(compare(priced, window))["cost"].p_value)
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.09
