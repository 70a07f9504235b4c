"""The tests of all metrics at once are those of one metric after the other, and each is about its kinds of metrics."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joined_cells import join_cells

from app.core.drift.comparison import TESTS, Comparison, Statistic, smallest_p
from app.core.drift.statistics.divergence import jensen_shannon
from app.core.drift.statistics.ks import ks
from app.core.drift.statistics.psi import group_cells, psi
from app.core.drift.statistics.shares import beyond_range, change_of_share, chi_square
from app.core.drift.statistics.wasserstein import Scale, wasserstein
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.training_events import TrainingEvents, category, numeric

ABOUT = {
    "psi": {"numeric", "score", "category", "outcome"},
    "ks": {"numeric", "score"},
    "wasserstein": {"numeric", "score"},
    "jensen_shannon": {"numeric", "score", "category", "outcome"},
    "chi_square": {"category", "outcome"},
    "null_rate": {"numeric", "score", "category"},
    "unseen": {"category"},
    "range": {"numeric", "score"},
}


def make_counts(cells: Reference | None, seed: int, n: int) -> Any:
    """Events whose features depend on the seed, counted; without cells, a reference of them."""
    rng = np.random.default_rng(seed)
    matrix = np.column_stack(
        [rng.normal(seed % 3, 2.0 + seed % 5, n), rng.integers(0, 4, n), rng.integers(0, 5, n), rng.integers(0, 30, n)]
    ).astype(np.float64)
    matrix[rng.random(matrix.shape) < 0.05 * (seed % 4)] = np.nan
    scores = rng.beta(1 + seed % 2, 2, n)
    labels = np.where(rng.random(n) < 0.3, np.nan, rng.random(n) < scores)
    if cells is not None:
        return count(cells, matrix, scores, labels)
    columns = [numeric("x"), category("kind", 4), numeric("n"), category("place", 30)]
    return fit_reference(TrainingEvents(matrix, scores, labels), columns, 16)


@functools.cache
def reference() -> Reference:
    return make_counts(None, 1, 600)  # type: ignore[no-any-return]  # as it says


def by_metric(test: str, row: int, before: np.ndarray, now: np.ndarray, effect: float) -> tuple[float, float, float]:
    """Statistic, p-value and effect of one metric, from its own cells."""
    metric, trained = reference().metrics[row], reference().counts[row]
    size = metric.size
    is_outcome = metric.kind == "outcome"
    missing, missing_now = (np.array(0) if is_outcome else each[size] for each in (before, now))
    groups = group_cells(trained[: size + 1], 20, by_size=metric.is_coded)
    of_before, of_now = [
        join_cells(np.append(side[:size], gone), groups) for side, gone in ((before, missing), (now, missing_now))
    ]
    here, there = before[:size], now[:size]
    n, m = here.sum(), there.sum()
    with np.errstate(all="ignore"):
        match test:
            case "psi":
                index = psi(of_before, of_now, effect)
                chance = (index.groups - 1) * (1 / of_before.sum() + 1 / of_now.sum()) * effect
                found: Any = index.statistic, index.p_value, np.maximum(index.statistic - chance, 0)
            case "ks":
                found = ks(here, there, effect)
            case "wasserstein":
                found = wasserstein(here, there, Scale.of(metric.edges, trained[:size]), effect)
            case "jensen_shannon":
                found = jensen_shannon(of_before, of_now, effect)
            case "chi_square":
                found = chi_square(of_before, of_now, effect)
            case "null_rate":
                found = change_of_share(missing, n + missing, missing_now, m + missing_now, effect)
            case "unseen":
                found = change_of_share(here[-1], n, there[-1], m, effect)
            case _:
                ends = [beyond_range(n, there[at], m, effect).p_value for at in (0, -1)]
                found = (there[0] + there[-1]) / m if n and m else math.nan, min(2 * min(ends), 1.0)
    return tuple(found) if len(found) == 3 else (*found, abs(found[0]))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@example(1, 4, 600, 600)  # with values below and above all of training
@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([0, 1, 40, 900]), st.sampled_from([1, 60, 600]))
def test_all_metrics_at_once_are_one_metric_after_the_other(seed: int, other: int, n: int, m: int) -> None:
    sides = make_counts(reference(), seed, n).counts, make_counts(reference(), other + 30, m).counts
    comparison = Comparison(reference(), [*TESTS, "of another name"])
    assert comparison.tests == tuple(TESTS)
    assert set(TESTS) == set(ABOUT)
    for each, effects in ((comparison, reference().design_effects), (comparison.with_independent_events(), np.ones(6))):
        found = each.compare(*sides)
        for test, outcome in found.items():
            for row, metric in enumerate(reference().metrics):
                of_all = [float(values[row]) for values in outcome]
                if metric.kind not in ABOUT[test]:
                    assert all(map(math.isnan, of_all))
                    continue
                alone = by_metric(test, row, sides[0][row], sides[1][row], float(effects[row]))
                assert of_all == pytest.approx([float(value) for value in alone], nan_ok=True, rel=1e-9), (test, row)


def test_windows_side_by_side_are_compared_as_one_by_one_and_nothing_is_written_to_their_counts() -> None:
    windows = np.array([make_counts(reference(), seed, 50 * seed).counts for seed in range(6)])
    parts, before = windows.reshape(2, 3, *windows.shape[1:]), windows.copy()
    comparison = Comparison(reference(), TESTS)
    together = comparison.compare(reference().counts, parts)
    for at, window in enumerate(windows):
        for test, alone in comparison.compare(reference().counts, window).items():
            for values, all_values in zip(alone, together[test], strict=True):
                assert np.array_equal(values, all_values[at // 3, at % 3], equal_nan=True), test
    for test, outcome in comparison.compare(np.broadcast_to(reference().counts, parts.shape), parts).items():
        for values, all_values in zip(outcome, together[test], strict=True):
            assert np.array_equal(values, all_values, equal_nan=True), test
    assert np.array_equal(windows, before)


def test_the_smallest_p_is_that_of_any_test_that_says_something() -> None:
    nan = math.nan
    p_values = {"a": [0.5, nan, nan], "b": [0.2, 0.9, nan], "c": [nan, 0.95, nan]}
    found = smallest_p({name: Statistic(*[np.array(p)] * 3) for name, p in p_values.items()})
    assert np.array_equal(found, [0.2, 0.9, nan], equal_nan=True)


def test_the_effect_of_a_shifted_share_is_beyond_what_chance_gives_and_never_below_nought() -> None:
    """PSI of 0.09 ... of two groups; chance gives 1 / n + 1 / m for the one degree of freedom."""
    cells = MetricCells("kind", "category", np.empty(0), 2), *reference().metrics[-2:]
    width = max(metric.size for metric in cells) + 1
    before, now = (Counts.zeros(3, width, cells[1].size) for _ in range(2))
    before.counts[0, :2], now.counts[0, :2] = [500, 500], [620, 380]
    nothing = np.zeros((1, 2, cells[1].size), np.int64)
    small = Reference(cells, before, 0.5, np.array([2.0, 1.0, 1.0]), np.zeros((3, width)), nothing)
    found = Comparison(small, ["psi"]).compare(before.counts, now.counts)["psi"]
    assert found.effect[0] == pytest.approx(found.statistic[0] - (1 / 1000 + 1 / 1000) * 2)
    same = Comparison(small, ["psi"]).compare(before.counts, before.counts)["psi"]
    assert (same.statistic[0], same.effect[0]) == (0.0, 0.0)
