"""What labels say of scores: right in the tails also of rare positives, and blind to what is no concept drift."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special, stats

from app.core.performance.label_checks import LabelCheck, check_labels
from app.core.performance.order_weights import Weights, order_weights

Ints = np.ndarray
Floats = np.ndarray
CELLS = 64
MIDDLES = (np.arange(CELLS) + 0.5) / CELLS
outcomes_of = hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(1, 12)), elements=st.integers(0, 60))


def falling(cells: int) -> Floats:
    return np.linspace(1.0, -1.0, cells)


def always(weights: Floats) -> Weights:
    return lambda _: weights


class World:
    """Events in cells of the score, each with its share of positives."""

    def __init__(self, base_rate: float, spread: float = 2.0) -> None:
        evidence = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
        low, high = -30.0, 30.0
        for _ in range(60):
            middle = (low + high) / 2
            rate = special.expit(middle + spread * evidence).mean()
            low, high = (middle, high) if rate < base_rate else (low, middle)
        chances = special.expit(low + spread * evidence)
        self.chances = chances.reshape(100, -1).mean(axis=1)
        self.base_rate = base_rate

    def draw(
        self, rng: np.random.Generator, n: int, chances: Floats | None = None, shares: Floats | None = None
    ) -> Ints:
        in_cell = rng.multinomial(n, np.full(100, 0.01) if shares is None else shares)
        positive = rng.binomial(in_cell, self.chances if chances is None else chances)
        return np.stack([in_cell - positive, positive])

    def check(self, reference: Ints, outcomes: Ints, *more: float) -> LabelCheck:
        return check_labels(reference, outcomes, order_weights(reference, self.chances), *more)


# -- as defined --------------------------------------------------------------------------------------------------------


def test_the_direction_in_one_cell_is_that_of_a_draw_without_replacement() -> None:
    reference, outcomes = np.array([[60], [40]]), np.array([[20], [30]])
    check = check_labels(reference, outcomes, always(np.zeros(1)))
    draws = stats.hypergeom(150, 70, 50)
    pearson = stats.pearson3(draws.stats("s"), draws.mean(), draws.std())
    assert check.p_direction == pytest.approx(2 * pearson.sf(30), rel=0.02)
    assert check.rate_gap == pytest.approx(30 / 50 - 40 / 100)
    assert check.direction == "more positives than the scores say"
    assert check.rate_change == pytest.approx(0.2)
    assert math.isnan(check.p_order)
    assert math.isnan(check.p_shape)


@pytest.mark.slow
@settings(max_examples=60)
@given(outcomes_of, st.data(), st.sampled_from([1.0, 2.5]))
def test_odds_that_differ_by_one_factor_are_due(reference: Ints, data: st.DataObject, effect: float) -> None:
    """The positives due are found by scipy from the definition: of each table, at the one odds ratio that adds up."""
    outcomes = data.draw(hnp.arrays(np.int64, reference.shape, elements=st.integers(0, 40)))
    weights = falling(reference.shape[1])
    both = (reference.sum(axis=0) > 0) & (outcomes.sum(axis=0) > 0)
    n, m = reference[:, both].sum(axis=0), outcomes[:, both].sum(axis=0)
    k, j = reference[1, both] + outcomes[1, both], outcomes[1, both]
    check = check_labels(reference, outcomes, always(weights), effect)
    if not both.any() or not 0 < j.sum() < np.minimum(m, k).sum() or j.sum() == np.maximum(k - n, 0).sum():
        assert math.isnan(check.p_order)
        return

    def due(log_factor: float) -> Floats:
        due = []
        for of_n, of_m, of_k in zip(n.tolist(), m.tolist(), k.tolist(), strict=True):
            low, high = max(of_k - of_n, 0), min(of_m, of_k)

            def off(x: float, n: int = of_n, m: int = of_m, k: int = of_k) -> float:
                return x * (n - k + x) - math.exp(log_factor) * (m - x) * (k - x)

            due.append(low if low == high else optimize.brentq(off, low, high))
        return np.array(due)

    at = due(optimize.brentq(lambda each: due(each).sum() - j.sum(), -28, 28, xtol=1e-12))
    with np.errstate(divide="ignore"):
        spread = 1 / (1 / at + 1 / (m - at) + 1 / (k - at) + 1 / (n - k + at))
    centred = weights[both] - weights[both] @ spread / spread.sum() if spread.sum() > 1e-9 else np.zeros(len(at))
    variance = centred**2 @ spread
    if variance <= 1e-6 * spread.sum():
        return
    third = centred**3 @ (spread * (1 - 2 * k / (n + m)) * (n - m) / (n + m))
    value, deviation = centred @ (j - at), math.sqrt(variance * effect)
    law = stats.pearson3(third / variance**1.5 * math.sqrt(effect), 0, deviation)
    if law.sf(value) >= 0.1:  # below, it is looked at more closely
        assert check.p_order == pytest.approx(law.sf(value), rel=1e-3, abs=1e-6)
    else:
        assert 0 <= check.p_order <= 1


@given(outcomes_of, st.data())
def test_swapping_the_labels_turns_the_gap_around(reference: Ints, data: st.DataObject) -> None:
    outcomes = data.draw(hnp.arrays(np.int64, reference.shape, elements=st.integers(0, 30)))
    weights = falling(reference.shape[1])
    check, swapped = (
        check_labels(*each, always(weights)) for each in ((reference, outcomes), (reference[::-1], outcomes[::-1]))
    )
    for name in ("p_direction", "p_shape", "p_prior"):
        assert getattr(check, name) == pytest.approx(getattr(swapped, name), rel=1e-4, abs=1e-9, nan_ok=True), name
        assert math.isnan(getattr(check, name)) or 0 <= getattr(check, name) <= 1 + 1e-9
    assert check.rate_gap == pytest.approx(-swapped.rate_gap, nan_ok=True)
    assert check.rate_change == pytest.approx(-swapped.rate_change, nan_ok=True)


def test_where_nothing_can_be_said_nothing_is() -> None:
    nothing, some = np.zeros((2, CELLS), np.int64), np.ones((2, CELLS), np.int64)
    for reference, outcomes in ((some, nothing), (nothing, some)):
        check = check_labels(reference, outcomes, order_weights(reference, MIDDLES))
        assert check.n_labels == outcomes.sum()
        assert all(math.isnan(each) for each in (check.p_direction, check.p_order, check.p_shape, check.p_prior))
        assert check.direction == "too few labels to say"
    one_kind = np.stack([np.zeros(CELLS, np.int64), np.full(CELLS, 3)])
    check = check_labels(one_kind, one_kind, order_weights(one_kind, MIDDLES))
    assert all(math.isnan(each) for each in (check.p_direction, check.p_order, check.p_shape, check.p_prior))


# -- calibrated --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("base_rate", "n"), [(0.001, 10_000), (0.005, 10_000), (0.01, 300), (0.05, 3_000), (0.3, 600)])
def test_quiet_labels_are_rejected_as_seldom_as_promised(base_rate: float, n: int) -> None:
    rng = np.random.default_rng([n, int(1e4 * base_rate)])
    world = World(base_rate)
    all_p_values = []
    for _ in range(12):
        reference = world.draw(rng, 20 * n)
        weights = order_weights(reference, world.chances)
        for _ in range(50):
            check = check_labels(reference, world.draw(rng, n), weights)
            all_p_values.append((check.p_direction, check.p_order, check.p_shape, check.p_prior))
    p_values = np.nan_to_num(np.array(all_p_values), nan=1.0)
    assert ((p_values < 0.05).mean(axis=0) < 0.08).all()
    assert ((p_values < 0.01).mean(axis=0) < 0.025).all()


def test_inputs_that_shift_move_the_rate_and_not_what_scores_mean() -> None:
    world, rng = World(0.05), np.random.default_rng(1)
    reference = world.draw(rng, 100_000)
    higher = np.linspace(0.2, 1.8, 100) / 100
    checks = [world.check(reference, world.draw(rng, 10_000, shares=higher)) for _ in range(40)]
    assert max(check.p_prior for check in checks) < 1e-6
    for name in ("p_direction", "p_order", "p_shape"):
        assert np.mean([getattr(check, name) < 0.05 for check in checks]) < 0.2, name


@pytest.mark.parametrize("base_rate", [0.01, 0.2])
def test_more_positives_like_those_before_are_told_by_direction_and_prior_alone(base_rate: float) -> None:
    world, rng = World(base_rate), np.random.default_rng(2)
    reference = world.draw(rng, 200_000)
    odds = 2 * world.chances / (1 - world.chances)
    checks = [world.check(reference, world.draw(rng, 10_000, odds / (1 + odds))) for _ in range(40)]
    assert np.median([max(check.p_prior, check.p_direction) for check in checks]) < 1e-6
    assert np.median([check.rate_gap for check in checks]) > base_rate / 3
    for name in ("p_order", "p_shape"):
        assert np.mean([getattr(check, name) < 0.05 for check in checks]) < 0.2, name


@pytest.mark.slow
@pytest.mark.parametrize("positives", [4, 12, 60])
def test_the_tail_of_the_order_is_that_of_so_many_positives_in_their_cells(positives: int) -> None:
    """Drawn half a million times, beside a reference so large that it is the law."""
    world, rng = World(0.01), np.random.default_rng(8)
    n = round(positives / world.base_rate)
    reference = np.rint(1e8 * np.stack([1 - world.chances, world.chances])).astype(np.int64)
    weights = order_weights(reference, world.chances)(positives)
    shares = world.chances / world.chances.sum()
    drawn = np.sort(weights[rng.choice(100, (500_000 // positives * 4, positives), p=shares)].mean(axis=1))[::-1]
    for level in (0.05, 0.005, 0.0005):
        at_least = drawn[int(level * len(drawn))]
        # Positives whose mean weight is about that: most where they should be, the rest as far down as it takes.
        placed = np.zeros(100, np.int64)
        for _ in range(20_000):
            trial = np.bincount(rng.choice(100, positives, p=0.7 * shares + 0.3 / 100), minlength=100)
            if abs(trial @ weights / positives - at_least) < 0.02 * np.ptp(weights):
                placed = trial
                break
        assert placed.any()
        exact = float((drawn >= placed @ weights / positives).mean())
        negatives = np.full(100, n // 100) - placed
        p_order = check_labels(reference, np.stack([negatives, placed]), always(weights)).p_order
        assert exact / 2.5 < p_order < 2.5 * exact + 1e-4


# -- what is found -----------------------------------------------------------------------------------------------------


def turned(world: World) -> Floats:
    """What spoke for a positive speaks against it."""
    return world.chances[::-1].copy()


def blurred(world: World) -> Floats:
    """A quarter of the positives is like any event: an AUC that is 0.1 lower."""
    return 0.75 * world.chances + 0.25 * world.base_rate


@pytest.mark.parametrize("change", [turned, blurred])
@pytest.mark.parametrize("base_rate", [0.01, 0.05, 0.2])
def test_scores_that_tell_less_are_found_where_positives_are_rare(
    change: Callable[[World], Floats], base_rate: float
) -> None:
    world, rng = World(base_rate), np.random.default_rng(3)
    reference = world.draw(rng, 200_000)
    checks = [world.check(reference, world.draw(rng, 10_000, change(world))) for _ in range(20)]
    assert np.median([check.p_order for check in checks]) < 1e-4
    assert np.median([check.p_direction for check in checks]) > 0.01


def test_scores_that_tell_more_are_no_loss() -> None:
    world, rng = World(0.2, spread=1.0), np.random.default_rng(4)
    reference = world.draw(rng, 100_000)
    sharper = World(0.2, spread=2.0).chances
    checks = [world.check(reference, world.draw(rng, 10_000, sharper)) for _ in range(20)]
    assert min(check.p_order for check in checks) > 0.5
    assert max(check.p_shape for check in checks) < 1e-6  # other odds they are all the same


@pytest.mark.slow
def test_the_order_is_found_nearly_as_often_as_by_who_knows_the_change() -> None:
    """The likelihood ratio of the very change, at the same level."""
    world, rng = World(0.01), np.random.default_rng(5)
    now = 0.9 * world.chances + 0.1 * world.base_rate
    of_positive, of_negative = np.log(now / world.chances), np.log((1 - now) / (1 - world.chances))

    def ratio(outcomes: Ints) -> float:
        return float(of_positive @ outcomes[1] + of_negative @ outcomes[0])

    limit = np.quantile([ratio(world.draw(rng, 10_000)) for _ in range(2_000)], 0.99)
    reference = world.draw(rng, 500_000)
    weights = order_weights(reference, world.chances)
    drawn = [world.draw(rng, 10_000, now) for _ in range(300)]
    oracle = np.mean([ratio(each) > limit for each in drawn])
    ours = np.mean([check_labels(reference, each, weights).p_order < 0.01 for each in drawn])
    assert 0.4 < oracle < 0.99
    assert ours > 0.8 * oracle


@pytest.mark.slow
def test_of_few_positives_a_total_loss_is_found_by_weights_for_few() -> None:
    """Weights for many are best where a tenth has strayed, which half a dozen positives cannot tell."""
    world, rng = World(0.01, spread=1.5), np.random.default_rng(9)
    reference = world.draw(rng, 200_000)
    weights = order_weights(reference, world.chances)
    drawn = [world.draw(rng, 600, np.full(100, world.base_rate)) for _ in range(300)]
    of_few, of_many = (
        np.mean([check_labels(reference, each, weigh).p_order < 1e-4 for each in drawn])
        for weigh in (weights, always(weights(50)))
    )
    assert of_few > of_many + 0.05


def test_labels_that_come_early_for_one_outcome_are_corrected_by_the_shares_that_have_arrived() -> None:
    world, rng = World(0.05), np.random.default_rng(6)
    reference, whole = world.draw(rng, 100_000), world.draw(rng, 20_000)
    arrived = (0.3, 0.9)
    early = rng.binomial(whole, np.array(arrived)[:, None])
    weights = order_weights(reference, world.chances)
    assert check_labels(reference, early, weights).p_direction < 1e-6
    corrected = check_labels(reference, early, weights, 1.0, arrived)
    assert corrected.p_direction > 0.001
    assert corrected.p_order > 0.001


def test_a_design_effect_makes_every_test_more_careful() -> None:
    world, rng = World(0.2), np.random.default_rng(7)
    reference, outcomes = world.draw(rng, 20_000), world.draw(rng, 2_000, 0.5 * world.chances + 0.15)
    plain, careful = world.check(reference, outcomes), world.check(reference, outcomes, 4.0)
    for name in ("p_direction", "p_order", "p_shape", "p_prior"):
        assert getattr(careful, name) > getattr(plain, name), name
    assert careful.rate_gap == plain.rate_gap
    assert world.check(reference, outcomes, 0.5) == plain


@pytest.mark.parametrize("effect", [1.0, 8.4])
def test_no_positive_at_all_is_as_likely_as_that_is(effect: float) -> None:
    """1.4 are due, most of them in one event that hardly ever is none."""
    reference = np.array([[100_000, 100, 10], [500, 100, 190]])
    outcomes = np.array([[90, 0, 0], [0, 0, 0]]) + np.array([[0, 0, 1], [0, 0, 0]])
    check = check_labels(reference, outcomes, always(falling(3)), effect)
    chance = (0.995**90 * 0.05) ** (1 / effect)
    assert 0.5 * chance < check.p_direction < 4 * chance
    assert check.p_prior > 0.9 * (1 - 790 / 101_000) ** (91 / effect)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize(("base_rate", "n", "together"), [(0.02, 240, 8), (0.02, 2_000, 4), (0.005, 400, 5)])
def test_a_handful_of_labels_of_which_several_count_as_one_is_no_certainty(
    base_rate: float, n: int, together: int, *, alike: bool
) -> None:
    """Scores tell nearly all; positives come together, or might and do not (``alike``)."""
    world = World(base_rate, spread=5.0)
    rng = np.random.default_rng(n)
    reference = world.draw(rng, 100_000)
    weights = order_weights(reference, world.chances)
    copies = together if alike else 1
    checks = [
        check_labels(reference, copies * world.draw(rng, n // copies), weights, float(together)) for _ in range(2_000)
    ]
    for level in (0.05, 0.005):
        for name in ("p_order", "p_direction", "p_prior"):
            rejected = np.mean([getattr(check, name) < level for check in checks])
            assert rejected <= 1.5 * level + 0.002, name


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_weights_fall_with_the_score_and_know_nothing_of_a_scale_of_its_odds(seed: int) -> None:
    """A model that is calibrated otherwise (balanced classes, say) has the same order."""
    world, rng = World(0.03), np.random.default_rng(seed)
    reference = world.draw(rng, 30_000)
    positives = float(rng.integers(0, 2_000))
    weights = order_weights(reference, world.chances)(positives)
    assert (np.diff(weights) <= 1e-9).all()
    odds = 30 * world.chances / (1 - world.chances)
    np.testing.assert_allclose(order_weights(reference, odds / (1 + odds))(positives), weights, atol=1e-5)


def test_cells_that_expect_fewer_than_five_of_either_label_are_judged_as_one() -> None:
    """One pool says nothing of a shape; three times as many events are enough for a pool each."""
    reference, window = np.array([[900, 900], [30, 30]]), np.array([[92, 97], [8, 3]])
    assert math.isnan(check_labels(reference, window, always(falling(2))).p_shape)
    more = check_labels(reference, 3 * window, always(falling(2)))
    # Of two tables with one odds ratio, the chi-square of homogeneity is twice the square of one's deviation.
    ratio = stats.contingency.odds_ratio
    log_odds = [
        math.log(ratio(np.stack([3 * window[::-1, at], reference[::-1, at]], axis=1), kind="sample").statistic)
        for at in (0, 1)
    ]
    spread = [(1 / (3 * window[:, at])).sum() + (1 / reference[:, at]).sum() for at in (0, 1)]
    wald = (log_odds[0] - log_odds[1]) ** 2 / sum(spread)
    assert more.p_shape == pytest.approx(stats.chi2.sf(wald, 1), rel=0.5)
