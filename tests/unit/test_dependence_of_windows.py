"""The design effect is what the share of a detection window varies by, whatever makes it vary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from app.core.drift.comparison import Comparison
from models.reference.as_json import from_json, to_json
from models.reference.counting import count
from models.reference.dependence import Span, design_effect, tail_effect
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.spans import memories_of, span_of
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.file import load

Floats = np.ndarray
WINDOW, TRAINING, AFTER, CELLS = 250, 24, 4, 20


def in_cells(values: Floats) -> np.ndarray:
    edges = np.quantile(values, np.linspace(0, 1, CELLS + 1)[1:-1])
    return np.searchsorted(edges, values)


def independent(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n)


def daily(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n) + 2 * np.sin(2 * np.pi * np.arange(n) / WINDOW)


def neighbours_alike(rng: np.random.Generator, n: int) -> Floats:
    return lfilter([1.0], [1.0, -0.6], rng.standard_normal(n))


def days_of_their_own(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n) + np.repeat(0.2 * rng.standard_normal(n // WINDOW), WINDOW)


def sliding_mean(rng: np.random.Generator, n: int) -> Floats:
    """Of something that changes daily, over 30 days."""
    days = n // WINDOW
    slow = np.convolve(rng.standard_normal(days + 29), np.ones(30) / 30**0.5, mode="valid")
    return rng.standard_normal(n) + np.repeat(0.3 * slow, WINDOW)


def both(rng: np.random.Generator, n: int) -> Floats:
    return daily(rng, n) + days_of_their_own(rng, n)


def span(n: int, memory: float = 0.0) -> Span:
    at = np.arange(n)
    return Span(at // WINDOW, at % WINDOW / WINDOW, memory)


def variance_ratio(draw: Callable[[np.random.Generator, int], Floats], memory: float, seeds: int = 60) -> float:
    """How much the rank of a window varies about that of training, in the deviations that the design effect says."""
    squares = []
    for seed in range(seeds):
        n, m = TRAINING * WINDOW, WINDOW
        drawn = draw(np.random.default_rng(seed), n + AFTER * WINDOW)
        trained, window = drawn[:n], drawn[-m:]
        effect = design_effect(in_cells(trained), CELLS, in_order=True, span=span(n, memory))
        rank = np.searchsorted(np.sort(trained), window).mean() / n - 0.5
        squares.append(rank**2 / (effect / 12 * (1 / n + 1 / m)))
    return float(np.mean(squares))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "memory"),
    [
        (independent, 0.0),
        (daily, 0.0),
        (neighbours_alike, 0.0),
        (days_of_their_own, 0.0),
        (both, 0.0),
        (sliding_mean, 30.0),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_windows_vary_by_no_more_than_the_design_effect_says(
    draw: Callable[[np.random.Generator, int], Floats], memory: float
) -> None:
    assert variance_ratio(draw, memory) < 1.5


def test_what_repeats_in_each_window_costs_no_power() -> None:
    cells = in_cells(daily(np.random.default_rng(1), 24 * WINDOW))
    assert design_effect(cells, CELLS, in_order=True) > 20
    assert design_effect(cells, CELLS, in_order=True, span=span(len(cells))) < 2


@pytest.mark.parametrize("seed", range(5))
def test_independent_events_lose_nothing(seed: int) -> None:
    cells = in_cells(independent(np.random.default_rng(seed), 24 * WINDOW))
    assert design_effect(cells, CELLS, in_order=True, span=span(len(cells))) == 1.0


def test_a_month_within_windows_of_days_is_hardly_seen_at_all() -> None:
    effects = [
        design_effect(
            in_cells(sliding_mean(np.random.default_rng(seed), 24 * WINDOW)),
            CELLS,
            in_order=True,
            span=span(24 * WINDOW, 30.0),
        )
        for seed in range(10)
    ]
    assert np.median(effects) > 8  # a variance of 0.09 beside that of one in 250 events: 22 and more


def test_too_few_windows_say_no_more_than_neighbours() -> None:
    cells = in_cells(daily(np.random.default_rng(1), 7 * WINDOW))
    alone = design_effect(cells, CELLS, in_order=True)
    assert design_effect(cells, CELLS, in_order=True, span=span(len(cells))) == alone


def fitted(scores: Floats, labels: Floats) -> Reference:
    nothing = np.empty((len(scores), 0))
    return fit_reference(TrainingEvents(nothing, scores, labels, span=span(len(scores))), [], 32)


def test_labels_that_scores_explain_are_independent_however_they_come() -> None:
    rng = np.random.default_rng(3)
    scores = 1 / (1 + np.exp(3 - 2 * neighbours_alike(rng, 24 * WINDOW)))
    known = fitted(scores, (rng.random(len(scores)) < scores).astype(float))
    assert known.design_effects[-1] > 1.3  # positives come in bursts
    assert known.label_effect < 1.15


@pytest.mark.parametrize("together", [4, 20])
def test_labels_that_come_together_beyond_their_scores_count_as_one(together: int) -> None:
    rng = np.random.default_rng(4)
    n = 40 * WINDOW
    scores = rng.uniform(0.02, 0.3, n)
    labels = (np.repeat(rng.random(n // together), together) < scores).astype(float)
    assert together / 2 < fitted(scores, labels).label_effect < 2 * together


def test_errors_of_either_kind_that_come_together_count_as_one() -> None:
    """For a while all labels are turned round: as many are positive, and the scores say the opposite."""
    rng = np.random.default_rng(5)
    n = 40 * WINDOW
    scores = rng.choice([0.2, 0.8], n)
    turned = np.repeat(rng.random(n // 20) < 0.3, 20)
    labels = (rng.random(n) < np.where(turned, 1 - scores, scores)).astype(float)
    assert 3 < fitted(scores, labels).label_effect < 20


# -- where events lie --------------------------------------------------------------------------------------------------


FILE = """
name = "shop"
[model]
name = "shop"
[events]
entity = "card"
id = "id"
time = "at_ms"
[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
[labels]
horizon = "3d"
[drift]
window = "{window}"
[[features]]
name = "surprise"
type = "float"
expression = "amount / mean_30d + hour"
[[features]]
name = "hour"
type = "float"
expression = "at_ms / 3600000 % 24"
[[features]]
name = "mean_30d"
type = "float"
window = {{ of = "events", key = ["card"], size = "30d", hop = "1d", aggregate = "mean", field = "amount" }}
[[features]]
name = "amount"
type = "float"
expression = "amount"
[[features]]
name = "of_amounts"
type = "float"
expression = "maximum(surprise, amount)"
"""


@pytest.mark.parametrize(("window", "memory"), [("5d", 6.0), ("60d", 0.5), ("month", 30 / 30.436875)])
def test_a_feature_remembers_what_the_longest_window_that_it_is_made_of_does(
    tmp_path: Path, window: str, memory: float
) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(FILE.format(window=window), encoding="utf-8")
    assert memories_of(load(path)) == pytest.approx([memory, 0.0, memory, 0.0, memory])


def test_places_and_windows_are_those_of_the_calendar(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    day = 86_400_000
    times = np.array(["2026-01-31T12", "2026-02-01T00", "2026-02-15T00", "2026-03-01T00"], "M8[ms]").astype(np.int64)
    path.write_text(FILE.format(window="month"), encoding="utf-8")
    lying = span_of(load(path), times)
    assert np.diff(lying.windows).tolist() == [1, 0, 1]
    assert lying.places.tolist() == pytest.approx([30.5 / 31, 0, 0.5, 0])
    path.write_text(FILE.format(window="5d"), encoding="utf-8")
    lying = span_of(load(path), times)
    assert lying.windows.tolist() == (times // (5 * day)).tolist()
    assert lying.places.tolist() == pytest.approx((times % (5 * day) / (5 * day)).tolist())


@pytest.mark.parametrize("alike", [1, 4, 12])
def test_a_new_entity_that_is_beyond_all_others_is_one_surprise(alike: int) -> None:
    """Each day its own largest value, in so many events: five and more are no independent values."""
    rng = np.random.default_rng(3)
    days = Span(np.repeat(np.arange(30), 500), np.tile(np.arange(500) / 500, 30))
    values = rng.random((30, 500))
    values[:, :alike] = 1 + rng.random(30)[:, None]
    for sign in (1, -1):
        effect = tail_effect(sign * rng.permuted(values, axis=1).ravel(), days)
        assert (effect >= 500) == (alike >= 5)
    # Windows without any value are nothing to be beyond.
    missing = np.where(np.arange(15_000) < 9_000, np.nan, rng.random(15_000))
    assert tail_effect(missing, days) < 500


@pytest.mark.slow
@pytest.mark.parametrize("busiest", [0.0, 0.015])
def test_the_sums_of_one_busy_card_are_no_range_of_their_own(busiest: float) -> None:
    """Quiet days, on some of which the busiest card has its largest sum: the range is left as seldom as by chance."""
    n_days, a_day = 61, 2_000
    days = Span(np.repeat(np.arange(21), a_day), np.tile(np.arange(a_day) / a_day, 21))
    nothing = np.zeros(21 * a_day)
    said = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        levels = lfilter([1.0], [1.0, -0.9], rng.normal(size=n_days))
        values, is_busy = rng.random((2, n_days, a_day))
        values += (is_busy < busiest) * (9 + levels[:, None])
        column = values[:21].reshape(-1, 1)
        reference = fit_reference(TrainingEvents(column, nothing, nothing, span=days), [numeric("sum")], 64)
        comparison = Comparison(reference, ["range"])
        for day in values[21:]:
            counts = count(reference, day[:, None], np.zeros(a_day)).counts
            said.append(comparison.compare(reference.counts, counts)["range"].p_value[0])
    assert np.mean(np.array(said) < 0.001) < 0.005
    assert reference.tail_effects is not None
    assert (reference.tail_effects[0] > 5) == bool(busiest)
    again = from_json(to_json(reference))
    assert again.tail_effects is not None
    assert again.tail_effects.tolist() == reference.tail_effects.tolist()
    former = from_json(to_json(reference).replace("tail_effect", "no_effect"))
    assert Comparison(former, ["range"]).tail_effects.tolist() == reference.design_effects.tolist()


def test_labels_of_some_events_say_how_all_of_them_depend_on_each_other() -> None:
    """A window holds all events: of one in ten, which training has, fewer resemble each other."""
    rng = np.random.default_rng(4)
    n_days, a_day = 40, 3_000
    days = np.repeat(np.arange(n_days), a_day)
    places = np.tile(np.arange(a_day) / a_day, n_days)
    bursts = np.repeat(rng.normal(size=n_days * a_day // 50), 50)
    column = (0.7 * rng.normal(size=n_days)[days] + bursts + rng.normal(size=n_days * a_day))[:, None]

    def effects(rows: np.ndarray, share: float) -> np.ndarray:
        nothing = np.zeros(len(rows))
        span = Span(days[rows], places[rows])
        fitted = fit_reference(
            TrainingEvents(column[rows], nothing, nothing, span=span, share=share), [numeric("x")], 64
        )
        assert fitted.tail_effects is not None
        return np.array([fitted.design_effects[0], fitted.tail_effects[0]])

    everything = effects(np.arange(len(days)), 1.0)
    some = np.flatnonzero(rng.random(len(days)) < 0.1)
    assert (everything > 10).all()
    assert (effects(some, 1.0) < 0.3 * everything).all()
    ratios = effects(some, 0.1) / everything
    assert ((ratios > 0.5) & (ratios < 2)).all()
