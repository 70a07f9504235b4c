"""Columns that have changed places in a share of the events are found with the share; what drifts is no such pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from faulty_fields import Change, Fields, judge, swap

from app.core.batches import Floats
from app.core.faults.fault import Fault
from app.core.faults.find import FaultFinder
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric

NAMES = ["amount", "weight", "degrees", "pieces"]


def draw(rng: np.random.Generator, n: int) -> Floats:
    columns = [rng.lognormal(3.0, 0.9, n), rng.gamma(4.0, 0.5, n) + 0.1, rng.normal(14.0, 7.0, n), rng.poisson(30.0, n)]
    return np.column_stack([np.asarray(column, float) for column in columns])


@pytest.fixture(scope="module")
def reference() -> Reference:
    n = 20_000
    matrix = draw(np.random.default_rng(0), n)
    return fit_reference(TrainingEvents(matrix, np.full(n, 0.5), np.zeros(n)), [numeric(name) for name in NAMES], 64)


def find(reference: Reference, matrix: Floats) -> tuple[Fault, ...]:
    window = count(reference, matrix, np.full(len(matrix), 0.5))
    return FaultFinder(reference.metrics, reference.training, events="payments").find(window, set(NAMES))


def some(matrix: Floats, share: float, pair: tuple[int, int], rng: np.random.Generator) -> Floats:
    one, other = pair
    mixed = matrix.copy()
    is_mixed = rng.random(len(matrix)) < share
    mixed[np.ix_(is_mixed, [one, other])] = matrix[np.ix_(is_mixed, [other, one])]
    return mixed


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_two_columns_that_change_places_in_a_share_of_the_events_are_named_with_it(
    reference: Reference, pair: tuple[int, int], share: float
) -> None:
    for seed in range(4):
        rng = np.random.default_rng([seed, 2])
        matrix = some(draw(rng, 4_000), share, pair, rng)
        names = tuple(NAMES[at] for at in pair)
        (fault,) = [each for each in find(reference, matrix) if each.kind == "columns_swapped"]
        assert fault.metrics == names
        assert fault.sources == names[::-1]
        assert fault.strength == pytest.approx(share, abs=0.04)
        assert fault.sentence.startswith(f"`{names[0]}` and `{names[1]}` have changed places in ")
        assert fault.sentence.endswith(" % of the payments.")


def test_columns_that_are_alike_are_not_told_from_other_customers(reference: Reference) -> None:
    """The shares of amounts and of degrees below any point are within 0.4."""
    rng = np.random.default_rng(5)
    assert "columns_swapped" not in {each.kind for each in find(reference, some(draw(rng, 4_000), 0.5, (0, 2), rng))}


def test_all_events_or_hardly_any_are_no_share(reference: Reference) -> None:
    rng = np.random.default_rng(5)
    (fault,) = find(reference, some(draw(rng, 4_000), 1.0, (0, 1), rng))
    assert fault.sentence == "`amount` and `weight` have changed places."
    assert not find(reference, some(draw(rng, 4_000), 0.04, (0, 1), rng))


def shifted(values: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(values + rng.uniform(-1.5, 1.5) * values.std())


def joined(values: Floats, rng: np.random.Generator) -> Floats:
    """By new customers of any share, up to four deviations away."""
    new = np.median(values) + rng.uniform(-4, 4) * values.std()
    new = new + np.exp(rng.uniform(-1.2, 1.2)) * (rng.permutation(values) - np.median(values))
    return np.where(rng.random(len(values)) < rng.uniform(0.05, 0.95), new, values)


def joined_all(matrix: Floats, rng: np.random.Generator) -> Floats:
    """The new customers are new in each column: one share, as of columns that have changed places."""
    new = matrix.std(axis=0) * rng.uniform(-4, 4, matrix.shape[1]) + matrix * np.exp(
        rng.uniform(-1, 1, matrix.shape[1])
    )
    return np.where((rng.random(len(matrix)) < rng.uniform(0.05, 0.95))[:, None], new, matrix)


def of_each(change: Callable[[Floats, np.random.Generator], Floats]) -> Callable[[Floats, np.random.Generator], Floats]:
    return lambda matrix, rng: np.column_stack([change(column, rng) for column in matrix.T])


@pytest.mark.slow
@pytest.mark.parametrize("change", [of_each(shifted), of_each(joined), joined_all])
def test_of_two_hundred_drifts_of_all_columns_hardly_any_is_a_swap(
    reference: Reference, change: Callable[[Floats, np.random.Generator], Floats]
) -> None:
    n_found = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 3])
        matrix = change(draw(rng, int(rng.choice([2_000, 10_000]))), rng)
        n_found += any(each.kind == "columns_swapped" for each in find(reference, matrix))
    assert n_found <= 1


def in_some(change: Change, share: float) -> Change:
    def changed(fields: Fields, rng: np.random.Generator) -> Fields:
        new = change(fields, rng)
        is_new = rng.random(len(fields["amount"])) < share
        return {
            name: np.where(is_new if values.ndim == 1 else is_new[:, None], new[name], values)
            for name, values in fields.items()
        }

    return changed


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("amount", "weight", "temp", "shop"), ("log_amount", "log_weight", "level", "is_large")]
)
def test_the_fields_are_named_whatever_they_were_made_into(names: tuple[str, ...]) -> None:
    verdict = judge(names, 1, in_some(swap("amount", "weight"), 0.6))
    assert verdict.kind == "pipeline_fault"
    assert verdict.headline.startswith("`amount` and `weight` have changed places in 60 % of the payments")
    assert "there is more to look at" not in verdict.headline
