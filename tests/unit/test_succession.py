"""A new version is held against the one before it, and chance or a season is not held against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from app.core.counts.calendar import Window
from app.core.performance.measures import auc
from app.core.verdict.situation import Predecessor
from app.core.verdict.succession import NEW, Record, Succession, compare
from models.reference.reference import Counts

FEWEST = 200
WINDOWS = [Window(start, start + 10) for start in range(0, 200, 10)]
CELLS = 40

#: Of one window: version, its labels, and how far the scores of positives are above those of negatives (deviations).
Part = tuple[str, int, float]


def count(rng: np.random.Generator, n: int, apart: float) -> Counts:
    labels = rng.random(n) < 0.3
    cells = np.clip((rng.normal(size=n) + apart * labels) * 5 + CELLS / 2, 0, CELLS - 1).astype(int)
    counts = Counts.zeros(1, 2, CELLS)
    counts.n = n
    np.add.at(counts.outcomes, (labels.astype(int), cells), 1)
    return counts


def succession_of(windows: list[list[Part]], seed: int = 1) -> Succession:
    rng = np.random.default_rng(seed)
    succession = Succession(FEWEST)
    for window, parts in zip(WINDOWS, windows, strict=False):
        for version, n, apart in parts:
            succession.remember(window, version, count(rng, n, apart), 1.0)
    return succession


def ask(succession: Succession, version: str, at: int) -> Predecessor | None:
    return succession.predecessor(version, WINDOWS[at], WINDOWS[:at])


def ask_of(windows: list[list[Part]], version: str, seed: int = 1) -> Predecessor | None:
    """Ask about the last window."""
    return ask(succession_of(windows, seed), version, len(windows) - 1)


OLD: list[list[Part]] = [[("1", 1_000, 1.5)]] * 8


# -- who was before ----------------------------------------------------------------------------------------------------


def test_a_version_that_takes_over_within_a_window_is_held_against_the_other_part_of_it() -> None:
    succession = succession_of([*OLD, [("1", 600, 1.5), ("2", 400, 0.3)], [("2", 1_000, 0.3)], [("2", 1_000, 0.3)]])

    within, after, later = (ask(succession, "2", at) for at in (8, 9, 10))
    assert within is not None
    assert (within.version, within.windows_ago) == ("1", 0)
    assert after is not None
    assert (after.version, after.windows_ago, after.value) == ("1", 1, within.value)
    assert later is not None
    assert (later.version, later.windows_ago, later.value) == ("1", 2, within.value)
    assert within.p_value < 0.005
    assert after.p_value < 0.005
    assert ask(succession, "1", 8) is None, "it is not new"


def test_a_version_that_takes_over_between_windows_is_held_against_the_window_before() -> None:
    predecessor = ask_of([*OLD, [("2", 1_000, 0.3)]], "2")

    assert predecessor is not None
    assert (predecessor.version, predecessor.windows_ago) == ("1", 1)


def test_a_version_that_scored_little_of_the_window_speaks_through_the_last_one_that_was_its_own() -> None:
    predecessor = ask_of([*OLD, [("1", 300, 1.5), ("2", 700, 0.3)], [("2", 1_000, 0.3)]], "2")

    assert predecessor is not None
    assert predecessor.windows_ago == 2


def test_after_a_roll_back_the_version_before_is_the_one_that_was_rolled_back() -> None:
    windows: list[list[Part]] = [*OLD, [("2", 1_000, 0.3)], [("2", 1_000, 0.3)], [("1", 1_000, 1.5)]]

    predecessor = ask_of(windows, "1")

    assert predecessor is not None
    assert (predecessor.version, predecessor.windows_ago) == ("2", 1)
    again = ask_of([*windows, [("2", 1_000, 0.3)]], "2")
    assert again is not None
    assert again.version == "1"


def test_a_version_is_new_for_some_windows_only_and_late_events_do_not_age_it() -> None:
    late: list[list[Part]] = [*OLD[:-1], [("1", 1_000, 1.5), ("2", 3, 0.3)]]
    succession = succession_of([*late, *([[("2", 1_000, 0.3)]] * (NEW + 1))])

    assert [ask(succession, "2", at) is not None for at in range(8, 8 + NEW + 1)] == [True] * NEW + [False]


@pytest.mark.parametrize("new", [("2", 150, 0.3), ("2", 1_000, 0.3)])
def test_nobody_knows_who_was_before_the_first_window(new: Part) -> None:
    assert ask_of([[new]], "2") is None
    assert ask_of([[("1", 1_000, 1.5), new]], "2") is None


@pytest.mark.parametrize(
    "windows",
    [
        [*OLD, [("1", 850, 1.5), ("2", 150, 0.0)]],
        [*([[("1", 150, 1.5)]] * 8), [("2", 1_000, 0.0)]],
    ],
)
def test_too_few_labels_of_either_version_say_nothing(windows: list[list[Part]]) -> None:
    assert ask_of(windows, "2") is None


def test_too_few_labels_of_one_kind_say_nothing() -> None:
    succession = succession_of([*OLD, [("2", 1_000, 0.3)]])
    counts = Counts.zeros(1, 2, CELLS)
    counts.n = 1_000
    counts.outcomes[0, 5], counts.outcomes[1, 0] = 991, 9  # all pairs in the wrong order

    succession.remember(WINDOWS[8], "2", counts, 1.0)
    assert ask(succession, "2", 8) is None
    counts.outcomes[1, 0] = 10
    succession.remember(WINDOWS[8], "2", counts, 1.0)
    assert ask(succession, "2", 8) is not None


def test_without_two_windows_of_one_version_nobody_knows_how_much_windows_differ() -> None:
    predecessor = ask_of([[("1", 1_000, 1.5)], [("2", 1_000, 0.0)]], "2")

    assert predecessor is not None
    assert math.isnan(predecessor.p_value)


# -- whether it did better ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sway", ["none", "chance", "season", "trend"])
def test_versions_that_are_as_good_are_never_told_apart_by_chance_or_season(sway: str) -> None:
    predecessors = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        times, phase = np.arange(14), rng.random() * 2 * np.pi
        shift = {
            "none": np.zeros(14),
            "chance": 0.3 * rng.normal(size=14),
            "season": 0.5 * np.sin(2 * np.pi * times / 12 + phase),
            "trend": -0.08 * times,
        }[sway]
        windows: list[list[Part]] = [[("1" if at < 12 else "2", 1_000, 1.5 + by)] for at, by in enumerate(shift)]
        windows[12].append(("1", 700, 1.5 + shift[12]))
        succession = succession_of(windows, seed)
        predecessors += [ask(succession, "2", at) for at in (12, 13)]
    p_values = np.array([each.p_value for each in predecessors if each is not None])
    assert len(p_values) == 200
    assert (p_values < 0.005).sum() == 0
    assert (p_values < 0.05).mean() <= 0.05


def test_a_version_that_is_worse_is_found_by_its_first_whole_window() -> None:
    predecessors = [ask_of([*OLD, [("2", 1_000, 0.3)]], "2", seed) for seed in range(100)]

    assert sum(each is not None and each.p_value < 0.005 for each in predecessors) >= 95


def test_a_fall_that_comes_later_is_the_worlds_and_not_the_versions() -> None:
    for seed in range(50):
        predecessor = ask_of([*OLD, [("2", 1_000, 1.5)], [("2", 1_000, 0.3)]], "2", seed)
        assert predecessor is not None
        assert predecessor.p_value > 0.005


def test_steps_count_for_each_window_between_and_design_effects_for_chance() -> None:
    one, other = Record(4_000, 2_000, 2_000, 0.7, 1.0), Record(4_000, 2_000, 2_000, 0.8, 1.0)
    steps = [0.02, -0.02] * 10

    assert compare(one, other, steps, 1) == compare(other, one, steps, 1)
    assert compare(one, other, steps, 2) == pytest.approx(compare(one, other, [0.04, -0.04] * 10, 1))
    assert compare(one._replace(design_effect=30.0), other, steps, 1) > 10 * compare(one, other, steps, 1)
    perfect = one._replace(area=1.0)
    assert compare(perfect, perfect, [0.0], 1) == 1.0


def variance_of_auc(area: float, n_positive: int, n_negative: int) -> float:
    """By Hanley and McNeil (1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    above = (n_positive - 1) * (q1 - area**2) + (n_negative - 1) * (q2 - area**2)
    return (area * (1 - area) + above) / (n_positive * n_negative)


@settings(max_examples=30)
@given(
    st.tuples(st.floats(0.55, 0.95), st.integers(20, 3_000), st.integers(20, 3_000), st.floats(1, 9)),
    st.tuples(st.floats(0.55, 0.95), st.integers(20, 3_000), st.integers(20, 3_000), st.floats(1, 9)),
    st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=9),
    st.integers(1, 4),
)
def test_the_p_value_is_students_of_the_difference(
    one: tuple[float, int, int, float], other: tuple[float, int, int, float], steps: list[float], apart: int
) -> None:
    labels = [of[1] + of[2] for of in (one, other)]
    common = (one[0] * labels[0] + other[0] * labels[1]) / (labels[0] + labels[1])
    variance = sum(of[3] * variance_of_auc(common, of[1], of[2]) for of in (one, other))
    variance += sum((apart * step) ** 2 for step in steps) / len(steps)
    # Steps of independent windows: each has the variance 2, and -1 in common with the next.
    n = len(steps)
    covariance = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    degrees = float(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))
    expected = 2 * stats.t.sf(abs(one[0] - other[0]) / math.sqrt(variance), degrees)

    records = [Record(0, *of[1:3], of[0], of[3]) for of in (one, other)]
    assert compare(*records, steps, apart) == pytest.approx(expected, rel=1e-9)


# -- what is kept ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["1", "2", "12"]), min_size=2, max_size=14),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)
def test_what_is_said_follows_from_the_windows_and_not_from_their_order_or_a_restart(
    servers: list[str], seed: int, chance: object
) -> None:
    rng = np.random.default_rng(seed)
    records = [
        (window, version, count(rng, int(rng.integers(100, 600)), 1.0))
        for window, server, following in zip(WINDOWS, servers, [*servers[1:], "3"], strict=False)
        for version in {server, following}
    ]
    straight, mixed = Succession(FEWEST), Succession(FEWEST)
    for window, version, counts in records:
        straight.remember(window, version, counts, 1.0)
    chance.shuffle(records)  # type: ignore[attr-defined]  # Hypothesis's Random
    for window, version, _ in records[: len(records) // 2]:
        mixed.remember(window, version, count(rng, 50, 0.0), 1.0)
    for window, version, counts in records:
        mixed.remember(window, version, counts, 1.0)
    restored = Succession(FEWEST)
    restored.from_state(mixed.to_state())
    assert straight.to_state() == mixed.to_state() == restored.to_state()
    for window, version, _ in records:
        at = WINDOWS.index(window)
        assert repr(ask(straight, version, at)) == repr(ask(restored, version, at))


def test_old_windows_are_forgotten() -> None:
    succession = succession_of([*OLD, [("2", 1_000, 0.3)]])
    succession.prune(3)

    assert [start_ms for start_ms, *_ in succession.to_state()] == [60, 70, 80]


def test_a_record_is_the_auc_of_the_labels_in_the_window() -> None:
    counts = count(np.random.default_rng(5), 500, 1.0)
    succession = succession_of(OLD)
    succession.remember(WINDOWS[7], "1", counts, 1.0)
    succession.remember(WINDOWS[8], "2", count(np.random.default_rng(6), 500, 1.0), 1.0)

    predecessor = ask(succession, "2", 8)
    assert predecessor is not None
    assert predecessor.value == auc(counts.outcomes)
