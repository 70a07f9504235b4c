"""Laws of the drift statistics, held against scipy and numpy and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from joined_cells import join_cells
from scipy import stats

from app.core.drift.statistics.deciles import DecileCells, deciles
from app.core.drift.statistics.divergence import jensen_shannon
from app.core.drift.statistics.interval import interval, rank_p_value
from app.core.drift.statistics.ks import ks
from app.core.drift.statistics.psi import group_cells, psi
from app.core.drift.statistics.shares import beyond_range, change_of_share, chi_square
from app.core.drift.statistics.trend import trend
from app.core.drift.statistics.wasserstein import Scale, wasserstein
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import MetricCells
from models.reference.training_events import TrainingEvents, numeric

counts = hnp.arrays(np.int64, 8, elements=st.integers(0, 1_000))
#: So few that they differ by chance.
few_counts = hnp.arrays(np.int64, 8, elements=st.integers(0, 12))


@given(counts, counts)
def test_psi_and_ks_are_non_negative_symmetric_and_finite_with_empty_cells(one: np.ndarray, other: np.ndarray) -> None:
    for statistic in (psi, ks):
        result = statistic(one, other)
        if one.sum() == 0 or other.sum() == 0:
            assert math.isnan(result.statistic)
            continue
        assert 0 <= result.statistic < math.inf
        assert 0 <= result.p_value <= 1
        assert result.statistic == pytest.approx(statistic(other, one).statistic, abs=1e-12)


@given(counts)
def test_psi_and_ks_are_zero_on_itself(one: np.ndarray) -> None:
    if one.sum():
        assert (psi(one, one).statistic, psi(one, one).p_value) == (0.0, 1.0)
        assert ks(one, one) == (0.0, 1.0)


def test_psi_by_hand() -> None:
    # With half a pseudo-count: 1/3, 2/3 against 2/3, 1/3, so 2 * (1/3) * ln 2 of n = m = 2.
    result = psi(np.array([0, 1]) + np.array([0, 0]), np.array([1, 0]))
    assert result.statistic == pytest.approx(2 * (0.75 - 0.25) * math.log(3))
    assert result.p_value == pytest.approx(stats.chi2.sf(math.log(3) / 2, 1))
    assert psi(np.array([199, 399]), np.array([399, 199])).statistic == pytest.approx(
        2 * (399.5 - 199.5) / 599 * math.log(399.5 / 199.5)
    )


def test_psi_p_value_is_uniform_without_drift() -> None:
    generator = np.random.default_rng(5)
    share = np.full(10, 0.1)
    p_values = [
        psi(generator.multinomial(5_000, share), generator.multinomial(3_000, share)).p_value for _ in range(400)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_psi_of_two_normal_samples_is_small_where_an_epsilon_makes_it_large() -> None:
    generator = np.random.default_rng(6)
    edges = np.linspace(-4, 4, 41)
    one, other = (np.histogram(generator.normal(size=1_000), edges)[0] for _ in range(2))
    assert psi(one, other).statistic < 0.12


@given(counts, st.integers(1, 12), st.booleans())
def test_groups_cover_all_cells_with_enough_mass_each(one: np.ndarray, n_groups: int, by_size: bool) -> None:
    groups = group_cells(one, n_groups, by_size)
    mass = np.bincount(groups, weights=one)
    assert sorted(set(groups.tolist())) == list(range(int(groups[-1]) + 1))
    assert len(mass) <= n_groups + 1
    if len(mass) > 2:
        assert (mass[:-1] * n_groups >= one[:-1].sum()).all()
    if not by_size:
        assert (np.diff(groups) >= 0).all()


@settings(max_examples=40)
@given(few_counts, few_counts, st.sampled_from([1.0, 2.0, 3.5]))
def test_statistics_of_groups_count_events_divided_by_their_design_effect(
    one: np.ndarray, other: np.ndarray, effect: float
) -> None:
    """By definition: PSI with half a pseudo-count, the likelihood ratio and Pearson's chi^2 of scipy."""
    n, m = one.sum(), other.sum()
    table = np.stack([one, other])[:, (one + other) > 0]
    groups = table.shape[1]
    found_psi, found_js, found_chi = (test(one, other, effect) for test in (psi, jensen_shannon, chi_square))
    if not n or not m:
        assert all(math.isnan(each) for result in (found_psi, found_js, found_chi) for each in result[:2])
        return
    chi2 = stats.chi2(groups - 1)
    p, q = ((counts + 0.5) / (counts.sum() + groups / 2) for counts in table)
    distance = ((q - p) * np.log(q / p)).sum()
    assert found_psi.statistic == pytest.approx(distance, abs=1e-12)
    assert found_psi.groups == groups
    p_values = {"pearson": 1.0, "log-likelihood": 1.0}
    if groups > 1:
        for name in p_values:
            ratio = stats.chi2_contingency(table, correction=False, lambda_=name).statistic
            p_values[name] = chi2.sf(ratio / effect)
    assert found_psi.p_value == pytest.approx(chi2.sf(distance / (1 / n + 1 / m) / effect) if groups > 1 else 1.0)
    assert found_chi.p_value == pytest.approx(p_values["pearson"], rel=1e-9)
    assert found_js.p_value == pytest.approx(p_values["log-likelihood"], rel=1e-6)
    assert found_chi.effect == pytest.approx(math.sqrt(found_chi.statistic / (n + m)))
    by_chance = (groups - 1) / (8 * math.log(2)) * (1 / n + 1 / m) * effect
    beyond = max(float(found_js.statistic) ** 2 - by_chance, 0.0)
    assert found_js.effect == pytest.approx(math.sqrt(beyond), abs=1e-7)


def test_pairs_of_windows_side_by_side_have_the_statistics_that_each_has_alone() -> None:
    windows = np.random.default_rng(13).integers(0, 4, (2, 3, 2, 4)) * 5
    windows[0, 0, 0] = windows[:, 1, 0] = 0
    windows[:, 2, 0, 1:] = 0
    effects, groups = np.array([[1.0, 2.5], [2.0, 2.5], [2.5, 1.0]]), np.array([1, 0, 2, 1])
    joined = join_cells(windows[0], groups)
    for test in (psi, jensen_shannon, chi_square, lambda one, other, _: ks(one, other)):
        together = test(windows[0], windows[1], effects)
        for at in np.ndindex(3, 2):
            alone = test(windows[0][at], windows[1][at], float(effects[at]))
            for one, many in zip(alone, together, strict=True):
                np.testing.assert_allclose(many[at], one, rtol=1e-12)
            assert joined[at].tolist() == np.bincount(groups, weights=windows[0][at]).tolist()


@pytest.mark.parametrize(
    ("cells", "n_groups", "by_size", "groups"),
    [
        # The last cell is "missing". A group is full at its share of the mass, if as much is left for another.
        ([3, 3, 3, 3, 0], 4, False, [0, 1, 2, 3, 4]),
        ([3, 3, 3, 2, 0], 4, False, [0, 1, 2, 2, 3]),
        ([2, 3, 1, 6, 9], 4, False, [0, 0, 1, 1, 2]),
        ([1, 1, 1, 1, 1, 1, 5], 3, False, [0, 0, 1, 1, 2, 2, 3]),
        ([0, 4, 0, 4, 0, 0], 2, False, [0, 0, 1, 1, 1, 2]),
        ([7, 0, 0, 1], 3, False, [0, 0, 0, 1]),
        ([5, 5, 5, 0], 1, False, [0, 0, 0, 1]),
        ([0, 0, 0], 5, False, [0, 0, 1]),
        # From the largest on; of equal ones the first comes first.
        ([2, 5, 2, 5, 2, 1], 4, True, [2, 0, 2, 1, 2, 3]),
        ([4, 4, 4, 4, 3], 2, True, [0, 0, 1, 1, 2]),
    ],
)
def test_cells_are_joined_from_one_end_to_the_other(
    cells: list[int], n_groups: int, by_size: bool, groups: list[int]
) -> None:
    assert group_cells(np.array(cells), n_groups, by_size).tolist() == groups


def test_rare_categories_are_joined_with_each_other() -> None:
    assert group_cells(np.array([1, 40, 2, 50, 1, 0]), 4, by_size=True).tolist() == [1, 1, 1, 0, 1, 2]


@given(st.integers(0, 2**32), st.floats(-0.5, 0.5))
def test_ks_equals_scipy_on_values_that_are_the_cells(seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    one = np.round(generator.normal(size=400) * 2).clip(-6, 6)
    other = np.round((generator.normal(size=250) + shift) * 2).clip(-6, 6)
    edges = np.arange(-6.5, 7.0)
    result = ks(np.histogram(one, edges)[0], np.histogram(other, edges)[0])
    expected = stats.ks_2samp(one, other, method="asymp").statistic
    assert result.statistic == pytest.approx(expected, abs=1e-15)
    assert result.p_value == pytest.approx(stats.kstwobign.sf(math.sqrt(400 * 250 / 650) * expected))


def test_ks_by_hand() -> None:
    # F = 1/4, 1, 1 and G = 0, 1/2, 1: D = 1/2; K > sqrt(4 * 2 / 6) / 2.
    result = ks(np.array([1, 3, 0]), np.array([0, 1, 1]))
    assert result.statistic == 0.5
    x = math.sqrt(4 * 2 / 6) / 2
    series = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 50))
    assert result.p_value == pytest.approx(series)


def test_ks_on_reference_cells_holds_its_level_at_volume() -> None:
    generator = np.random.default_rng(7)
    reference = fit_reference(
        TrainingEvents(generator.normal(size=(20_000, 1)), generator.random(20_000), np.zeros(20_000)),
        [numeric("x")],
        128,
    )
    size = reference.metrics[0].size
    false = 0
    for _ in range(100):
        window = count(reference, generator.normal(size=(20_000, 1)), generator.random(20_000))
        false += ks(reference.counts[0, :size], window.counts[0, :size]).p_value < 0.05
    assert false <= 12  # 5 expected; more than 12 of 100 has probability 0.002


def fit_deciles(values: np.ndarray, bins: int = 128) -> tuple[np.ndarray, MetricCells]:
    n = len(values)
    reference = fit_reference(TrainingEvents(values[:, None], np.zeros(n), np.zeros(n)), [numeric("x")], bins)
    training = reference.training
    cells = reference.metrics[0]
    return deciles(cells, training.counts[0], float(training.minima[0]), float(training.maxima[0])), cells


def test_deciles_are_within_a_cell_of_numpys() -> None:
    values = np.random.default_rng(8).gamma(2.0, size=5_000)
    found, cells = fit_deciles(values)
    exact = np.quantile(values, np.arange(1, 11) / 10)
    width = np.diff([values.min(), *cells.edges, values.max()])
    place = np.searchsorted(cells.edges, exact[:-1])
    assert (np.abs(found - exact)[:-1] <= width[place] + width[place - 1]).all()
    assert found[-1] == values.max()


def test_deciles_of_few_distinct_values_are_those_values() -> None:
    values = np.repeat([0.0, 1.0, 5.0], [10, 50, 40])
    found, _ = fit_deciles(values)
    assert found.tolist() == [0, 1, 1, 1, 1, 1, 5, 5, 5, 5]


@given(hnp.arrays(np.int64, 8, elements=st.integers(0, 50)), st.floats(-20, 5), st.floats(0, 30))
def test_deciles_ascend_within_the_extremes(one: np.ndarray, minimum: float, spread: float) -> None:
    cells = MetricCells("x", "numeric", np.array([-3.0, -1.0, 0.0, 0.0 + 5e-324, 2.0, 9.0]))
    found = deciles(cells, one, minimum, minimum + spread)
    if one[:7].sum() == 0:
        assert np.isnan(found).all()
    else:
        assert (np.diff(found) >= 0).all()
        assert found.min() >= minimum
        assert found[-1] == minimum + spread


@given(st.lists(hnp.arrays(np.int64, st.integers(3, 9), elements=st.integers(0, 40)), min_size=1, max_size=5))
def test_metrics_side_by_side_have_the_deciles_that_each_has_alone(counts: list[np.ndarray]) -> None:
    cells = [MetricCells("x", "numeric", np.arange(len(each) - 2.0) * (1 + at)) for at, each in enumerate(counts)]
    padded = np.zeros((len(counts), 12), np.int64)
    for row, each in enumerate(counts):
        padded[row, : len(each)] = each
    minima, maxima = -1.5 - np.arange(len(counts)), 30.0 + np.arange(len(counts))
    found = DecileCells.stack(cells).deciles(padded, minima, maxima)
    alone = [deciles(*each) for each in zip(cells, counts, minima.tolist(), maxima.tolist(), strict=True)]
    np.testing.assert_array_equal(found, alone)


def test_deciles_of_cells_are_interpolated_by_rank() -> None:
    """Of 20 values 4 are in [-3, 0), 10 in [0, 5), 6 in [5, 8]: rank 2 is half way into the first cell, and so on."""
    cells = MetricCells("x", "numeric", np.array([0.0, 5.0]))
    assert deciles(cells, np.array([4, 10, 6, 7]), -3.0, 8.0).tolist() == [-1.5, 0.0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_deciles_with_infinite_extremes_are_numbers() -> None:
    cells = MetricCells("x", "numeric", np.array([0.0, 1.0]))
    found = deciles(cells, np.array([3, 4, 3, 0]), -math.inf, math.inf)
    assert found[:9].tolist() == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    assert found[9] == math.inf


@given(
    hnp.arrays(np.int64, 5, elements=st.integers(0, 6)),
    st.sampled_from([-math.inf, -2.5, -1.0]),
    st.sampled_from([7.0, 9.5, math.inf]),
)
def test_a_decile_is_where_so_many_tenths_of_the_values_are_below_it(
    one: np.ndarray, minimum: float, maximum: float
) -> None:
    """By plain loops: values are spread evenly over [-1, 3), [3, 3] and (3, 7); below and above to the extremes."""
    edges = [-1.0, 3.0, float(np.nextafter(3.0, 4.0)), 7.0]
    n = int(one.sum())
    found = deciles(MetricCells("x", "numeric", np.array(edges)), np.append(one, 9), minimum, maximum)
    if not n:
        assert np.isnan(found).all()
        return
    lows, highs = [minimum, *edges], [*edges, maximum]
    for tenth in range(1, 10):
        cell = next(at for at in range(5) if 10 * one[: at + 1].sum() >= tenth * n)
        into = (tenth * n / 10 - one[:cell].sum()) / one[cell]
        low, high = max(lows[cell], minimum), min(highs[cell], maximum)
        expected = high if math.isinf(low) else low if math.isinf(high) or cell == 2 else low + into * (high - low)
        assert found[tenth - 1] == pytest.approx(min(max(expected, minimum), maximum))
    assert found[9] == maximum


def test_deciles_of_a_category_are_codes() -> None:
    assert deciles(MetricCells("k", "category", np.empty(0), codes=3), np.array([1, 0, 9, 4]), 0, 2).tolist() == [
        0,
        *[2] * 9,
    ]


@given(
    hnp.arrays(np.float64, (12, 10), elements=st.floats(-100, 100)),
    hnp.arrays(np.float64, 10, elements=st.floats(-100, 100)),
)
def test_interval_agrees_with_numpy_percentiles(past: np.ndarray, current: np.ndarray) -> None:
    result = interval(past, current)
    low, high = (np.percentile(past, q, axis=0) for q in (2.5, 97.5))
    assert result.side.tolist() == (np.sign(current - high).clip(0) - np.sign(low - current).clip(0)).tolist()
    assert ((result.effect > 0) == (result.side != 0)).all()
    assert (result.effect <= 1).all()


def test_interval_of_the_past_itself_holds_its_median() -> None:
    past = np.random.default_rng(9).normal(size=(20, 10))
    assert not interval(past, np.median(past, axis=0)).side.any()
    assert interval(np.ones((5, 1)), np.array([2.0])).effect.tolist() == [1.0]  # the past never varied


@given(st.integers(1, 30), st.data())
def test_the_rank_of_a_decile_is_counted_from_its_nearer_end_and_ties_are_no_signal(
    n: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.integers(0, 4), min_size=n + 1, max_size=n + 1))
    *past, current = map(float, values)
    as_low = 1 + sum(value <= current for value in past)
    as_high = 1 + sum(value >= current for value in past)
    found = rank_p_value(np.array(past)[:, None], np.array([current])).item()
    assert found == pytest.approx(min(1.0, 2 * min(as_low, as_high) / (n + 1)))
    assert rank_p_value(np.full((n, 1), current), np.array([current])).item() == 1.0


def test_windows_that_depend_count_as_fewer_by_hand() -> None:
    """As `trend` says: r is the upper limit of the residuals' first autocorrelation, freed of its bias.

    T windows count as T (1 - r) / (1 + r): the statistic shrinks by the root of that, and so do the degrees of freedom.
    """
    times = np.arange(20.0)
    pattern = np.tile([1.0, 1.0, -1.0, -1.0], 5)
    values = pattern + 0.15 * times
    found = trend(times, values[:, None])
    fitted = stats.linregress(times, values)
    residuals = values - fitted.intercept - fitted.slope * times
    first = (residuals[1:] * residuals[:-1]).sum() / (residuals**2).sum()
    freed = (first + 0.1) / 0.8
    upper = freed + math.sqrt((1 - freed**2) / 20)
    effective = 20 * (1 - upper) / (1 + upper)
    statistic = fitted.slope / fitted.stderr / math.sqrt(20 / effective)
    assert found.dependent_p_value.item() == pytest.approx(2 * stats.t.sf(abs(statistic), effective - 2))
    assert found.dependent_p_value.item() > 2 * found.p_value.item()


@pytest.mark.parametrize("n", [3, 4, 5, 12, 19, 20, 60])
def test_the_dependence_of_windows_is_within_its_limits(n: int) -> None:
    """Of series that wander, that alternate and that are noise, beside what `trend` says of few windows."""
    noise, times = np.random.default_rng(n).normal(size=(n, 30)), np.arange(float(n))
    series = np.column_stack(
        [np.cumsum(noise[:, :10], axis=0), noise[:, 10:20], noise[:, 20:] * (-1.0) ** times[:, None]]
    )
    series[:, ::2] += times[:, None]
    found = trend(times, series)
    for column, values in enumerate(series.T):
        fitted = stats.linregress(times, values)
        residuals = values - fitted.intercept - fitted.slope * times
        first = (residuals[1:] * residuals[:-1]).sum() / (residuals**2).sum()
        freed = min(max((first + 2 / n) / max(1 - 4 / n, 0.1), -0.97), 0.97)
        r = min(max(freed + math.sqrt((1 - freed**2) / n), 0.0), 0.97)
        effective = n * (1 - r) / (1 + r)
        statistic = fitted.slope / fitted.stderr * math.sqrt(effective / n)
        p_value = 2 * stats.t.sf(abs(statistic), max(effective - 2, 0.5))
        assert found.t_statistic[column] == pytest.approx(fitted.slope / fitted.stderr, rel=1e-6)
        assert found.dependent_p_value[column] == pytest.approx(max(p_value, fitted.pvalue), rel=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_windows_that_resemble_the_one_before_have_no_trend_more_often_than_declared(rho: float) -> None:
    """Of 3 000 columns 5 % are 150, give or take 12; the docstring of `trend` says what was measured."""
    noise = np.random.default_rng(14).normal(size=(20, 3_000))
    series = np.empty_like(noise)
    series[0] = noise[0] / math.sqrt(1 - rho**2)
    for at in range(1, 20):
        series[at] = rho * series[at - 1] + noise[at]
    found = trend(np.arange(20.0), series)
    assert np.mean(found.dependent_p_value < 0.05) < 0.05
    assert np.mean(found.dependent_p_value < 0.01) < 0.016
    assert (found.dependent_p_value >= found.p_value).all()


@given(st.integers(0, 2**32), st.integers(3, 20), st.floats(-2, 2))
def test_trend_equals_scipy(seed: int, n: int, slope: float) -> None:
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.integers(1, 4, n)).astype(float)
    values = generator.normal(size=(n, 3)) + slope * times[:, None]
    result = trend(times, values)
    for column in range(3):
        expected = stats.linregress(times, values[:, column])
        assert result.beta[column] == pytest.approx(expected.slope, rel=1e-9, abs=1e-12)
        assert result.alpha[column] == pytest.approx(expected.intercept, rel=1e-6, abs=1e-9)
        assert result.p_value[column] == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.integers(3, 30))
def test_a_constant_decile_has_no_trend_and_a_line_is_certain(level: float, n: int) -> None:
    times = np.arange(float(n))
    constant = trend(times, np.full((n, 1), level))
    assert (constant.t_statistic.item(), constant.p_value.item()) == (0.0, 1.0)
    line = trend(times, (3.0 * times)[:, None])
    assert (line.t_statistic.item(), line.p_value.item()) == (math.inf, 0.0)


@pytest.mark.parametrize("level", [0.1, 1e6, -1e6])
def test_what_rounding_makes_of_a_constant_is_no_trend(level: float) -> None:
    """In the second half it is larger by twenty steps between neighbouring numbers."""
    step = 20 * np.spacing(level)
    found = trend(np.arange(12.0), np.repeat([level, level + step], 6)[:, None])
    assert (found.beta.item(), found.t_statistic.item(), found.p_value.item()) == (0.0, 0.0, 1.0)
    assert found.dependent_p_value.item() == 1.0


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_a_decile_does_not_matter_to_its_trend(unit: float) -> None:
    """The line has rounding errors, which are as large as its values are; the others have real residuals."""
    times = np.arange(12.0)
    deciles = np.column_stack([0.1 + times / 3, np.full(12, 0.1), times / 3 + 0.01 * np.sin(times)])
    plain, scaled = trend(times, deciles), trend(times, deciles * unit)
    assert plain.t_statistic[:2].tolist() == scaled.t_statistic[:2].tolist() == [math.inf, 0.0]
    np.testing.assert_allclose(scaled.t_statistic[2], plain.t_statistic[2], rtol=1e-6)


# -- distances ---------------------------------------------------------------------------------------------------------

EDGES = np.array([-2.0, -1.0, -0.5, 0.0, 0.7, 1.5, 4.0])


@given(counts, counts)
def test_wasserstein_is_that_of_scipy_with_each_cell_s_mass_spread_over_it(one: np.ndarray, other: np.ndarray) -> None:
    for cells in (one, other):  # what is outside of the range counts at its ends
        cells[0], cells[-1] = 0, 0
    scale = Scale.of(EDGES, one)
    result = wasserstein(one, other, scale)
    if not one.sum() or not other.sum() or scale.spread == 0:
        assert math.isnan(result.statistic)
        return
    within = (np.arange(200) + 0.5) / 200
    upto = np.cumsum(one)[:-1] / one.sum()  # what is beyond the outermost percent of the reference counts at its end
    ends = max(EDGES[upto <= 0.01], default=EDGES[0]), min(EDGES[upto >= 0.99], default=EDGES[-1])
    places = (EDGES[:-1, None] + np.diff(EDGES)[:, None] * within).ravel().clip(*ends)
    weights = [np.repeat(cells[1:-1], 200).astype(float) for cells in (one, other)]
    signs = np.cumsum(one) / one.sum() - np.cumsum(other) / other.sum()
    if (signs >= -1e-12).all() or (signs <= 1e-12).all():  # else |F - G| bends within a cell
        expected = stats.wasserstein_distance(places, places, *weights) / scale.spread
        assert result.statistic == pytest.approx(expected, rel=0.02, abs=1e-9)


@given(counts)
def test_distances_are_in_standard_deviations_of_the_reference_with_each_cell_at_its_middle(one: np.ndarray) -> None:
    if not one.sum():
        return
    upto = np.cumsum(one)[:-1] / one.sum()
    ends = max(EDGES[upto <= 0.01], default=EDGES[0]), min(EDGES[upto >= 0.99], default=EDGES[-1])
    middles = np.array([EDGES[0], *((EDGES.clip(*ends)[1:] + EDGES.clip(*ends)[:-1]) / 2), EDGES[-1]]).clip(*ends)
    assert Scale.of(EDGES, one).spread == pytest.approx(np.repeat(middles, one).std(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n_edges", [2, 7, 300])
def test_without_drift_the_distance_has_the_law_of_a_brownian_bridge(n_edges: int) -> None:
    """Mean and variance of the integral of |B(F(x))|, by drawing bridges; the p-value is that of a gamma law."""
    rng = np.random.default_rng(3)
    edges = np.cumsum(rng.gamma(1.0, size=n_edges))
    reference = rng.integers(50, 100, n_edges + 1)
    scale = Scale.of(edges, reference)
    below = np.cumsum(reference)[:-1] / reference.sum()
    # Within the shares of 1 % and 99 % of training; half of each cell belongs to either of its edges.
    first = max(int(np.flatnonzero(below > 0.01)[0]) - 1, 0)
    last = min(int(np.flatnonzero(below >= 0.99)[0]) if below[-1] >= 0.99 else n_edges - 1, n_edges - 1)
    within = edges.clip(edges[first], edges[last])
    widths = (np.diff(within, prepend=within[0]) + np.diff(within, append=within[-1])) / 2
    steps = np.diff(below, prepend=0.0)
    walk = np.cumsum(rng.normal(size=(8_000, n_edges)) * np.sqrt(steps), axis=1)
    end = walk[:, -1:] + rng.normal(size=(8_000, 1)) * np.sqrt(1 - below[-1])
    drawn = np.abs(walk - end * below) @ widths
    assert scale.widths == pytest.approx(np.append(widths, 0.0))
    assert scale.mean == pytest.approx(drawn.mean(), rel=0.02)
    assert scale.variance == pytest.approx(drawn.var(), rel=0.06)
    detection = rng.integers(5, 10, n_edges + 1)
    n, m = reference.sum(), detection.sum()
    found = wasserstein(reference, detection, scale, 3.0)
    gamma = stats.gamma(scale.mean**2 / scale.variance, scale=scale.variance / scale.mean)
    apart = float(found.statistic * scale.spread) * math.sqrt(n * m / (n + m) / 3.0)
    assert found.p_value == pytest.approx(gamma.sf(apart), rel=1e-6)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("n_beyond", "is_heeded"), [(9, False), (30, True)])
def test_how_far_the_outermost_hundredth_reaches_does_not_matter(n_beyond: int, is_heeded: bool, side: int) -> None:
    reference = np.array([0, 200, 300, 500 - n_beyond, n_beyond, 0])
    detection = np.array([0, 300, 300, 300, 50, 50])
    near, far = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0, 3.0, 1e6])
    found = []
    for edges in (near, far):
        turned = (edges * side)[::side]
        scale = Scale.of(turned, reference[::side])
        found.append([float(each) for each in wasserstein(reference[::side], detection[::side], scale)])
    assert (found[0] != pytest.approx(found[1], rel=1e-6)) == is_heeded


@given(counts, counts)
def test_jensen_shannon_is_that_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    result = jensen_shannon(one, other)
    if one.sum() == 0 or other.sum() == 0:
        assert math.isnan(result.statistic)
        return
    from scipy.spatial.distance import jensenshannon  # noqa: PLC0415  # slow to import

    # The root of what rounding leaves of nought is 1e-8.
    assert result.statistic == pytest.approx(jensenshannon(one, other, base=2), abs=1e-7)
    assert 0 <= result.p_value <= 1


@given(counts, counts)
def test_chi_square_is_that_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    result = chi_square(one, other)
    if one.sum() == 0 or other.sum() == 0:
        assert math.isnan(result.statistic)
        return
    table = np.stack([one, other])[:, (one + other) > 0]
    if table.shape[1] > 1:
        expected = stats.chi2_contingency(table, correction=False)
        assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    else:
        assert result == (0.0, 1.0, 0.0)
    assert 0 <= result.effect <= 1 + 1e-12


LAWS = {
    "normal": lambda generator, n: generator.normal(size=n),
    "lognormal": lambda generator, n: generator.lognormal(sigma=1.0, size=n),
    "counts": lambda generator, n: generator.poisson(2.0, size=n).astype(float),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize(("n", "m"), [(20_000, 2_000), (3_000, 3_000)])
def test_distances_signal_as_often_as_they_say_without_drift(law: str, n: int, m: int) -> None:
    """Of 1 500 windows 5 % are 75, give or take 8.5; the gamma law is an approximation, and is allowed a point more."""
    generator = np.random.default_rng(11)
    draw, n_windows = LAWS[law], 1_500
    reference = fit_reference(
        TrainingEvents(draw(generator, 5_000)[:, None], np.full(5_000, 0.5), np.zeros(5_000)), [numeric("x")], 128
    )
    cells = reference.metrics[0]
    found: dict[str, list[float]] = {"wasserstein": [], "jensen_shannon": [], "chi_square": []}
    for _ in range(n_windows):
        then, now = (
            count(reference, draw(generator, size)[:, None], np.full(size, 0.5)).counts[0, : cells.size + 1]
            for size in (n, m)
        )
        scale = Scale.of(cells.edges, then[:-1])
        found["wasserstein"].append(wasserstein(then[:-1], now[:-1], scale).p_value)
        groups = group_cells(then, 20)
        joined = [join_cells(each, groups) for each in (then, now)]
        found["jensen_shannon"].append(jensen_shannon(*joined).p_value)
        found["chi_square"].append(chi_square(*joined).p_value)
    for test, p_values in found.items():
        for level, most in ((0.05, 0.075), (0.01, 0.022)):
            rate = np.mean(np.array(p_values) < level)
            assert rate < most, (test, level, rate)
        assert np.mean(np.array(p_values) < 0.05) > 0.03, test


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "n", "m"), [(0.001, 50_000, 2_000), (0.02, 5_000, 1_000), (0.3, 2_000, 900)])
def test_a_change_of_a_share_signals_no_more_often_than_it_says(rate: float, n: int, m: int) -> None:
    generator = np.random.default_rng(12)
    draws = zip(generator.binomial(n, rate, 4_000).tolist(), generator.binomial(m, rate, 4_000).tolist(), strict=True)
    p_values = np.array([change_of_share(some, n, now, m).p_value for some, now in draws])
    for level in (0.05, 0.01):
        assert np.mean(p_values < level) < level * 1.25 + 0.001


@given(st.integers(1, 2_000), st.integers(1, 2_000), st.floats(0, 1), st.floats(0, 1))
def test_a_change_of_a_share_has_the_p_value_of_scipys_binomial_or_chi_square(
    n: int, m: int, share: float, share_now: float
) -> None:
    some, now = round(n * share), round(m * share_now)
    found = change_of_share(some, n, now, m)
    assert found.statistic == pytest.approx(now / m - some / n)
    table = np.array([[some, n - some], [now, m - now]])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    if expected.min() >= 50:
        assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-6)
    else:  # of the rarer kind, how many are of the detection
        rarer = table[:, int(table.sum(axis=0)[1] < table.sum(axis=0)[0])]
        law = stats.binom(rarer.sum(), m / (n + m))
        tails = law.cdf(rarer[1]), law.sf(rarer[1] - 1)
        assert found.p_value == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-6, abs=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.sampled_from([2.0, 5.0]))
def test_a_share_of_events_that_count_as_fewer_has_the_p_value_of_so_few(
    n: int, m: int, share: float, share_now: float, effect: float
) -> None:
    """Every event comes ``effect`` times: what is said is what is said of each of them once."""
    some, now, times = round(n * share), round(m * share_now), int(effect)
    once = change_of_share(some, n, now, m)
    found = change_of_share(some * times, n * times, now * times, m * times, effect)
    assert found.statistic == pytest.approx(once.statistic)
    assert found.p_value == pytest.approx(once.p_value, rel=1e-6, abs=1e-12)
    beyond = beyond_range(np.array(n * times), np.array(now * times), np.array(m * times), effect)
    alone = beyond_range(np.array(n), np.array(now), np.array(m))
    assert beyond.statistic == pytest.approx(now / m)
    assert beyond.p_value == pytest.approx(alone.p_value, rel=1e-6)


@pytest.mark.parametrize(("some", "n", "now", "m"), [(40, 100, 60, 100), (50, 100, 50, 100), (49, 100, 50, 100)])
def test_from_fifty_expected_in_each_of_the_four_on_a_share_has_the_p_value_of_chi_square(
    some: int, n: int, now: int, m: int
) -> None:
    """Of 200 events half are in either window: 100 of a kind are 50 and 50, and 99 are not."""
    found = change_of_share(some, n, now, m)
    if some + now < 100:
        law = stats.binom(some + now, 0.5)
        expected = min(1.0, 2 * min(law.cdf(now), law.sf(now - 1)))
    else:
        expected = stats.chi2_contingency([[some, n - some], [now, m - now]], correction=False).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_windows_without_events_have_no_share() -> None:
    for n, m in ((0, 5), (5, 0), (0, 0)):
        for found in (change_of_share(0, n, 0, m), beyond_range(np.array(n), np.array(0), np.array(m))):
            assert math.isnan(found.statistic)
            assert math.isnan(found.p_value)


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_a_change_of_a_share_has_two_alike_sides(n: int, m: int, data: st.DataObject) -> None:
    some, now = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    result, turned = change_of_share(some, n, now, m), change_of_share(n - some, n, m - now, m)
    assert 0 <= result.p_value <= 1
    assert result.p_value == pytest.approx(turned.p_value, rel=1e-6) or 2 * (some + now) == n + m
    assert result.statistic == pytest.approx(-turned.statistic)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_values_beyond_the_range_are_judged_by_the_number_of_orders(n: int, m: int, data: st.DataObject) -> None:
    beyond = data.draw(st.integers(0, m))
    # The largest `beyond` of all are of the detection: the rest is chosen freely.
    expected = math.comb(n + m - beyond, n) / math.comb(n + m, n)
    assert beyond_range(n, beyond, m).p_value == pytest.approx(expected, rel=1e-9)
