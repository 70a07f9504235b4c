"""A design effect is what the variance of a share is multiplied by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import rankdata

from models.reference.dependence import _marks, design_effect


def ar1(seed: int, n: int, rho: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=n) * np.sqrt(1 - rho**2)
    noise[0] /= np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1], [1, -rho], noise))


def in_cells(values: np.ndarray, n_cells: int = 64) -> np.ndarray:
    return np.quantile(values, np.arange(1, n_cells) / n_cells).searchsorted(values, side="right")


@pytest.mark.slow
def test_independent_events_count_in_full() -> None:
    effects = [design_effect(in_cells(ar1(seed, 3_000, 0.0)), 64, in_order=True) for seed in range(300)]
    assert np.count_nonzero(np.array(effects) > 1) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_it_is_not_below_the_variance_of_the_mean_rank(rho: float) -> None:
    """By arcsine: ranks of an AR(1) correlate as 6/pi asin(rho^k / 2)."""
    expected = 1 + 2 * np.sum(6 / np.pi * np.arcsin(rho ** np.arange(1, 200) / 2))
    effects = [design_effect(in_cells(ar1(seed, 20_000, rho)), 64, in_order=True) for seed in range(20)]
    assert expected * 0.97 < np.median(effects) < expected * 1.3


def test_blocks_that_differ_a_little_are_found_where_neighbours_hardly_correlate() -> None:
    generator = np.random.default_rng(3)
    values = np.repeat(0.15 * generator.normal(size=200), 500) + generator.normal(size=100_000)
    assert 6 < design_effect(in_cells(values), 64, in_order=True) < 20  # 1 + 499 * 0.15^2 / (1 + 0.15^2) = 12


@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 12), st.booleans())
@settings(max_examples=60)
def test_it_is_finite_and_at_least_one_whatever_comes(seed: int, n: int, n_cells: int, in_order: bool) -> None:
    cells = np.sort(np.random.default_rng(seed).integers(0, n_cells, n)) if seed % 2 else np.zeros(n, np.int64)
    assert 1.0 <= design_effect(cells, n_cells, in_order=in_order) < max(n, 2)


def test_only_the_nine_most_frequent_categories_are_looked_at() -> None:
    """A tenth that comes in one burst of forty events says nothing of the others; one of nine does."""
    cells = np.random.default_rng(4).integers(0, 9, 4_000)
    cells[1_000:1_040] = 9
    assert design_effect(cells, 10, in_order=False) == 1.0
    cells[cells == 0] = 1
    assert design_effect(cells, 10, in_order=False) > 4


@given(st.lists(st.integers(0, 7), min_size=64, max_size=90))
def test_events_of_a_cell_share_their_mean_rank(found: list[int]) -> None:
    cells = np.array([*found, 0, 7])
    ranks = _marks(cells, 8, in_order=True)[-1]
    np.testing.assert_allclose(ranks * len(cells) + 0.5, rankdata(cells), rtol=1e-12)


def test_too_few_events_say_nothing() -> None:
    assert design_effect(np.repeat([0, 1], 31), 2, in_order=False) == 1.0


def by_definition(cells: np.ndarray, n_cells: int, *, in_order: bool) -> float:
    """The blocking of the docstring, cut by cut and length by length."""
    n, effects, correlated = len(cells), {}, []
    if in_order:
        ordered = np.sort(cells)
        cuts = sorted({int(ordered[-(-tenth * n // 10) - 1]) for tenth in range(1, 10)} | {n_cells - 1})
        marks = [(cells <= cut) * 1.0 for cut in cuts]
    else:
        sizes = np.bincount(cells, minlength=n_cells + 1).tolist()
        codes = sorted(range(n_cells + 1), key=lambda code: -sizes[code])[:9]
        marks = [(cells == code) * 1.0 for code in codes]
    marks = [mark for mark in marks if 0 < mark.sum() < n]
    if in_order and marks:
        marks.append(rankdata(cells))
    if n < 64 or not marks:
        return 1.0
    level = 0
    while n // 2**level >= 32:
        length, blocks = 2**level, n // 2**level
        ratios = []
        for mark in marks:
            apart = mark - mark.mean()
            sums = np.array([apart[block * length : (block + 1) * length].sum() for block in range(blocks)])
            ratios.append((sums**2).mean() / (length * mark.var()))
            if (sums[1:] * sums[:-1]).sum() / (sums**2).sum() > 4 / math.sqrt(blocks):
                correlated.append(level)
        effects[level] = max(ratios)
        level += 1
    if not correlated:
        return 1.0
    level = min(correlated[-1] + 2, level - 1)
    return max(1.0, effects[level] * (1 + 1.28 * math.sqrt(2 / (n // 2**level))))


@pytest.mark.slow
@given(
    st.integers(0, 2**32),
    st.sampled_from([60, 63, 64, 65, 127, 128, 300, 1_000]),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([1, 2, 4, 12]),
    st.booleans(),
)
@settings(max_examples=150)
def test_it_is_the_ratio_of_the_docstring(seed: int, n: int, n_cells: int, stay: int, in_order: bool) -> None:
    """Values that stay for a while, some for long, the highest of them missing."""
    generator = np.random.default_rng(seed)
    cells = np.repeat(generator.integers(0, n_cells + 1, n), generator.integers(1, stay + 1, n))[:n]
    expected = by_definition(cells, n_cells, in_order=in_order)
    assert design_effect(cells, n_cells, in_order=in_order) == pytest.approx(expected)


def test_a_few_bursts_are_seen_in_blocks_of_the_longest_length_at_most() -> None:
    """One burst of half of all events: blocks are correlated as long as there are enough of them."""
    cells = np.repeat([0, 1], 512)
    assert design_effect(cells, 2, in_order=False) == pytest.approx(by_definition(cells, 2, in_order=False))
    assert design_effect(cells, 2, in_order=False) == pytest.approx(32 * (1 + 1.28 * 0.25))


def test_events_that_take_turns_are_no_more_than_they_are() -> None:
    """Three and three in turn: of four neighbours one, two or three, which is less than by chance."""
    cells = np.tile([0, 0, 0, 1, 1, 1], 1_000)
    assert design_effect(cells, 2, in_order=False) == 1.0
