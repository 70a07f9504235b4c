"""Another unit in a share of the events is found and named, and what customers do by themselves is none."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest
from faulty_fields import Change, Fields, judge

from app.core.batches import Floats
from app.core.faults.conversions import CONVERSIONS, in_brackets
from app.core.faults.fault import Fault
from app.core.faults.find import FaultFinder
from app.core.faults.law import Law
from app.core.faults.mixed_units import find_mixed_unit
from app.core.faults.scale import Scale
from app.core.features.paths import path_in
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.training_events import TrainingEvents, numeric

Draw = Callable[[np.random.Generator, int], Floats]

#: What a field may be like; in cents, percent, degrees, pieces.
LAWS: Mapping[str, Draw] = {
    "amounts": lambda rng, n: np.floor(rng.lognormal(8.16, 0.985, n)) + 50,
    "prices": lambda rng, n: rng.lognormal(3.0, 0.5, n),
    "lengths": lambda rng, n: rng.normal(1_000, 100, n),
    "thin": lambda rng, n: rng.normal(1_000, 20, n),
    "durations": lambda rng, n: rng.gamma(4.0, 0.5, n) + 0.1,
    "waits": lambda rng, n: rng.gamma(30.0, 1.0, n),
    "shares": lambda rng, n: rng.beta(2.0, 5.0, n),
    "heavy": lambda rng, n: 10 + 10 * rng.pareto(3.0, n),
    "pieces": lambda rng, n: rng.poisson(8.0, n).astype(np.float64),
    "visits": lambda rng, n: rng.poisson(200.0, n).astype(np.float64),
    "degrees": lambda rng, n: rng.normal(14.0, 7.0, n),
    "outliers": lambda rng, n: 100 + 5 * rng.standard_t(3.0, n),
}
N_TRAINING = 20_000


@cache
def reference_of(law: str) -> Reference:
    return fit(LAWS[law](np.random.default_rng(0), N_TRAINING))


def fit(values: Floats) -> Reference:
    n = len(values)
    return fit_reference(TrainingEvents(values[:, None], np.full(n, 0.5), np.zeros(n)), [numeric("x")], 64)


def law_of(reference: Reference, counts: Counts) -> Law:
    low, high = float(counts.minima[0]), float(counts.maxima[0])
    return Law.of(reference.metrics[0], counts.counts[0], int(counts.sums[0]), low, high)


def find(reference: Reference, values: Floats, path: str = "x", design_effect: float = 1.0) -> Fault | None:
    window = count(reference, values[:, None], np.full(len(values), 0.5))
    parsed = path_in(ast.parse(path, mode="eval").body)
    assert parsed is not None
    scale = Scale(law_of(reference, reference.training), law_of(reference, window), parsed[1], takes_offsets=True)
    return find_mixed_unit("x", scale, design_effect, "payments")


def mixed(  # noqa: PLR0917  # a law, and what is made of it
    law: str, seed: int, n: int, share: float, factor: float, offset: float = 0.0
) -> Floats:
    rng = np.random.default_rng([seed, 1])
    values = LAWS[law](rng, n)
    return np.where(rng.random(n) < share, values * factor + offset, values)


# -- found -------------------------------------------------------------------------------------------------------------

#: Where the other unit is apart from training, and more of it to be seen than that it is in one cell.
APART = [
    ("amounts", 1 / 100, 0.0, "1/100 of"),
    ("amounts", 100.0, 0.0, "100 times"),
    ("amounts", 1 / 1000, 0.0, "1/1000 of"),
    ("amounts", 1000.0, 0.0, "1000 times"),
    ("prices", 1 / 100, 0.0, "1/100 of"),
    ("lengths", 3.28084, 0.0, "3.281 times"),
    ("lengths", 2.54, 0.0, "2.54 times"),
    ("lengths", 1.8, 32.0, "1.8 times what it was plus 32"),
    ("thin", 3.28084, 0.0, "3.281 times"),
    ("durations", 1000.0, 0.0, "1000 times"),
    ("waits", 3.28084, 0.0, "3.281 times"),
    ("waits", 2.54, 0.0, "2.54 times"),
    ("shares", 100.0, 0.0, "100 times"),
    ("heavy", 100.0, 0.0, "100 times"),
    ("pieces", 100.0, 0.0, "100 times"),
    ("visits", 1 / 1000, 0.0, "1/1000 of"),
    ("degrees", 1.8, 32.0, ""),
    ("outliers", 3.28084, 0.0, "3.281 times"),
]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2_000, 10_000])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_another_unit_in_a_share_of_the_events_is_found_with_its_factor_and_its_share(share: float, n: int) -> None:
    n_found = n_named = 0
    for seed, (law, factor, offset, words) in enumerate(APART):
        for again in range(3):
            fault = find(reference_of(law), mixed(law, 100 * again + seed, n, share, factor, offset))
            n_found += fault is not None
            if fault is not None:
                assert fault.strength == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n) + 0.01)
                n_named += words in fault.sentence
    assert n_found >= 0.95 * 3 * len(APART)
    assert n_named >= 0.9 * 3 * len(APART)


@pytest.mark.parametrize("path", ["log(x)", "log1p(x)", "sqrt(x)", "2 * x - 7"])
@pytest.mark.parametrize("factor", [100.0, 1 / 100])
def test_it_is_found_through_a_known_function(path: str, factor: float) -> None:
    parsed = path_in(ast.parse(path, mode="eval").body)
    assert parsed is not None
    reference = fit(parsed[1].forward(LAWS["amounts"](np.random.default_rng(0), N_TRAINING)))
    for seed in range(3):
        fault = find(reference, parsed[1].forward(mixed("amounts", seed, 5_000, 0.6, factor)), path)
        assert fault is not None
        said = float(fault.sentence.split("unit in ")[1].split(" % of the payments")[0])
        assert said == pytest.approx(60, abs=3)
        assert ("1/100 of what it was (cents to a whole unit)" if factor < 1 else "100 times what it was (a whole") in (
            fault.sentence
        )


def test_all_of_it_in_another_unit_is_no_share() -> None:
    for law in ("amounts", "lengths"):
        assert find(reference_of(law), mixed(law, 1, 5_000, 1.0, 100.0)) is None


def test_what_is_one_event_in_twenty_or_less_is_none_and_nor_is_what_few_events_say() -> None:
    assert find(reference_of("amounts"), mixed("amounts", 1, 10_000, 0.04, 0.01)) is None
    assert find(reference_of("amounts"), mixed("amounts", 1, 10_000, 0.08, 0.01)) is not None
    assert find(reference_of("amounts"), mixed("amounts", 1, 10_000, 0.08, 0.01), design_effect=25) is None
    assert find(reference_of("amounts"), mixed("amounts", 1, 300, 0.5, 0.01)) is None


def test_what_would_be_in_one_cell_of_training_is_not_told_from_a_value_that_stands_for_another() -> None:
    """Of hundredths of small numbers, or of degrees around nought, nothing is seen but that they are there."""
    assert find(reference_of("pieces"), mixed("pieces", 1, 10_000, 0.5, 0.01)) is None
    assert find(reference_of("degrees"), mixed("degrees", 1, 10_000, 0.5, 0.01)) is None


def test_a_unit_that_overlaps_with_training_is_not_told_from_other_customers() -> None:
    for factor in (3.28084, 2.54):
        assert find(reference_of("amounts"), mixed("amounts", 1, 10_000, 0.5, factor)) is None


# -- not found ---------------------------------------------------------------------------------------------------------


def shifted(values: Floats, rng: np.random.Generator) -> Floats:
    """By up to 1.5 deviations, of the logarithm where that is one."""
    by = rng.uniform(-1.5, 1.5)
    if values.min() <= 0:
        return np.asarray(values + by * values.std())
    return np.asarray(np.exp(np.log(values) + by * np.log(values).std()))


def spread(values: Floats, rng: np.random.Generator) -> Floats:
    middle = np.median(values)
    return np.asarray(middle + (values - middle) * np.exp(rng.uniform(-0.7, 0.7)))


def inflated(values: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(values * np.exp(rng.uniform(-0.7, 0.7)))


def joined(values: Floats, rng: np.random.Generator) -> Floats:
    """By new customers of any share: up to four deviations away, a third to three times as alike."""
    new, away, width = rng.permutation(values), rng.uniform(-4, 4), np.exp(rng.uniform(-1.2, 1.2))
    if values.min() > 0:
        logs = np.log(new)
        new = np.exp(np.median(logs) + away * logs.std() + width * (logs - np.median(logs)))
    else:
        new = np.median(new) + away * new.std() + width * (new - np.median(new))
    return np.where(rng.random(len(values)) < rng.uniform(0.05, 0.95), new, values)


def with_noughts(values: Floats, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(len(values)) < rng.uniform(0.05, 0.6), 0.0, values)


def rounded(values: Floats, rng: np.random.Generator) -> Floats:
    step = 10.0 ** (np.floor(np.log10(values.std())) + rng.integers(-1, 2))
    return np.asarray(np.round(values / step) * step)


def seasonal(values: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(values + values.std() * rng.uniform(0.3, 1.5) * np.sin(rng.uniform(0, 2 * np.pi, len(values))))


def with_heavy_tails(values: Floats, rng: np.random.Generator) -> Floats:
    wild = np.median(values) + 3 * values.std() * rng.standard_t(1.2, len(values))
    return np.where(rng.random(len(values)) < rng.uniform(0.05, 0.3), wild, values)


def of_some(values: Floats, rng: np.random.Generator) -> Floats:
    """Only the large ones, or the small ones, are left."""
    ends = np.quantile(values, np.sort(rng.uniform(0, 1, 2)))
    kept = values[(values >= ends[0]) & (values <= ends[1])]
    return rng.choice(kept, len(values)) if len(kept) > 100 else values


NATURAL = [shifted, spread, inflated, joined, with_noughts, rounded, seasonal, with_heavy_tails, of_some]


@pytest.mark.slow
@pytest.mark.parametrize("change", NATURAL)
def test_what_customers_do_by_themselves_is_another_unit_in_less_than_one_window_in_a_hundred(
    change: Callable[[Floats, np.random.Generator], Floats],
) -> None:
    laws, n_found, n_windows = list(LAWS), 0, 0
    for seed in range(200):
        for law in (laws[seed % len(laws)], laws[(seed + 5) % len(laws)]):
            rng = np.random.default_rng([seed, laws.index(law), 3])
            values = change(LAWS[law](rng, int(rng.choice([2_000, 10_000]))), rng)
            n_found += find(reference_of(law), values) is not None
            n_windows += 1
    assert n_found < 0.01 * n_windows


# -- said --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "low", "high", "said"),
    [
        ("percentages to shares", 0.0, 100.0, "percentages to shares"),
        ("percentages to shares", 0.0, 101.0, "cents to a whole unit"),
        ("percentages to shares", 50.0, 182_312.0, "cents to a whole unit"),
        ("percentages to shares", 50.5, 182_312.0, ""),
        ("percentages to shares", -5.0, 90.5, ""),
        ("shares to percentages", 0.0, 1.0, "shares to percentages"),
        ("shares to percentages", 0.0, 1.5, "a whole unit to cents"),
        ("milliseconds to seconds", 0.0, 5e6, "milliseconds to seconds"),
        ("milliseconds to seconds", -1.0, 5e6, ""),
        ("Celsius to Fahrenheit", -20.0, 30.0, "Celsius to Fahrenheit"),
        ("the other sign", 1.0, 2.0, "the other sign"),
        ("", 1.0, 2.0, ""),
    ],
)
def test_the_example_in_brackets_is_one_that_the_values_may_be_of(
    words: str, low: float, high: float, said: str
) -> None:
    named = (each for each in CONVERSIONS if each.words == words)
    conversion = next(named, CONVERSIONS[0]._replace(words=words))
    assert in_brackets(conversion, low, high) == (f" ({said})" if said else "")


def some(field: str, share: float, factor: float) -> Change:
    def change(fields: Fields, rng: np.random.Generator) -> Fields:
        values = fields[field]
        of_card = rng.random(len(values)) < share  # of a payment and of those before it: one producer's
        is_other = of_card if values.ndim == 1 else of_card[:, None]
        return {**fields, field: np.where(is_other, values * factor, values)}

    return change


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.15, 0.6, 0.9])
@pytest.mark.parametrize(
    "names",
    [
        ("amount", "weight", "shop"),
        ("log_amount", "level", "shop"),
        ("root_amount", "log_amount", "amount", "is_large"),
        ("amount_mean", "amount_sum", "shop", "temp"),
        ("log_amount", "amount_mean", "is_large", "amount_to_mean"),
    ],
)
def test_the_verdict_names_the_field_and_the_share_once(names: tuple[str, ...], share: float) -> None:
    verdict = judge(names, 3, some("amount", share, 1 / 100))
    assert verdict.kind == "pipeline_fault"
    assert verdict.advice == "look_upstream"
    assert verdict.headline.startswith("`amount` looks as if in another unit in ")
    assert "% of the payments: 1/100 of what it was" in verdict.headline
    assert "there is more to look at" not in verdict.headline


@pytest.mark.parametrize(("law", "factor"), [("lengths", 1 / 100), ("prices", 1 / 100), ("visits", 1 / 1000)])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_unit_beyond_the_range_of_training_is_no_value_that_stands_for_a_missing_one(
    law: str, factor: float, share: float
) -> None:
    reference = reference_of(law)
    window = count(reference, mixed(law, 4, 5_000, share, factor)[:, None], np.full(5_000, 0.5))
    (fault,) = FaultFinder(reference.metrics, reference.training).find(window, {"x"})
    assert fault.kind == "unit_changed"
    assert fault.strength == pytest.approx(share, abs=0.03)


def test_a_value_that_stands_for_a_missing_one_is_no_unit() -> None:
    reference = reference_of("lengths")
    rng = np.random.default_rng(5)
    values = np.where(rng.random(5_000) < 0.3, 10.0, LAWS["lengths"](rng, 5_000))
    window = count(reference, values[:, None], np.full(5_000, 0.5))
    (fault,) = FaultFinder(reference.metrics, reference.training).find(window, {"x"})
    assert fault.kind == "stand_in_value"
