"""Pipeline faults are found and named, and ordinary drift is none."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import constants

from app.core.batches import Floats
from app.core.counts.calendar import Window
from app.core.faults.conversions import CONVERSIONS
from app.core.faults.displaced import find_displaced
from app.core.faults.fault import Fault
from app.core.faults.find import FaultFinder
from app.core.faults.law import Law, distance, distance_within, gap
from app.core.faults.traffic import (
    Traffic,
    choose_past,
    events_by_hour,
    events_due,
    find_in_traffic,
    of_same_season,
)
from app.core.faults.units import find_unit
from models.reference.counting import count
from models.reference.error_hours import hours_of
from models.reference.fit import fit_reference
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.training_events import TrainingEvents, numeric
from models.reference.units import LARGEST_UNITS

N = 2_000
NAMES = ["temp", "dist", "amount", "share", "count", "rain"]


def draw(seed: int, n: int = N, shift: float = 0.0, scale: float = 1.0) -> Floats:
    """Six unlike features; ``shift`` in deviations and ``scale`` move all of them in an ordinary way."""
    rng = np.random.default_rng(seed)
    wet = rng.random(n) < 1 / (1 + math.exp(2 - shift))
    return np.column_stack(
        [
            rng.normal(12 + 8 * shift, 8 * scale, n),
            np.abs(rng.normal(1000 + 300 * shift, 300 * scale, n)),
            rng.lognormal(3 + 0.5 * shift, scale, n),
            rng.beta(2 * math.exp(0.3 * shift), 5, n),
            rng.poisson(8 * math.exp(0.3 * shift), n).astype(np.float64),
            np.where(wet, rng.exponential(3 * scale, n), 0.0),
        ]
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return fit(draw(0, 20_000), NAMES)


def fit(matrix: Floats, names: Sequence[str]) -> Reference:
    n = len(matrix)
    return fit_reference(TrainingEvents(matrix, np.full(n, 0.5), np.zeros(n)), [numeric(name) for name in names], 128)


def find(reference: Reference, matrix: Floats, signalled: Sequence[str] | None = None) -> tuple[Fault, ...]:
    window = count(reference, matrix, np.full(len(matrix), 0.5))
    names = frozenset(reference.names if signalled is None else signalled)
    return FaultFinder(reference.metrics, reference.training).find(window, names)


def only(faults: Sequence[Fault]) -> Fault:
    (fault,) = faults
    return fault


# -- columns in each other's place -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "side"), [(-1, "left"), (1, "right")])
def test_a_rotation_of_all_columns_is_named_with_its_side(reference: Reference, step: int, side: str) -> None:
    fault = only(find(reference, np.roll(draw(1), step, axis=1)))

    assert fault.kind == "columns_displaced"
    assert fault.metrics == tuple(NAMES)
    assert fault.sources == tuple(np.roll(NAMES, step))
    assert f"all columns are displaced by one to the {side}" in fault.sentence


def test_a_rotation_of_the_last_columns_is_told_from_one_of_all(reference: Reference) -> None:
    matrix = draw(1)
    matrix[:, 2:] = np.roll(matrix[:, 2:], -1, axis=1)

    fault = only(find(reference, matrix))

    assert fault.metrics == tuple(NAMES[2:])
    assert "the columns `amount` to `rain` are displaced by one to the left" in fault.sentence


@pytest.mark.parametrize("pair", [(0, 1), (1, 4), (2, 5), (3, 4)])
def test_a_swap_names_its_two_columns(reference: Reference, pair: tuple[int, int]) -> None:
    matrix = draw(1)
    matrix[:, list(pair)] = matrix[:, list(reversed(pair))]

    fault = only(find(reference, matrix))

    assert (fault.kind, fault.metrics) == ("columns_swapped", tuple(NAMES[at] for at in pair))
    assert fault.sentence == f"`{NAMES[pair[0]]}` and `{NAMES[pair[1]]}` have changed places."


def test_any_permutation_is_found_with_the_source_of_each_column(reference: Reference) -> None:
    order = [3, 1, 0, 2, 5, 4]

    fault = only(find(reference, draw(1)[:, order]))

    assert dict(zip(fault.metrics, fault.sources, strict=True)) == {
        NAMES[at]: NAMES[source] for at, source in enumerate(order) if at != source
    }


def test_columns_that_look_alike_change_places_unnoticed() -> None:
    matrix = np.random.default_rng(0).normal(size=(20_000, 4))
    reference = fit(matrix, ["a", "b", "c", "d"])

    assert find(reference, matrix[:N, [1, 2, 3, 0]]) == ()


def test_it_is_said_which_of_the_displaced_columns_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    matrix = np.column_stack([rng.normal(0, 1, 20_000), rng.normal(9, 1, 20_000), rng.normal(9, 1, 20_000)])
    reference = fit(matrix, ["low", "high", "other_high"])

    fault = only(find(reference, matrix[:N, [1, 0, 2]]))

    assert set(fault.metrics) == {"low", "high"}
    assert fault.sentence.endswith("By itself, `low` would not show it: another column looks alike.")


def test_the_columns_of_a_metric_that_has_not_signalled_are_no_evidence(reference: Reference) -> None:
    matrix = draw(1)
    matrix[:, [0, 1]] = matrix[:, [1, 0]]

    assert [fault.kind for fault in find(reference, matrix, ["temp"])] != ["columns_swapped"]
    assert find(reference, matrix, []) == ()


@pytest.mark.parametrize(("n", "off", "is_told"), [(30, 0.11, False), (3_000, 0.03, True)])
def test_columns_are_no_nearer_to_each_other_than_so_many_events_can_tell(n: int, off: float, is_told: bool) -> None:
    """Below 1 are 0.19 and 0.61 of training's values; the window's are off by so much when swapped, else by the rest.

    Thirty events can tell laws that are 0.23 apart: 0.31 and 0.11 are not.
    """

    def law_of(n: int, share: float) -> Law:
        return Law(n, np.array([0.0, 1.0, 2.0]), np.array([0.0, share, 1.0]), math.nan, 100.0, 0.0)

    past = [law_of(10_000, 0.19), law_of(10_000, 0.61)]
    window = {"a": law_of(n, 0.61 - off), "b": law_of(n, 0.19 + off)}
    fault = find_displaced(["a", "b"], past, window, {"a", "b"}).fault

    assert (fault is not None) == is_told
    assert fault is None or fault.kind == "columns_swapped"


def share_below_one(share: float, n: int = 10_000) -> Law:
    """So much is in [0, 1) and the rest in [1, 2): two of them are as far apart as their shares."""
    return Law(n, np.array([0.0, 1.0, 2.0]), np.array([0.0, share, 1.0]), math.nan, 100.0, 0.0)


def price(sources: Sequence[int]) -> tuple[float, str]:
    """What it takes to say a permutation, in units of what cannot be told apart, and what it is."""
    moved = [at for at, source in enumerate(sources) if source != at]
    if not moved:
        return 0.0, ""
    if len(moved) == 2:
        return 1.5, "swap"
    first, last, size = moved[0], moved[-1], len(sources)
    run = list(range(first, last + 1))
    for side, turned in (("left", [*run[1:], first]), ("right", [last, *run[:-1]])):
        if list(sources[first : last + 1]) == turned:
            return (1 if size > 3 else 2) + (first > 0) + (last < size - 1), side
    return 1.0 + len(moved), "permutation"


def displaced_by_definition(
    distances: Floats, alike: float, is_signalled: Sequence[bool]
) -> tuple[list[int], float] | None:
    """Of all permutations the cheapest, or [] where it is not clear, and how strong it is; None where two are."""
    size = len(distances)
    costs = {
        each: sum(distances[at, source] for at, source in enumerate(each)) + alike * price(each)[0]
        for each in itertools.permutations(range(size))
    }
    best, second = sorted(costs, key=costs.__getitem__)[:2]
    if costs[second] - costs[best] < 1e-9:
        return None
    moved = [at for at in range(size) if best[at] != at]
    own, new = {at: distances[at, at] for at in moved}, {at: distances[at, best[at]] for at in moved}
    tells = [
        at
        for at in moved
        if is_signalled[at] and own[at] >= 0.2 and new[at] <= own[at] / 2 and own[at] - new[at] > alike
    ]
    if price(best)[1] in {"left", "right"}:
        bad = [at for at in moved if new[at] > 0.35 or new[at] > own[at] + alike]
        is_nearer = sum(new.values()) <= 0.6 * sum(own.values())
        is_clear = len(tells) >= 2 and is_nearer and 4 * len(bad) <= len(moved)
    else:
        is_clear = bool(moved) and all(
            at in tells and own[at] >= 0.3 and new[at] <= max(alike, own[at] / 4) for at in moved
        )
    if not is_clear:
        return [], 0.0
    return list(best), float(np.mean([own[at] - new[at] for at in tells]))


def shares_apart(now: tuple[float, int], then: tuple[float, int]) -> float:
    """The distance of two laws of `share_below_one` by its definition, from share and number of events of each."""
    apart = abs(now[0] - then[0])
    for (one, _), (other, n) in ((now, then), (then, now)):
        pairs = [(one, other), (1.0 - one, 1.0 - other)]
        apart = max(apart, sum(mass for mass, held in pairs if mass * n >= 3 and held < mass / 5))
    return apart


def test_of_all_permutations_the_cheapest_is_found_where_it_is_clear() -> None:
    """Shares are twentieths, so that bounds are met exactly; some columns have drifted, some have too few events."""
    rng = np.random.default_rng(3)
    kinds: Counter[str] = Counter()
    for number in range(120):
        size = int(rng.choice([2, 3, 4, 4, 5] if number % 4 else [4, 5]))
        order = list(range(size))
        first, end = sorted(rng.choice(size + 1, 2, replace=False).tolist())
        if number % 4 == 0:
            order = np.roll(order, 2).tolist()
        elif number % 4 == 1:
            order[first], order[end - 1] = order[end - 1], order[first]
        else:
            order[first:end] = np.roll(order[first:end], 1 if number % 4 == 2 else -1).tolist()
        shares = rng.choice(np.arange(0, 21, 3), size, replace=False) / 20
        drift = rng.choice([0, 1, -1, 2, -5], size, p=[0.8, 0.05, 0.05, 0.05, 0.05]) / 20
        now = (shares[order] + drift).clip(0, 1)
        sizes, sizes_now = (rng.choice([n, 20, 19], size, p=[0.96, 0.02, 0.02]).tolist() for n in (10_000, 400))
        then = list(zip(shares.tolist(), sizes, strict=True))
        names = [f"c{at}" for at in range(size)]
        window = {names[at]: (float(now[at]), sizes_now[at]) for at in range(size) if rng.random() < 0.98}
        signalled = {name for name in names if rng.random() < 0.97}

        here = [at for at, name in enumerate(names) if name in window and min(window[name][1], sizes[at]) >= 20]
        distances = np.array([[shares_apart(window[names[row]], then[at]) for at in here] for row in here])
        expected: tuple[list[int], float] | None = [], 0.0
        if len(here) >= 2:
            alike = 0.05 + 1 / math.sqrt(min(window[names[at]][1] for at in here))
            expected = displaced_by_definition(distances, alike, [names[at] in signalled for at in here])
        if expected is None:
            continue
        sources, strength = expected
        trained = [share_below_one(*each) for each in then]
        laws = {name: share_below_one(*each) for name, each in window.items()}
        displacement = find_displaced(names, trained, laws, signalled)

        assert (displacement.fault is not None) == bool(sources)
        n_moved = sum(names[at] in signalled and distances[row, row] >= 0.2 for row, at in enumerate(here))
        assert (displacement.distances.shape == (0, 0)) == (n_moved < 2)
        if n_moved >= 2:
            np.testing.assert_array_equal(displacement.distances[np.ix_(here, here)], distances)
            assert np.isfinite(displacement.distances).sum() == len(here) ** 2
        if displacement.fault is None:
            continue
        kind = price(sources)[1]
        kinds[kind] += 1
        pairs = {names[here[at]]: names[here[source]] for at, source in enumerate(sources) if at != source}
        assert dict(zip(displacement.fault.metrics, displacement.fault.sources, strict=True)) == pairs
        assert displacement.fault.kind == ("columns_swapped" if kind == "swap" else "columns_displaced")
        assert displacement.fault.strength == pytest.approx(min(1.0, strength))
    assert min(kinds[kind] for kind in ("left", "right", "swap", "permutation")) >= 4


@pytest.mark.parametrize(
    ("then", "now", "n", "sentence"),
    [
        # `c` has moved most: from 0.9 to 0.1.
        (
            [0.1, 0.5, 0.9],
            [0.5, 0.9, 0.1],
            10_000,
            "`c` holds what `a` held in training: all columns are displaced by one to the left (`a` has gone to `c`).",
        ),
        (
            [0.1, 0.5, 0.9],
            [0.9, 0.1, 0.5],
            10_000,
            "`a` holds what `c` held in training: all columns are displaced by one to the right (`c` has gone to `a`).",
        ),
        (
            [0.3, 0.1, 0.5, 0.9],
            [0.3, 0.5, 0.9, 0.1],
            10_000,
            (
                "`d` holds what `b` held in training: the columns `b` to `d` are displaced by one to the left"
                " (`b` has gone to `d`)."
            ),
        ),
        (
            [0.1, 0.5, 0.9, 0.3],
            [0.9, 0.1, 0.5, 0.3],
            10_000,
            (
                "`a` holds what `c` held in training: the columns `a` to `c` are displaced by one to the right"
                " (`c` has gone to `a`)."
            ),
        ),
        (
            [0.0, 0.4, 0.7, 1.0],
            [0.7, 1.0, 0.0, 0.4],
            10_000,
            "`a` holds what `c` held in training; `a`, `b`, `c` and `d` have changed places.",
        ),
        ([0.5, 0.1, 0.9], [0.5, 0.9, 0.1], 10_000, "`b` and `c` have changed places."),
        # What another column holds in its place would do as well: of one of the two, and of both.
        (
            [0.1, 0.9, 0.1],
            [0.9, 0.1, 0.1],
            10_000,
            "`a` and `b` have changed places. By itself, `b` would not show it: another column looks alike.",
        ),
        (
            [0.1, 0.9, 0.1, 0.9],
            [0.9, 0.1, 0.1, 0.9],
            10_000,
            "`a` and `b` have changed places, but which belongs where cannot be told: they look alike.",
        ),
        # Moved by one, `b` holds what it would hold anyway: a shorter rotation says it as well.
        (
            [0.5, 0.5, 0.9, 0.1],
            [0.5, 0.9, 0.1, 0.5],
            10_000,
            (
                "`c` holds what `d` held in training: all columns are displaced by one to the left (`a` has gone to"
                " `d`). By itself, `a` would not show it: another column looks alike."
            ),
        ),
        # `a` has moved by more in all, `d` is nearer to what it holds.
        (
            [0.0, 0.5, 0.6, 1.0],
            [0.9, 0.6, 1.0, 0.0],
            10_000,
            "`d` holds what `a` held in training: all columns are displaced by one to the left (`a` has gone to `d`).",
        ),
        # `c` is 0.05 off what `b` holds, and `b` from what `c` holds: together more than 0.06.
        ([0.1, 0.9, 0.15], [0.9, 0.1, 0.15], 10_000, "`a` and `b` have changed places."),
        # Both are 0.05 off in their places, and in each other's.
        (
            [0.1, 0.9, 0.1],
            [0.9, 0.15, 0.15],
            10_000,
            "`a` and `b` have changed places. By itself, `b` would not show it: another column looks alike.",
        ),
        # What an arbitrary permutation gains by two that look alike is less than what it takes to say.
        (
            [0.0, 0.4, 0.7, 1.0, 0.2, 0.22],
            [0.7, 1.0, 0.0, 0.4, 0.22, 0.2],
            10_000,
            "`a` holds what `c` held in training; `a`, `b`, `c` and `d` have changed places.",
        ),
        # A hundred events cost 0.15 a step. Of four, a rotation of all takes one step and a swap one and a half:
        (
            [0.0, 0.8, 0.81, 0.82],
            [0.82, 0.8, 0.81, 0.0],
            100,
            "`d` holds what `a` held in training: all columns are displaced by one to the left (`a` has gone to `d`).",
        ),
        # of three a rotation takes two,
        (
            [0.0, 0.8, 0.82],
            [0.8, 0.82, 0.0],
            100,
            "`a` and `c` have changed places. By itself, `a` would not show it: another column looks alike.",
        ),
        # and that of a part one more for each end.
        (
            [0.5, 0.0, 0.8, 0.87, 0.5],
            [0.5, 0.8, 0.87, 0.0, 0.5],
            100,
            "`b` and `d` have changed places. By itself, `b` would not show it: another column looks alike.",
        ),
        # A permutation of four takes five steps, here of 0.25.
        ([0.0, 0.2, 1.0, 0.55], [1.0, 0.55, 0.0, 0.2], 25, "`a` and `c` have changed places."),
        (
            [0.0, 0.2, 1.0, 0.7],
            [1.0, 0.7, 0.0, 0.2],
            25,
            "`a` holds what `c` held in training; `a`, `b`, `c` and `d` have changed places.",
        ),
    ],
)
def test_displaced_columns_are_said_by_the_clearest_of_them(
    then: list[float], now: list[float], n: int, sentence: str
) -> None:
    names = list("abcdef"[: len(then)])
    window = {name: share_below_one(share, n) for name, share in zip(names, now, strict=True)}
    fault = find_displaced(names, [share_below_one(share) for share in then], window, set(names)).fault

    assert fault is not None
    assert fault.sentence == sentence


@pytest.mark.parametrize(("signalled", "size"), [("ac", 0), ("ab", 3), ("abc", 3), ("", 0)])
def test_distances_are_measured_where_two_that_have_signalled_are_not_where_they_were(
    signalled: str, size: int
) -> None:
    """`a` and `b` have changed places, `c` is where it was."""
    window = {name: share_below_one(share) for name, share in zip("abc", (0.5, 0.0, 0.2), strict=True)}
    trained = [share_below_one(share) for share in (0.0, 0.5, 0.2)]
    assert find_displaced(["a", "b", "c"], trained, window, set(signalled)).distances.shape == (size, size)


@pytest.mark.parametrize(
    ("then", "now", "n", "signalled", "is_found"),
    [
        # A rotation to the left, in which a quarter may be farther from its source than 0.35, and not a half.
        ([0.0, 0.5, 0.6, 1.0], [0.5, 1.0, 1.0, 0.0], 10_000, "abcd", True),
        ([0.0, 0.5, 0.6, 1.0], [0.9, 1.0, 1.0, 0.0], 10_000, "abcd", False),
        ([0.0, 0.5, 0.6, 1.0], [0.75, 0.9, 1.0, 0.0], 10_000, "abcd", True),
        # Nor farther, by more than cannot be told, than from its own past: as `b` and `d` are by 0.07 and by 0.05.
        ([0.0, 0.5, 0.57, 0.93, 1.0], [0.5, 0.5, 0.93, 0.93, 0.0], 10_000, "abcde", False),
        ([0.0, 0.5, 0.57, 0.93, 1.0], [0.5, 0.5, 0.93, 1.0, 0.0], 10_000, "abcde", True),
        ([0.0, 0.5, 0.55, 0.95, 1.0], [0.5, 0.5, 0.95, 0.95, 0.0], 10_000, "abcde", True),
        # All together are 0.66 as far, and 0.51.
        ([0.0, 0.6, 0.8, 0.83], [0.4, 1.0, 0.5, 0.33], 10_000, "abcd", False),
        ([0.0, 0.6, 0.8, 0.83], [0.4, 1.0, 0.6, 0.2], 10_000, "abcd", True),
        # Twenty-five events cannot tell what is nearer by 0.2.
        ([0.0, 0.3, 0.6, 0.9], [0.25, 0.55, 0.85, 0.0], 25, "abcd", False),
        ([0.0, 0.3, 0.6, 0.9], [0.25, 0.55, 0.85, 0.0], 10_000, "abcd", True),
        # Two must tell: from 0.2 on, and at half of the distance.
        ([0.0, 0.2, 0.3], [0.2, 0.3, 0.0], 10_000, "abc", True),
        ([0.0, 0.2, 0.3], [0.2, 0.3, 0.0], 10_000, "ab", False),
        ([0.0, 0.2, 1.0], [0.4, 1.0, 0.0], 10_000, "ac", True),
        ([0.0, 0.2, 1.0], [0.41, 1.0, 0.0], 10_000, "ac", False),
        # A swap: from 0.3 on, and at a quarter of the distance.
        ([0.0, 0.3], [0.3, 0.0], 10_000, "ab", True),
        ([0.0, 0.29], [0.29, 0.0], 10_000, "ab", False),
        ([0.0, 0.625], [0.5, 0.0], 10_000, "ab", True),
        ([0.0, 0.64], [0.5, 0.0], 10_000, "ab", False),
        ([0.0, 0.35], [0.3, 0.0], 400, "ab", True),
    ],
)
def test_how_near_displaced_columns_are_to_their_sources(
    then: list[float], now: list[float], n: int, signalled: str, is_found: bool
) -> None:
    names = list("abcde"[: len(then)])
    window = {name: share_below_one(share, n) for name, share in zip(names, now, strict=True)}
    displacement = find_displaced(names, [share_below_one(share) for share in then], window, set(signalled))

    assert (displacement.fault is not None) == is_found


# -- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "factor", "offset", "words"),
    [
        (0, 1.8, 32.0, "1.8 times those of training plus 32 (Celsius to Fahrenheit)"),
        (0, 1.0, 273.15, "those of training plus 273.1 (Celsius to Kelvin)"),
        (1, 1000.0, 0.0, "1000 times those of training (seconds to milliseconds)"),
        (1, 0.001, 0.0, "1/1000 of those of training (milliseconds to seconds)"),
        (1, -1.0, 0.0, "minus those of training (the other sign)"),
        (2, 60.0, 0.0, "60 times those of training (minutes to seconds)"),
        (3, 100.0, 0.0, "100 times those of training (shares to percentages)"),
        (4, 1.609344, 0.0, "1.609 times those of training (miles to kilometres)"),
        (4, 0.45359237, 0.0, "0.454 times those of training (pounds to kilograms)"),
        (4, 24.0, 0.0, "24 times those of training (days to hours)"),
    ],
)
def test_a_known_change_of_unit_is_named(
    reference: Reference, column: int, factor: float, offset: float, words: str
) -> None:
    matrix = draw(1)
    matrix[:, column] = matrix[:, column] * factor + offset

    fault = only(find(reference, matrix))

    assert (fault.kind, fault.metrics) == ("unit_changed", (NAMES[column],))
    assert words in fault.sentence


#: From one unit to another, by scipy's constants and, of what these lack, by definition.
KNOWN_UNITS = {
    "seconds to milliseconds": 1 / constants.milli,
    "seconds to microseconds": 1 / constants.micro,
    "shares to percentages": 100.0,
    "centimetres to millimetres": constants.centi / constants.milli,
    "minutes to seconds": constants.minute,
    "hours to seconds": constants.hour,
    "days to hours": constants.day / constants.hour,
    "days to seconds": constants.day,
    "metres per second to kilometres per hour": 1 / constants.kmh,
    "miles to kilometres": constants.mile / constants.kilo,
    "feet to inches": constants.foot / constants.inch,
    "metres to feet": 1 / constants.foot,
    "inches to centimetres": constants.inch / constants.centi,
    "pounds to kilograms": constants.pound,
}


def test_each_conversion_is_what_its_name_says_and_is_undone_by_its_reverse() -> None:
    known = {each.words: each for each in CONVERSIONS}
    for words, factor in KNOWN_UNITS.items():
        old, new = words.split(" to ")
        assert known.pop(words).factor == pytest.approx(factor, rel=1e-6)
        assert known.pop(f"{new} to {old}").factor == pytest.approx(1 / factor, rel=1e-6)
    assert known.pop("the other sign")[1:] == (-1.0, 0.0)
    for old, new in (("Celsius", "Fahrenheit"), ("Celsius", "Kelvin")):
        there, back = known.pop(f"{old} to {new}"), known.pop(f"{new} to {old}")
        for degrees in (-40.0, 0.0, 100.0):
            expected = constants.convert_temperature(degrees, old, new)
            assert there.factor * degrees + there.offset == pytest.approx(expected)
            assert back.factor * expected + back.offset == pytest.approx(degrees)
    assert not known


def test_an_unknown_large_factor_is_said_as_it_is(reference: Reference) -> None:
    matrix = draw(1)
    matrix[:, 1] *= 37

    assert re_number(only(find(reference, matrix)).sentence) == pytest.approx(37, rel=0.05)


def re_number(sentence: str) -> float:
    return float(sentence.split("its values are about ")[1].split(maxsplit=1)[0])


def test_a_small_factor_of_widely_spread_values_is_drift_and_no_unit(reference: Reference) -> None:
    matrix = draw(1)
    matrix[:, 2] *= 1.609344

    assert find(reference, matrix) == ()


def test_a_factor_that_a_small_offset_would_hardly_change_is_not_named_after_the_offset() -> None:
    """1.8 times values that are spread by 200 is 1.8 times them plus 32 just as well."""
    values = np.random.default_rng(2).normal(1000, 200, (20_000, 1))
    reference = fit(values, ["x"])

    assert find(reference, values[:N] * 1.8) == ()
    assert find(reference, values[:N] * 1.8 + 32) == ()


def narrow(n: int = 1_000_000, low: float = 100.0, high: float = 110.0) -> Law:
    """Spread evenly, in twenty stretches."""
    return Law(n, np.linspace(low, high, 21), np.linspace(0.0, 1.0, 21), (low + high) / 2, 1e15, 0.0)


def in_unit(training: Law, factor: float, offset: float = 0.0, off: float = 0.0, n: int = 1_000_000) -> Law:
    """The law of the values in another unit; of ``off`` of them the lowest have become the highest."""
    scaled = training.scaled(factor, offset)
    below = np.maximum(scaled.below - off, 0.0)
    below[-1] = 1.0
    return replace(scaled, n=n, below=below, cap=1e15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("seconds to milliseconds", "1000 times"),
        ("milliseconds to seconds", "1/1000 of"),
        ("seconds to microseconds", "1e+06 times"),
        ("microseconds to seconds", "1/1e+06 of"),
        ("shares to percentages", "100 times"),
        ("percentages to shares", "1/100 of"),
        ("centimetres to millimetres", "10 times"),
        ("millimetres to centimetres", "1/10 of"),
        ("minutes to seconds", "60 times"),
        ("seconds to minutes", "1/60 of"),
        ("hours to seconds", "3600 times"),
        ("seconds to hours", "1/3600 of"),
        ("days to hours", "24 times"),
        ("hours to days", "1/24 of"),
        ("days to seconds", "8.64e+04 times"),
        ("metres per second to kilometres per hour", "3.6 times"),
        ("kilometres per hour to metres per second", "0.278 times"),
        ("miles to kilometres", "1.609 times"),
        ("kilometres to miles", "0.621 times"),
        ("feet to inches", "12 times"),
        ("inches to feet", "1/12 of"),
        ("metres to feet", "3.281 times"),
        ("feet to metres", "0.305 times"),
        ("inches to centimetres", "2.54 times"),
        ("centimetres to inches", "0.394 times"),
        ("pounds to kilograms", "0.454 times"),
        ("kilograms to pounds", "2.205 times"),
        ("Celsius to Fahrenheit", "1.8 times"),
        ("Fahrenheit to Celsius", "0.556 times"),
        ("Celsius to Kelvin", ""),
        ("Kelvin to Celsius", ""),
        ("the other sign", "minus"),
    ],
)
def test_each_unit_is_said_with_its_factor_and_offset(words: str, said: str) -> None:
    (known,) = (each for each in CONVERSIONS if each.words == words)
    offsets = {32.0: " plus 32", -32 / 1.8: " minus 17.78", 273.15: " plus 273.1", -273.15: " minus 273.1", 0.0: ""}
    values = f"{said} those of training{offsets[known.offset]}".strip()

    fault = find_unit("x", narrow(), in_unit(narrow(), known.factor, known.offset))
    # Values of 100 to 110 are neither shares nor percentages.
    words = {"shares to percentages": "a whole unit to cents", "percentages to shares": "cents to a whole unit"}.get(
        words, words
    )

    assert fault is not None
    assert fault.sentence == f"`x` looks as if in another unit: its values are about {values} ({words})."
    assert (fault.kind, fault.metrics, fault.strength) == ("unit_changed", ("x",), pytest.approx(1.0, abs=0.01))


@pytest.mark.parametrize(
    ("factor", "offset", "off", "width", "is_found"),
    [
        # A small factor, of which no more than 2 % (and a thousandth, by chance) may have drifted; a large one: 20 %.
        (12.0, 0.0, 0.018, 10.0, True),
        (12.0, 0.0, 0.03, 10.0, False),
        (24.0, 0.0, 0.18, 10.0, True),
        (24.0, 0.0, 0.25, 10.0, False),
        (1 / 12, 0.0, 0.03, 10.0, False),
        (1 / 24, 0.0, 0.18, 10.0, True),
        # An offset of three deviations (a uniform law's is its width over the root of 12) is a large one,
        (1.0, 273.15, 0.18, 80.0 * math.sqrt(12), True),
        (1.0, 273.15, 0.18, 93.0 * math.sqrt(12), False),
        (1.0, 273.15, 0.015, 93.0 * math.sqrt(12), True),
        # and one of less than a half of a deviation no offset.
        (1.8, 32.0, 0.0, 60.0 * math.sqrt(12), True),
        (1.8, 32.0, 0.0, 70.0 * math.sqrt(12), False),
    ],
)
def test_how_much_may_have_drifted_besides_a_change_of_unit(
    factor: float, offset: float, off: float, width: float, is_found: bool
) -> None:
    training = narrow(low=500.0, high=500.0 + width)
    # The highest stretch is as wide as the others: what moves there moves the mean by no more than the shares.
    fault = find_unit("x", training, replace(in_unit(training, factor, offset, off), mean=math.nan))

    assert (fault is not None) == is_found


@pytest.mark.parametrize(
    ("factor", "moved", "is_found"),
    [(12.0, 0.6, True), (12.0, 0.4, False), (24.0, 0.12, True), (24.0, 0.08, False)],
)
def test_how_many_values_must_be_elsewhere(factor: float, moved: float, is_found: bool) -> None:
    """The rest of them are nought in any unit."""
    points = np.array([0.0, 5e-324, *np.linspace(100.0, 110.0, 20)])
    below = np.array([0.0, 1 - moved, *np.linspace(1 - moved, 1.0, 20)])
    training = Law(1_000_000, points, below, math.nan, 1e15, 0.0)
    scaled = training.scaled(factor, 0.0)
    window = replace(scaled, points=np.array([0.0, 5e-324, *scaled.points[2:]]), cap=1e15)
    fault = find_unit("x", training, window)

    assert (fault is not None) == is_found
    assert fault is None or fault.strength == pytest.approx(moved)


@pytest.mark.parametrize(("off", "is_found"), [(0.12, True), (0.17, False)])
def test_of_what_has_changed_a_half_may_be_left_in_another_unit(off: float, is_found: bool) -> None:
    """The values of 0.7 are nought in any unit; of all, so many of the others are the highest now."""
    below = np.array([0.0, 0.7, *np.linspace(0.7, 1.0, 20)])
    training = Law(1_000_000, np.array([0.0, 5e-324, *np.linspace(100.0, 110.0, 20)]), below, math.nan, 1e15, 0.0)
    points = np.array([0.0, 5e-324, *np.linspace(2_400.0, 2_640.0, 20)])
    now = np.array([0.0, 0.7, *np.maximum(below[2:-1] - off, 0.7), 1.0])
    assert (find_unit("x", training, replace(training, points=points, below=now)) is not None) == is_found


@pytest.mark.parametrize(("n", "n_now", "is_found"), [(20, 20, True), (19, 20, False), (20, 19, False)])
def test_twenty_values_of_each_are_enough_to_know_a_unit(n: int, n_now: int, is_found: bool) -> None:
    assert (find_unit("x", narrow(n), in_unit(narrow(n), 60.0, n=n_now)) is not None) == is_found


@pytest.mark.parametrize(
    ("factor", "mean", "now", "cap", "said"),
    [
        (37.0, 105.0, 105.0 * 37, 1e15, "37 times those of training"),
        (-37.0, 105.0, -105.0 * 37, 1e15, "minus 37 times those of training"),
        (1 / 37, 105.0, 105.0 / 37, 1e15, "1/37 of those of training"),
        (-1 / 37, 105.0, -105.0 / 37, 1e15, "minus 1/37 of those of training"),
        (19.0, 105.0, 105.0 * 19, 1e15, ""),
        (37.0, 105.0, 105.0 * 37, 4 * 105.0 * 37, ""),  # it may be saturated
        (37.0, 105.0, 105.0 * 37, 4.1 * 105.0 * 37, "37 times those of training"),
        (37.0, 105.0, math.nan, 1e15, ""),
        (37.0, 0.0, 105.0 * 37, 1e15, ""),
        (37.0, 105.0, 0.0, 1e15, ""),
    ],
)
def test_a_factor_without_a_name_is_that_of_the_means(
    factor: float, mean: float, now: float, cap: float, said: str
) -> None:
    training = replace(narrow(), mean=mean)
    window = replace(in_unit(training, factor), mean=now, cap=cap)
    fault = find_unit("x", training, window)

    assert (fault.sentence if fault is not None else "") == (
        f"`x` looks as if in another unit: its values are about {said}." if said else ""
    )


@pytest.mark.parametrize(
    ("factor", "said"), [(65.4, "60 times those of training (minutes to seconds)"), (67.0, "67 times")]
)
def test_a_factor_that_is_a_tenth_off_is_the_known_one(factor: float, said: str) -> None:
    training = narrow(low=0.0, high=200.0)
    fault = find_unit("x", training, in_unit(training, factor))

    assert fault is not None
    assert fault.sentence.startswith(f"`x` looks as if in another unit: its values are about {said}")


@pytest.mark.parametrize(("off", "is_found"), [(0.25, True), (0.35, False)])
def test_as_much_may_have_drifted_besides_a_factor_without_a_name_and_what_is_chance(
    off: float, is_found: bool
) -> None:
    """A fifth, and of a hundred events a tenth by chance."""
    window = replace(in_unit(narrow(), 37.0, off=off, n=100), mean=105.0 * 37)
    assert (find_unit("x", narrow(), window) is not None) == is_found


def test_a_known_unit_that_fits_as_well_goes_before_the_factor_of_the_means() -> None:
    """The shares are those of 24 times the values; the means are off by a quarter, or 0.4 deviations."""
    training = narrow(low=0.0, high=200.0)
    fault = find_unit("x", training, replace(in_unit(training, 24.0), mean=24 * 100.0 * 1.25))

    assert fault is not None
    assert "(days to hours)" in fault.sentence


@pytest.mark.parametrize(("n", "is_told"), [(25, False), (100, True)])
def test_units_that_so_few_events_cannot_tell_apart_are_all_named(n: int, is_told: bool) -> None:
    """Of values spread evenly from nought on, 3.6 times them and 3.281 times them are 0.09 apart."""
    training = Law(n, np.linspace(0.0, 1e6, 501), np.linspace(0.0, 1.0, 501), math.nan, 1e15, 0.0)
    fault = find_unit("x", training, in_unit(training, 3.6, n=n))
    values = "3.6 times those of training (metres per second to kilometres per hour)"

    assert fault is not None
    assert fault.sentence == (
        f"`x` looks as if in another unit: its values are about {values}."
        if is_told
        else f"`x` looks as if in another unit; which one cannot be told: {values}, or 3.281 times those of training"
        " (metres to feet)."
    )


def test_of_units_that_cannot_be_told_apart_the_nearest_comes_first() -> None:
    training = Law(25, np.linspace(0.0, 1e6, 501), np.linspace(0.0, 1.0, 501), math.nan, 1e15, 0.0)
    fault = find_unit("x", training, in_unit(training, 3.28084, n=25))

    assert fault is not None
    assert fault.sentence.split(": ")[1].startswith("3.281 times those of training (metres to feet), or 3.6 times")


@pytest.mark.parametrize(("times", "is_found"), [(15.0, True), (30.0, False)])
def test_the_largest_values_in_another_unit_are_of_the_same_order(times: float, is_found: bool) -> None:
    """What is beyond the last edge, in the window or in training, is known by how far it reaches alone."""
    training = narrow()
    beyond = Law(1_000_000, np.array([111.0, 1e6 * 110.0 * times]), np.array([0.0, 1.0]), math.nan, 1e15, 0.0)
    fault = find_unit("x", training, beyond)
    assert ("microseconds" in (fault.sentence if fault is not None else "")) == is_found

    points, below = np.append(training.points, 110.0 * times), np.append(training.below * 0.9999, 1.0)
    fault = find_unit(
        "x", replace(training, points=points, below=below), replace(in_unit(training, 60.0), mean=math.nan)
    )
    assert (fault is not None) == is_found


# -- values ----------------------------------------------------------------------------------------------------------


def spoil(matrix: Floats, column: int, how: Callable[[Floats], Floats]) -> Floats:
    matrix[:, column] = how(matrix[:, column].copy())
    return matrix


def put(share: float, value: float) -> Callable[[Floats], Floats]:
    def into(values: Floats) -> Floats:
        values[: round(share * len(values))] = value
        return values

    return into


@pytest.mark.parametrize(
    ("column", "how", "kind", "words"),
    [
        (0, put(1.0, 7.5), "constant", "`temp` is 7.5 in all events; in training it varied."),
        (4, put(1.0, 8.0), "constant", "`count` is 8 in all events"),
        (0, put(1.0, np.nan), "missing_values", "`temp` is missing in all events, 0 % in training."),
        (0, put(0.3, np.nan), "missing_values", "`temp` is missing in 30 % of events, 0 % in training."),
        (1, put(0.1, -999.0), "stand_in_value", "`dist` is -999 in 10 % of events"),
        (2, put(0.1, 11.0), "stand_in_value", "it may stand for a missing value"),
        (2, put(0.05, np.inf), "infinite_values", "`amount` has infinite values, in up to 5 % of events"),
        (0, lambda values: values + 500, "out_of_range", "`temp` is far above all that training had: between"),
        (0, lambda values: np.minimum(values, 18.0), "clipped", "`temp` ends at 18, in 23 % of events"),
        (2, lambda values: np.maximum(values, 10.0), "clipped", "were below that. Something cuts it off."),
    ],
)
def test_a_fault_of_values_is_named(
    reference: Reference, column: int, how: Callable[[Floats], Floats], kind: str, words: str
) -> None:
    fault = only(find(reference, spoil(draw(1), column, how)))

    assert (fault.kind, fault.metrics) == (kind, (NAMES[column],))
    assert words in fault.sentence


def test_a_column_of_one_value_is_constant_though_most_of_it_is_missing_as_before() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(20_000, 1))
    matrix[rng.random(20_000) < 0.7] = np.nan
    reference = fit(matrix, ["x"])
    (fault,) = find(reference, np.where(np.isnan(matrix[:N]), np.nan, 0.25))
    assert fault.sentence == "`x` is 0.25 in all events; in training it varied."


def test_missing_values_that_are_suddenly_filled_are_a_fault() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(20_000, 1))
    matrix[rng.random(20_000) < 0.3] = np.nan
    reference = fit(matrix, ["x"])

    faults = find(reference, np.nan_to_num(matrix[:N], nan=0.5))

    assert {fault.kind for fault in faults} == {"missing_values_filled", "stand_in_value"}
    assert "`x` is missing in 0 % of events, 30 % in training: something fills it in." in {
        fault.sentence for fault in faults
    }


def test_values_that_depend_on_each_other_count_as_fewer() -> None:
    """Twenty equal values of a binary feature say it is constant; not when only one of ten counts."""
    cells = (MetricCells("x", "numeric", np.array([0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])),)
    training, window = Counts.zeros(1, 6, 8), Counts.zeros(1, 6, 8)
    training.counts[0, [1, 3]], training.n, training.minima[0], training.maxima[0] = 500, 1000, 0.0, 1.0
    window.counts[0, 3], window.n, window.minima[0], window.maxima[0] = 40, 40, 1.0, 1.0

    assert only(FaultFinder(cells, training).find(window, {"x"})).kind == "constant"
    assert FaultFinder(cells, training, design_effects=[10.0]).find(window, {"x"}) == ()


@pytest.mark.parametrize(("share", "n", "is_fault"), [(0.04, 2_000, True), (0.04, 300, False), (0.01, 50_000, False)])
def test_a_flag_that_is_no_longer_set_is_constant_though_it_has_hardly_moved(
    share: float, n: int, *, is_fault: bool
) -> None:
    """No test calls four in a hundred a drift; 0.96 to the power 300 is no less than a millionth."""
    cells = (MetricCells("x", "numeric", np.array([0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])),)
    training, window = Counts.zeros(1, 6, 8), Counts.zeros(1, 6, 8)
    training.counts[0, [1, 3]] = [round((1 - share) * 100_000), round(share * 100_000)]
    training.n, training.minima[0], training.maxima[0] = 100_000, 0.0, 1.0
    window.counts[0, 1], window.n, window.minima[0], window.maxima[0] = n, n, 0.0, 0.0

    faults = FaultFinder(cells, training).find(window, set())
    assert [fault.sentence for fault in faults] == ["`x` is 0 in all events; in training it varied."] * is_fault
    assert FaultFinder(cells, training).find(window, set(), silent={"x"}) == ()


def test_a_month_without_a_holiday_is_no_fault() -> None:
    """Half of training's days are near a holiday, and none of the thirty of the window, which no test calls a drift."""
    cells = (MetricCells("x", "numeric", np.array([0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])),)
    training, window = Counts.zeros(1, 6, 8), Counts.zeros(1, 6, 8)
    training.counts[0, [1, 3]], training.n, training.minima[0], training.maxima[0] = 25_000, 50_000, 0.0, 1.0
    window.counts[0, 1], window.n, window.minima[0], window.maxima[0] = 27_000, 27_000, 0.0, 0.0
    assert FaultFinder(cells, training, design_effects=[1_200.0]).find(window, set()) == ()
    assert only(FaultFinder(cells, training, design_effects=[1_200.0]).find(window, {"x"})).kind == "constant"


def test_a_value_is_not_far_from_what_never_varied() -> None:
    reference = fit(np.ones((2_000, 1)), ["x"])
    window = np.where(np.arange(N)[:, None] % 10, 1.0, 999.0)

    assert "stand_in_value" not in {fault.kind for fault in find(reference, window)}


def test_infinite_values_that_training_had_as_well_are_no_fault() -> None:
    matrix = np.random.default_rng(0).normal(size=(20_000, 1))
    matrix[::20, 0] = np.inf
    reference = fit(matrix, ["x"])

    assert find(reference, matrix[:N]) == ()
    assert only(find(reference, -matrix[:N])).kind == "infinite_values"


# -- categories ------------------------------------------------------------------------------------------------------

VALUES = ["AA", "B6", "DL", "UA"]


def categories(before: Sequence[int], now: Sequence[int]) -> tuple[Fault, ...]:
    """Counts per code; the last but one cell is "unseen", the last "missing"."""
    cells = (MetricCells("carrier", "category", np.empty(0), codes=5),)
    training, window = Counts.zeros(1, 6, 8), Counts.zeros(1, 6, 8)
    for counts, numbers in ((training, before), (window, now)):
        counts.counts[0] = numbers
        counts.n = sum(numbers)
        used = np.flatnonzero(counts.counts[0, :5])
        if len(used):
            counts.minima[0], counts.maxima[0] = used[0], used[-1]
    return FaultFinder(cells, training, values={"carrier": VALUES}).find(window, {"carrier"})


@pytest.mark.parametrize(
    ("now", "kind", "sentence"),
    [
        (
            [0, 0, 0, 0, 1000, 0],
            "vocabulary_changed",
            (
                "`carrier` has values in all events that are none of the model's; 0 % in training: they may be "
                "written in another way."
            ),
        ),
        (
            [0, 300, 200, 100, 400, 0],
            "vocabulary_changed",
            (
                "`carrier` has values in 40 % of events that are none of the model's; 0 % in training, and none of the "
                "events has `carrier` 'AA' (40 % in training): perhaps renamed."
            ),
        ),
        ([0, 500, 300, 200, 0, 0], "category_vanished", "None of the events has `carrier` 'AA' (40 % in training)."),
        ([0, 0, 0, 1000, 0, 0], "constant", "`carrier` is 'UA' in all events; in training it varied."),
    ],
)
def test_a_fault_of_categories_is_named(now: list[int], kind: str, sentence: str) -> None:
    fault = only(categories([4000, 3000, 2000, 1000, 0, 0], now))

    assert (fault.kind, fault.sentence) == (kind, sentence)


@pytest.mark.parametrize("now", [[200, 500, 200, 100, 0, 0], [390, 290, 190, 95, 30, 5], [4, 3, 2, 0, 0, 0]])
def test_shares_of_categories_that_move_a_few_new_ones_and_a_rare_one_unseen_are_no_fault(now: list[int]) -> None:
    assert categories([4000, 3000, 2000, 1000, 0, 0], now) == ()


# -- traffic ---------------------------------------------------------------------------------------------------------

PAST = [980, 1020, 1000, 940, 1060, 1010, 990]


def test_faults_call_the_events_by_their_name(reference: Reference) -> None:
    (fault,) = find_in_traffic(Traffic(0, PAST), "flights")
    assert fault.sentence == "No flights where 1000 are usual: some do not arrive."
    missing = replace(reference.training, counts=reference.training.counts.copy())
    row, size = 0, reference.metrics[0].size
    missing.counts[row, size] += missing.counts[row, :size].sum()
    missing.counts[row, :size] = 0
    name = reference.metrics[row].name
    (fault,) = FaultFinder(reference.metrics, reference.training, events="flights").find(missing, {name})
    assert fault.sentence == f"`{name}` is missing in all flights, 0 % in training."


@pytest.mark.parametrize(
    ("n", "kind", "sentence", "share_amiss"),
    [
        (0, "traffic_missing", "No events where 1000 are usual: some do not arrive.", 1.0),
        (300, "traffic_missing", "Only 300 events where 1000 are usual: some do not arrive.", 0.7),
        (2000, "traffic_doubled", "2000 events where 1000 are usual, twice as many: each may come twice.", 0.5),
        (5000, "traffic_surged", "5000 events where 1000 are usual, 5 times as many.", 0.8),
    ],
)
def test_traffic_far_from_the_past_is_a_fault_as_strong_as_the_share_that_is_amiss(
    n: int, kind: str, sentence: str, share_amiss: float
) -> None:
    fault = only(find_in_traffic(Traffic(n, PAST)))

    assert (fault.kind, fault.sentence, fault.metrics) == (kind, sentence, ())
    assert fault.strength == pytest.approx(share_amiss)


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(700, PAST),
        Traffic(1500, PAST),
        Traffic(0, PAST[:4]),
        Traffic(0),
        Traffic(4, [9, 12, 7, 8, 10]),
        Traffic(500, [1000, 1000, 1000, 1000, 1000], season=[480]),
        Traffic(500, [1000, 1000, 1000, 1000, 1000], promised=lambda: (50, [100] * 5)),
        Traffic(2500, [1000, 1000, 1000, 1000, 1000], promised=lambda: (24, [10] * 5)),
        Traffic(450, [1000, 400, 1000, 420, 1000, 450, 990, 410]),
        Traffic(2000, [100, 200, 400, 800, 1600]),
    ],
)
def test_traffic_within_its_past_and_season_is_none(traffic: Traffic) -> None:
    assert find_in_traffic(traffic) == []


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (50_000, "traffic_missing"),
        (50_100, ""),
        (169_900, ""),
        (170_000, "traffic_surged"),
        (179_900, "traffic_surged"),
        (180_000, "traffic_doubled"),
        (225_000, "traffic_doubled"),
        (225_100, "traffic_surged"),
    ],
)
def test_traffic_is_judged_at_half_and_at_so_many_times_the_usual(n: int, kind: str) -> None:
    assert [fault.kind for fault in find_in_traffic(Traffic(n, [100_000] * 5))] == [kind] * bool(kind)
    assert find_in_traffic(Traffic(n, [100_000] * 4)) == []
    # What is known of the season, and what training promises of the hours, must be as far away.
    other = [1_000] * 9
    far = ["traffic_surged"] if n >= 170_000 else []
    assert [fault.kind for fault in find_in_traffic(Traffic(n, other, [100_000]))] == far
    promised = Traffic(n, other, promised=lambda: (100.0, [1.0] * 9))
    assert [fault.kind for fault in find_in_traffic(promised)] == far
    assert [fault.kind for fault in find_in_traffic(Traffic(n, other, promised=lambda: (1.0, [1.0] * 9)))] == [
        "traffic_surged"
    ]


HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def test_five_windows_of_the_same_time_of_the_week_take_the_place_of_all_others() -> None:
    days = [Window(day * DAY_MS, (day + 1) * DAY_MS) for day in range(60)]
    assert choose_past(days[34], days[:34]) == days[:34]
    assert choose_past(days[35], days[:35]) == days[0:35:7]
    assert of_same_season(days[34], days[:34]) == days[6:34:7]
    assert of_same_season(days[5], days[:5]) == days[:5]
    assert of_same_season(Window(0, DAY_MS), []) == []


@pytest.mark.parametrize("hours", [1, 6, 24])
def test_a_week_with_nights_and_weekends_is_no_fault_from_its_first_day_on(hours: int) -> None:
    """Three weeks and some days of training promise each window's number. None at all is found, but among hours."""
    length_ms = hours * HOUR_MS

    def at(time_h: int) -> int:
        day, hour = divmod(time_h, 24)
        return round(1_000 * (0.02 if hour < 6 else 1.0 + 0.5 * (hour > 12)) * (0.3 if day % 7 in {2, 3} else 1.0))

    training = Window(3 * DAY_MS, 27 * DAY_MS)
    counted = np.zeros(168, np.int64)
    for time_h in range(3 * 24, 27 * 24):
        counted[hours_of(np.array([time_h * HOUR_MS]))[0]] += at(time_h)
    by_hour = events_by_hour(counted, training)
    windows = [Window(start, start + length_ms) for start in range(27 * DAY_MS, 38 * DAY_MS, length_ms)]
    numbers = [sum(map(at, range(each.start_ms // HOUR_MS, each.end_ms // HOUR_MS))) for each in windows]
    for place, window in enumerate(windows):
        assert events_due(by_hour, window) == pytest.approx(numbers[place])
        past = windows[max(place - 60, 0) : place]
        season = of_same_season(window, past)
        compared = numbers[max(place - 60, 0) : place]
        of_season = [numbers[windows.index(each)] for each in season]
        due = float(numbers[place]), [events_due(by_hour, each) for each in past]
        usual = Traffic(numbers[place], compared, of_season, promised=lambda due=due: due)
        assert find_in_traffic(usual) == []
        if hours > 1 and len(past) >= 5:
            assert find_in_traffic(replace(usual, n=0)), place


@pytest.mark.parametrize(("n", "is_fault"), [(430_000, False), (450_000, True), (23_400, False), (22_000, True)])
def test_traffic_that_varies_must_be_five_spreads_away(n: int, is_fault: bool) -> None:
    """Logarithms 0.2 to either side: a deviation of 0.2 * 1.4826 = 0.2965, and e to five times that is 4.40."""
    past = [round(100_000 * math.exp(0.2 * side)) for side in (-1, 1, -1, 1, -1, 1)] + [100_000]
    assert bool(find_in_traffic(Traffic(n, past))) == is_fault


@pytest.mark.parametrize(("n", "is_fault"), [(2, False), (24, False), (60, False), (63, True)])
def test_of_few_events_chance_is_part_of_the_spread(n: int, is_fault: bool) -> None:
    """Of the logarithm of 10 events the variance by chance is 1/10 + 1/n, beside 0.01: five deviations are a lot."""
    deviation = math.sqrt(0.01 + 1 / 10 + 1 / (n + 0.5))
    assert is_fault == (abs(math.log((n + 0.5) / 10.5)) >= 5 * deviation)
    assert bool(find_in_traffic(Traffic(n, [10] * 6))) == is_fault


@pytest.mark.parametrize(("n", "is_fault"), [(230, False), (260, True)])
def test_one_event_that_is_usual_comes_by_chance_of_a_deviation_of_one(n: int, is_fault: bool) -> None:
    assert is_fault == (math.log((n + 0.5) / 1.5) >= 5 * math.sqrt(0.01 + 1 + 1 / (n + 0.5)))
    assert bool(find_in_traffic(Traffic(n, [1] * 6))) == is_fault


def test_where_nothing_was_usual_nothing_is_too_much_and_none_of_what_was_is_missing() -> None:
    assert find_in_traffic(Traffic(500, [0] * 6)) == []
    (fault,) = find_in_traffic(Traffic(0, [40] * 6))
    assert (fault.kind, fault.strength) == ("traffic_missing", 1.0)
    (surge,) = find_in_traffic(Traffic(5_000, PAST))
    assert surge.strength == pytest.approx(0.8)


def test_a_segment_that_vanished_or_doubled_while_others_did_not_is_named() -> None:
    past = {"origin=EWR": [500] * 6, "origin=JFK": [300] * 6, "origin=LGA": [200] * 6}

    faults = find_in_traffic(Traffic(1000, [1000] * 6, (), past, {"origin=EWR": 400, "origin=JFK": 600}))

    assert [(fault.kind, fault.metrics) for fault in faults] == [
        ("traffic_doubled", ("origin=JFK",)),
        ("traffic_missing", ("origin=LGA",)),
    ]


@pytest.mark.parametrize(("usual", "is_fault"), [(13, False), (14, True)])
def test_none_where_a_dozen_are_usual_may_be_chance(usual: int, is_fault: bool) -> None:
    """e ** -13 is 2 in a million."""
    assert bool(find_in_traffic(Traffic(1_000, [1_000] * 6, (), {"k=a": [usual] * 6}))) is is_fault


@pytest.mark.parametrize(
    ("n", "in_all", "sentence", "strength"),
    [
        (0, 1_000, "No flights of k=a where 500 are usual: some do not arrive.", 1.0),
        (100, 1_000, "Only 100 flights of k=a where 500 are usual: some do not arrive.", 0.8),
        (1_000, 1_000, "1000 flights of k=a where 500 are usual, twice as many: each may come twice.", 0.5),
        (2_500, 1_000, "2500 flights of k=a where 500 are usual, 5 times as many.", 0.8),
        # All are 1.6 times the usual, and 0.8 times.
        (160, 1_600, "Only 160 flights of k=a where 500 are usual: some do not arrive.", 0.8),
        (2_000, 800, "2000 flights of k=a where 500 are usual, 5 times as many.", 0.8),
    ],
)
def test_what_is_said_of_a_segment_is_beside_all_events(n: int, in_all: int, sentence: str, strength: float) -> None:
    traffic = Traffic(in_all, [1_000] * 6, (), {"k=a": [500] * 6, "k=b": [500] * 4}, {"k=a": n, "k=b": 0})
    (fault,) = find_in_traffic(traffic, "flights")

    assert (fault.sentence, fault.metrics) == (sentence, ("k=a",))
    assert fault.strength == pytest.approx(strength)
    whole = find_in_traffic(replace(traffic, n=0), "flights")
    assert [each.sentence for each in whole] == ["No flights where 1000 are usual: some do not arrive."]


def test_a_segment_is_judged_beside_all_events() -> None:
    """All are 1.6 times the usual, one segment three quarters of it: it has less than half of its part."""
    past = {"origin=EWR": [800] * 6, "origin=LGA": [200] * 6}

    (fault,) = find_in_traffic(Traffic(1600, [1000] * 6, (), past, {"origin=EWR": 1450, "origin=LGA": 150}))
    assert (fault.kind, fault.metrics) == ("traffic_missing", ("origin=LGA",))
    # Where all are fewer, so may be the segment.
    assert find_in_traffic(Traffic(600, [1000] * 6, (), past, {"origin=EWR": 490, "origin=LGA": 110})) == []


def test_the_strongest_fault_comes_first_and_a_metric_that_one_explains_has_no_other(reference: Reference) -> None:
    matrix = draw(1)
    matrix[: N // 5, 0], matrix[:, 4] = np.nan, 8.0
    matrix[:, 1] *= 1000
    window = count(reference, matrix, np.full(N, 0.5))
    traffic = Traffic(500, [1_000] * 6)
    finder = FaultFinder(reference.metrics, reference.training, events="flights")
    faults = finder.find(window, set(NAMES), traffic=traffic)

    assert [(fault.kind, fault.metrics) for fault in faults] == [
        ("unit_changed", ("dist",)),
        ("constant", ("count",)),
        ("traffic_missing", ()),
        ("missing_values", ("temp",)),
    ]
    assert [fault.strength for fault in faults] == sorted((fault.strength for fault in faults), reverse=True)
    assert "flights" in faults[1].sentence
    assert faults[2].sentence == "Only 500 flights where 1000 are usual: some do not arrive."
    # What has not signalled is looked at for one value alone.
    some = FaultFinder(reference.metrics, reference.training).find(window, {"temp"})
    assert [(fault.kind, fault.metrics) for fault in some] == [
        ("constant", ("count",)),
        ("missing_values", ("temp",)),
    ]


# -- what is no fault ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(0, 10_000), st.floats(-1, 1), st.floats(0.7, 1.4), st.sampled_from([300, 1_000, 5_000]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_drift_of_all_features_at_once_is_no_fault(
    reference: Reference, seed: int, shift: float, scale: float, n: int
) -> None:
    assert find(reference, draw(seed, n, shift, scale)) == ()


@pytest.mark.slow
def test_of_a_hundred_drifts_in_random_directions_at_most_one_is_taken_for_a_fault(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    for seed in range(100):
        drifts = [draw(seed * 6 + at, 1_000, rng.uniform(-1, 1), rng.uniform(0.7, 1.4)) for at in range(6)]
        matrix = np.column_stack([drift[:, at] for at, drift in enumerate(drifts)])
        kinds.update(fault.kind for fault in find(reference, matrix))

    assert kinds.total() <= 1, kinds


@pytest.mark.parametrize("months", [(0.0, 0.25), (0.5, 0.75), (0.4, 0.9)])
def test_a_season_of_a_yearly_cycle_is_no_fault(months: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)

    def weather(at: Floats) -> Floats:
        warm = -np.cos(2 * np.pi * at)
        return np.column_stack(
            [
                12 + 12 * warm + rng.normal(0, 4, len(at)),
                6 + 11 * warm + rng.normal(0, 4, len(at)),
                1015 - 5 * warm + rng.normal(0, 6, len(at)),
                np.where(rng.random(len(at)) < 0.1, rng.exponential(2 + warm), 0.0),
            ]
        )

    reference = fit(weather(rng.random(20_000)), ["temp", "dewp", "pressure", "rain"])

    assert find(reference, weather(rng.uniform(*months, N))) == ()


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix",
    [
        np.empty((0, 6)),
        np.full((1, 6), np.nan),
        np.zeros((1, 6)),
        np.full((3, 6), np.inf),
        np.full((3, 6), -np.inf),
        draw(1, 1),
        draw(1, 19) * 1e300,
    ],
)
def test_hardly_any_events_say_nothing_of_values(reference: Reference, matrix: Floats) -> None:
    assert find(reference, matrix) == ()


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1e308, -1e308, 5e-324])
@pytest.mark.parametrize("training_value", [np.nan, np.inf, 0.0, 1e300])
def test_whatever_the_values_each_fault_is_a_sentence_with_a_strength(training_value: float, value: float) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(500, 3))
    matrix[:, 0] = training_value
    reference = fit(matrix, ["a", "b", "c"])
    window = rng.normal(size=(500, 3))
    window[:, 0], window[:250, 1] = value, value

    for fault in find(reference, window):
        assert fault.sentence.endswith(".")
        assert 0 < fault.strength <= 1
        assert set(fault.metrics) <= {"a", "b"}


def test_a_reference_of_twenty_rows_is_no_ground_for_displaced_columns_or_units(reference: Reference) -> None:
    small = fit(draw(0, 20), NAMES)

    assert {fault.kind for fault in find(small, draw(1))} <= {"out_of_range"}


# -- the distance ----------------------------------------------------------------------------------------------------


def law(values: Floats, edges: Sequence[float]) -> Law:
    cells = MetricCells("x", "numeric", np.array(edges, np.float64))
    counts = np.append(np.bincount(np.searchsorted(cells.edges, values, "right"), minlength=len(edges) + 1), 0)
    return Law.of(cells, counts, int(np.rint(values * cells.scale).sum()), float(values.min()), float(values.max()))


@pytest.mark.slow
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.sets(st.integers(-90, 90), min_size=2, max_size=20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_difference_of_shares_is_never_beyond_that_of_the_values(values: list[float], edges: set[int]) -> None:
    """Counted in any cells, the same values are not told apart."""
    one = law(np.array(values), sorted(edges))
    other = law(np.array(values), [-50.0, 0.0, 50.0])
    low, high = other.bounds(one.points)

    assert (one.below >= low - 1e-12).all()
    assert (one.below <= high + 1e-12).all()


def test_the_distance_of_laws_in_unlike_cells_is_near_the_kolmogorov_distance_of_the_values() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, 20_000), rng.normal(1, 1, 20_000)
    exact = 2 * 0.6914624612740131 - 1  # 2 Phi(1/2) - 1

    apart = distance(law(one, np.linspace(-3, 3, 100).tolist()), law(other, np.linspace(-2, 4, 117).tolist()))

    assert apart == pytest.approx(exact, abs=0.03)


@given(st.floats(-1, 1), st.floats(0.5, 2), st.floats(0, 0.3), st.floats(0, 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_distance_within_a_limit_is_the_distance_or_none(
    shift: float, factor: float, missing: float, most: float
) -> None:
    values, edges = np.random.default_rng(0).normal(0, 1, 500), np.linspace(-2, 2, 20).tolist()
    training, window = law(values, edges), replace(law(values * factor + shift, edges), missing=missing)
    apart = distance(window, training)

    assert distance_within(window, training, most) == (apart if apart <= most else None)
    assert distance_within(window, training, apart) == apart


@given(st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_scaled_law_is_the_law_of_the_scaled_values(factor: float, offset: float) -> None:
    values = np.random.default_rng(0).normal(3, 1, 2_000)
    edges = np.linspace(0, 6, 50)
    direct = law(values * factor + offset, (edges * factor + offset).tolist())

    assert distance(direct, law(values, edges.tolist()).scaled(factor, offset)) < 0.01


def test_the_points_of_a_law_are_numbers_however_large_its_values_are() -> None:
    largest = float(np.finfo(np.float64).max)
    cells = MetricCells("x", "numeric", np.array([0.0, 1.0]))
    for least, most in ((-1.0, largest), (-largest, 2.0), (-np.inf, np.inf)):
        law = Law.of(cells, np.array([1, 1, 1, 0]), 0, least, most)
        assert np.isfinite(law.points).all()
        assert (np.diff(law.points) > 0).all()


def test_stretches_where_fewer_than_three_values_are_expected_are_no_surprise_when_empty() -> None:
    """Twenty values as evenly as can be leave half of forty cells empty; of none of these that is a surprise."""
    edges = np.linspace(0.025, 0.975, 39).tolist()
    training = law(np.random.default_rng(5).random(20_000), edges)
    even = (np.arange(20) + 0.4) / 20

    assert distance(law(even, edges), training) < 0.1
    assert distance(law(even / 2, edges), training) > 0.4


@pytest.mark.parametrize(("share", "expected"), [(0.1, 0.4), (0.09, 0.5), (0.5, 0.0), (0.75, 0.25)])
def test_a_stretch_is_strange_where_the_other_has_less_than_a_fifth_of_it(share: float, expected: float) -> None:
    """Half of one law is below 1, and so much of the other: the difference, or all of the half."""
    one, other = (
        Law(1_000, np.array([0.0, 1.0, 2.0]), np.array([0.0, at, 1.0]), math.nan, 1.0, 0.0) for at in (0.5, share)
    )
    assert gap(one, other) == gap(other, one) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "expected"), [(6, 0.5), (5, 0.45)])
def test_a_stretch_is_no_surprise_where_fewer_than_three_are_expected_of_the_other(n: int, expected: float) -> None:
    """Half of one law is below 1, and a twentieth of the other: of six events three were to be there."""
    one, other = share_below_one(0.5, 1_000), share_below_one(0.05, n)
    assert gap(one, other) == gap(other, one) == pytest.approx(expected)


def test_moments_are_of_the_values_that_are_between_points() -> None:
    """A fifth is below all points; 0.3 are in [0, 1) and 0.5 in [1, 2)."""
    law = Law(1_000, np.array([0.0, 1.0, 2.0]), np.array([0.2, 0.5, 1.0]), math.nan, 100.0, 0.0)
    mean = (0.3 * 0.5 + 0.5 * 1.5) / 0.8
    variance = (0.3 * (0.5 - mean) ** 2 + 0.5 * (1.5 - mean) ** 2) / 0.8
    assert law.moments(math.inf) == pytest.approx((mean, math.sqrt(variance)))


def test_laws_differ_by_what_is_missing_and_by_their_means_as_well() -> None:
    """A mean that is off by half a deviation weighs as 0.4 of it; what is missing as it is."""
    points, below = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])
    training = Law(1_000, points, below, 1.0, 100.0, 0.1)
    assert training.moments(100.0) == (1.0, 0.5)
    for missing, mean, expected in (
        (0.1, 1.0, 0.0),
        (0.4, 1.0, 0.3),
        (0.1, 1.25, 0.2),
        (0.1, 0.5, 0.4),
        (0.1, 9.0, 1.0),
    ):
        window = Law(1_000, points, below, mean, 100.0, missing)
        assert distance(window, training) == pytest.approx(expected)
    assert training.scaled(2.0, 3.0).points.tolist() == [3.0, 5.0, 7.0]
    assert training.scaled(-1.0, 0.0).below.tolist() == [0.0, 0.5, 1.0]
    assert (training.scaled(2.0, 3.0).mean, training.reach) == (5.0, 2.0)
    assert training.scaled(-3.0, 1.0).reach == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("least", "most", "points", "below"),
    [
        # 2 below 0, 3 in [0, 1), 5 in [1, 2), none above; half of all have no value.
        (-1.0, 1.5, [-1.0, 0.0, 1.0, math.nextafter(1.5, 2.0)], [0.0, 0.2, 0.5, 1.0]),
        (-1.0, 1.0, [-1.0, 0.0, 1.0, math.nextafter(1.0, 2.0)], [0.0, 0.2, 0.5, 1.0]),
        (0.0, 1.5, [0.0, 1.0, math.nextafter(1.5, 2.0)], [0.0, 0.5, 1.0]),
        (-math.inf, 1.5, [0.0, 1.0, math.nextafter(1.5, 2.0)], [0.2, 0.5, 1.0]),
        (-1.0, math.inf, [-1.0, 0.0, 1.0, 2.0], [0.0, 0.2, 0.5, 1.0]),
    ],
)
def test_a_law_is_known_at_its_extremes_and_at_the_edges_between(
    least: float, most: float, points: list[float], below: list[float]
) -> None:
    cells = MetricCells("x", "numeric", np.array([0.0, 1.0, 2.0]), scale=4.0)
    law = Law.of(cells, np.array([2, 3, 5, 0, 10]), 48, least, most)

    assert (law.points.tolist(), law.below.tolist()) == (points, below)
    assert (law.n, law.missing, law.mean, law.cap) == (10, 0.5, 1.2, LARGEST_UNITS / 4)
    nothing = Law.of(cells, np.zeros(5, np.int64), 0, math.nan, math.nan)
    assert (nothing.n, nothing.missing, nothing.reach, len(nothing.points)) == (0, 0.0, 0.0, 0)
    assert math.isnan(nothing.mean)
    assert all(map(math.isnan, nothing.moments(math.inf)))
    assert gap(nothing, law) == gap(law, nothing) == 0.0


def test_means_are_compared_under_the_same_cap_and_less_what_the_middles_of_cells_are_off() -> None:
    """Half in [0, 1), half in [1, 2): the middles have mean 1 and deviation 0.5; 0.2 is 0.4 deviations, or 0.16."""
    points, below = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])
    window = Law(1_000, points, below, 1.4, 100.0, 0.0)
    for mean, cap, expected in (
        (1.0, 100.0, 0.4 * 0.8),
        (1.2, 100.0, 0.4 * (0.8 - 0.4)),  # the middles are 0.4 deviations off
        (0.8, 50.0, 0.4 * (0.8 - 0.4)),
        (1.2, 100.1, 0.4 * 0.8),  # under another cap the mean of training says nothing
        (1.2, math.inf, 0.4 * 0.8),
        (math.nan, 100.0, 0.4 * 0.8),
        (2.2, 100.0, 0.0),
    ):
        assert distance(window, Law(1_000, points, below, mean, cap, 0.0)) == pytest.approx(expected)
    # Values are saturated as the window's are: at 0.6, the middles are 0.5 and 0.6.
    training = Law(1_000, points, below, math.nan, 100.0, 0.0)
    assert training.moments(0.6) == pytest.approx((0.55, 0.05))
    assert Law(1_000, -points[::-1], below, math.nan, 100.0, 0.0).moments(0.6) == pytest.approx((-0.55, 0.05))
    assert distance(replace(window, mean=0.57, cap=0.6), training) == pytest.approx(0.4 * 0.4)
    # Where there is one stretch alone nothing deviates, and without a mean there is nothing to compare.
    one = Law(1_000, points[:2], np.array([0.0, 1.0]), 0.5, 100.0, 0.0)
    assert distance(replace(one, mean=9.0), one) == distance(replace(one, mean=math.nan), one) == 0.0
    assert distance(replace(window, mean=math.nan), training) == 0.0


def test_a_turned_law_is_known_just_above_the_turned_points() -> None:
    turned = Law(7, np.array([0.0, 1.0, 3.0]), np.array([0.0, 0.25, 1.0]), 2.0, 100.0, 0.5).scaled(-2.0, 1.0)

    assert turned.points.tolist() == [math.nextafter(at, math.inf) for at in (-5.0, -1.0, 1.0)]
    assert turned.below.tolist() == [0.0, 0.75, 1.0]
    assert (turned.n, turned.mean, turned.cap, turned.missing) == (7, -3.0, math.inf, 0.5)
