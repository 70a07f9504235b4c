"""Events that come k times with a design effect of k say what they say once, in every test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import Ints
from app.core.drift.comparison import TESTS, Comparison
from app.core.faults.column import Column
from app.core.performance.label_checks import check_labels
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.training_events import TrainingEvents, category, numeric


def draw(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    """A number, heavy-tailed; a category, which may be new; both are missing at times."""
    rng = np.random.default_rng(seed)
    category = rng.choice([0.0, 1.0, 2.0, 3.0], n, p=[0.5, 0.3 - shift / 10, 0.15, 0.05 + shift / 10])
    matrix = np.column_stack([rng.lognormal(shift, 1.0, n), np.where(category == 3, -1.0, category)])
    matrix[rng.random(matrix.shape) < 0.02 + shift / 20] = np.nan
    return matrix


@pytest.fixture(scope="module")
def reference() -> Reference:
    events = TrainingEvents(draw(0, 3_000), np.full(3_000, 0.5), np.zeros(3_000))
    return fit_reference(events, [numeric("x"), category("k", 3)], 64)


def counts_of(reference: Reference, seed: int, n: int, shift: float) -> Ints:
    return count(reference, draw(seed, n, shift), np.full(n, 0.5)).counts


@pytest.mark.parametrize("test", list(TESTS))
@pytest.mark.parametrize(("n", "shift"), [(300, 0.0), (300, 0.3), (3_000, 0.1), (20, 0.5)])
def test_what_comes_k_times_says_what_it_says_once(reference: Reference, test: str, n: int, shift: float) -> None:
    if test == "psi" and n < 100:
        return  # half an event that is added to each group, however often the others come, is much there
    comparison = Comparison(reference, [test])
    window = counts_of(reference, 1, n, shift)
    comparison.design_effects = np.ones(len(reference.metrics))
    once = comparison.compare(reference.counts, window)[test]
    for k in (3, 10):
        comparison.design_effects = np.full(len(reference.metrics), float(k))
        repeated = comparison.compare(k * reference.counts, k * window)[test]
        tolerance = 0.2 if test == "psi" else 1e-9
        for name in ("statistic", "p_value", "effect"):
            value, expected = getattr(repeated, name), getattr(once, name)
            if (test, name) == ("chi_square", "statistic"):
                expected = k * expected  # as it is known from books, of all that was counted
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance / 4, nan_ok=True), name
    said = once.p_value[np.array(comparison.concerned[test])]
    assert ((said >= 0) & (said <= 1) | np.isnan(said)).all()


@pytest.mark.parametrize("test", ["psi", "jensen_shannon"])
def test_the_effect_of_windows_without_drift_is_near_nought_whatever_the_design_effect(
    reference: Reference, test: str
) -> None:
    """Half of them are beyond the mean by chance; the mean distance itself would be 0.06 and 0.1 for 300 events."""
    comparison = Comparison(reference, [test])
    comparison.design_effects = np.full(len(reference.metrics), 5.0)
    effects = [
        comparison.compare(reference.counts, 5 * counts_of(reference, seed, 300, 0.0))[test].effect[0]
        for seed in range(1, 60)
    ]
    assert np.median(effects) < 0.03


def test_a_value_beyond_the_range_on_either_side_is_judged_two_sided() -> None:
    """The one value of the window is the largest of ten: one in ten, and the smallest as often."""
    training = fit_reference(TrainingEvents(np.arange(9.0)[:, None], np.full(9, 0.5), np.zeros(9)), [numeric("x")], 64)
    comparison = Comparison(training, ["range"])
    comparison.design_effects = np.ones(len(training.metrics))
    for value in (100.0, -100.0):
        window = count(training, np.array([[value]]), np.array([0.5])).counts
        compared = comparison.compare(training.counts, window)["range"]
        assert (compared.p_value[0], compared.effect[0]) == pytest.approx((0.2, 1.0))


def test_the_effect_of_psi_is_what_chance_does_not_explain() -> None:
    """Shares 1/4 and 3/4 have changed places: ln 3. Chance explains 1/9 + 1/9 in two groups, twice that of pairs."""
    cells = (MetricCells("kind", "category", np.empty(0), codes=2),)
    nothing = np.zeros((0, 2, 1), np.int64)
    training = replace(Counts.zeros(1, 3, 1), n=9, counts=np.array([[2, 7, 0]]))
    comparison = Comparison(Reference(cells, training, 0.5, np.ones(1), np.zeros((1, 3)), nothing), ["psi"])
    for events_as_one in (1.0, 2.0):
        comparison.design_effects = np.array([events_as_one])
        compared = comparison.compare(training.counts, np.array([[7, 2, 0]]))["psi"]
        assert compared.effect[0] == pytest.approx(max(compared.statistic[0] - events_as_one * 2 / 9, 0))
    comparison.design_effects = np.ones(1)
    compared = comparison.compare(training.counts, np.array([[7, 2, 0]]))["psi"]
    assert compared.statistic[0] == pytest.approx(np.log(3))


def test_a_training_of_one_event_has_a_range() -> None:
    cells = (MetricCells("x", "numeric", np.array([0.0, 1.0])),)
    nothing = np.zeros((0, 2, 1), np.int64)
    training = replace(Counts.zeros(1, 4, 1), n=1, counts=np.array([[0, 1, 0, 0]]))
    comparison = Comparison(Reference(cells, training, 0.5, np.ones(1), np.zeros((1, 4)), nothing), ["range"])
    compared = comparison.compare(training.counts, np.array([[1, 2, 1, 0]]))["range"]
    assert compared.effect[0] == 0.5  # one below and one above, of four
    of_nothing = comparison.compare(np.zeros((1, 4), np.int64), np.array([[1, 2, 1, 0]]))["range"]
    assert np.isnan(of_nothing.effect[0])


@given(st.integers(1, 40), st.integers(0, 400), st.integers(1, 8))
def test_a_cell_holds_more_by_the_number_of_independent_events(in_cell: int, elsewhere: int, k: int) -> None:
    cells = MetricCells("x", "numeric", np.array([0.0, 1.0]))
    training, window = np.array([9_000, 100, 900, 0]), np.array([elsewhere, in_cell, 0, 0])
    once = Column(cells, training, window, (-1.0, 2.0), (-1.0, 2.0))
    repeated = Column(cells, training, k * window, (-1.0, 2.0), (-1.0, 2.0), design_effect=float(k))
    assert repeated.is_more(1) == once.is_more(1)


def test_labels_that_come_k_times_say_what_they_say_once() -> None:
    rng = np.random.default_rng(3)
    before, now = rng.integers(20, 60, (2, 20)), rng.integers(5, 20, (2, 20))
    falling = np.linspace(1.0, 0.0, 20)
    once = check_labels(before, now, lambda _: falling)
    repeated = check_labels(4 * before, 4 * now, lambda _: falling, 4.0)
    for name in ("p_direction", "p_order", "p_shape", "p_prior"):
        assert getattr(repeated, name) == pytest.approx(getattr(once, name), rel=0.05), name
    alike = check_labels(before, now, lambda _: falling, prior_effect=4.0)
    assert alike.p_prior > 1.5 * once.p_prior
    assert (alike.p_direction, alike.p_order, alike.p_shape) == (once.p_direction, once.p_order, once.p_shape)
