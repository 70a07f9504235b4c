"""What explains a change of the mean score: where the truth is known, its shares come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.core.batches import Floats
from app.core.verdict.attribution import JOINT, Share, attribute
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.training_events import TrainingEvents, numeric

N = 50_000


def explain(before: Floats, now: Floats, scores: Floats, scores_now: Floats) -> dict[str, Share]:
    """Through counts and profiles, as the monitor does."""
    names = [f"x{at}" for at in range(before.shape[1])]
    reference = fit_reference(
        TrainingEvents(before, scores, np.zeros(len(scores))), [numeric(name) for name in names], 128
    )
    profiles = np.full((len(names), reference.width), np.nan)
    for row, cells in enumerate(reference.metrics[: len(names)]):
        cell = np.where(np.isnan(before[:, row]), cells.size, np.searchsorted(cells.edges, before[:, row], "right"))
        sums = np.bincount(cell, weights=scores, minlength=reference.width)
        sizes = np.bincount(cell, minlength=reference.width)
        profiles[row, sizes > 0] = sums[sizes > 0] / sizes[sizes > 0]
    window = count(reference, now, scores_now)
    rows = slice(len(names))
    shares = attribute(
        names, reference.counts[rows], window.counts[rows], profiles, float(scores.mean()), float(scores_now.mean())
    )
    return {share.metric: share for share in shares}


def additive(matrix: Floats) -> Floats:
    """0.05 for a deviation of the first feature, 0.02 for one of the second, nothing for the third."""
    return 0.5 + 0.05 * matrix[:, 0] + 0.02 * matrix[:, 1]


def test_of_an_additive_score_the_shares_are_the_known_ones() -> None:
    """Moved by 1 and -0.5 deviations: 0.05 and -0.01, so 5/6 and 1/6 of the explanation, and nothing joint."""
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(N, 3)), rng.normal([1.0, -0.5, 1.0], 1.0, size=(N, 3))

    shares = explain(before, now, additive(before), additive(now))

    assert shares["x0"].shift == pytest.approx(0.05, abs=0.002)
    assert shares["x1"].shift == pytest.approx(-0.01, abs=0.001)
    assert shares["x0"].share == pytest.approx(5 / 6, abs=0.03)
    assert shares["x1"].share == pytest.approx(1 / 6, abs=0.03)
    assert shares["x2"].share < 0.02
    assert shares[JOINT].share < 0.03


@pytest.mark.parametrize(
    ("change", "joint"),
    [
        (0.3, 0.14),  # 0.2 and -0.04 are explained: what is left goes the same way
        (0.1, 0.0),  # and here the other way
        (-0.1, -0.26),
        (0.16, 0.0),
    ],
)
def test_what_single_features_leave_is_theirs_together_where_it_goes_the_way_of_the_change(
    change: float, joint: float
) -> None:
    """Half of all move from 0.2 to 0.6 by the first feature, and a tenth from 0.5 to 0.1 by the second."""
    training, window = np.array([[8, 2, 0], [5, 5, 0]]), np.array([[3, 7, 0], [12, 8, 0]])
    profiles = np.array([[0.2, 0.6, np.nan], [0.1, 0.5, np.nan]])
    shares = attribute(["a", "b"], training, window, profiles, 0.28, 0.28 + change)
    total = 0.24 + abs(joint)
    expected = {"a": (0.2, 0.2 / total), "b": (-0.04, 0.04 / total), JOINT: (joint, abs(joint) / total)}
    for name, shift, share in shares:
        assert (shift, share) == pytest.approx(expected[name], abs=1e-12)
    assert [share.share for share in shares] == sorted((share.share for share in shares), reverse=True)


def test_without_values_or_without_a_mean_score_nothing_is_explained() -> None:
    training, window = np.array([[8, 2, 0], [0, 0, 0]]), np.array([[0, 0, 0], [12, 8, 0]])
    profiles = np.array([[0.2, 0.6, 0.4], [0.1, 0.5, 0.4]])
    shares = attribute(["a", "b"], training, window, profiles, 0.25, 0.5)
    assert shares == (Share(JOINT, 0.25, 1.0), Share("a", 0.0, 0.0), Share("b", 0.0, 0.0))
    assert attribute(["a"], training[:1], training[:1] * 2, profiles[:1], 0.28, 0.28) == (
        Share("a", 0.0, 0.0),
        Share(JOINT, 0.0, 0.0),
    )
    assert attribute(["a"], training[:1], training[:1], profiles[:1], 0.28, np.nan) == ()
    # A cell that training had nothing in counts as the mean of all.
    new = attribute(["a"], training[:1], np.array([[5, 0, 5]]), profiles[:1] * [1, 1, np.nan], 0.28, 0.5)
    assert {each.metric: each.shift for each in new}["a"] == pytest.approx(
        (0.5 - 0.8) * (0.2 - 0.28) - 0.2 * (0.6 - 0.28)
    )


def test_a_missing_value_explains_what_a_default_score_does() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(N, 2)), rng.normal(size=(N, 2))
    before[rng.random(N) < 0.1, 0] = np.nan
    now[rng.random(N) < 0.5, 0] = np.nan

    def score(matrix: Floats) -> Floats:
        return np.where(np.isnan(matrix[:, 0]), 0.9, 0.2)

    shares = explain(before, now, score(before), score(now))

    assert shares["x0"].shift == pytest.approx(0.4 * 0.7, abs=0.01)
    assert shares["x0"].share > 0.98


def test_what_features_only_do_together_is_joint() -> None:
    """The score is the product of two signs: neither feature moves, but now they agree more often."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(N, 2))
    now = rng.normal(size=(N, 2))
    agree = rng.random(N) < 0.6
    now[agree, 1] = np.abs(now[agree, 1]) * np.sign(now[agree, 0])

    def score(matrix: Floats) -> Floats:
        return 0.5 + 0.4 * np.sign(matrix[:, 0] * matrix[:, 1])

    shares = explain(before, now, score(before), score(now))

    assert shares[JOINT].shift == pytest.approx(0.24, abs=0.02)
    assert shares[JOINT].share > 0.9


def test_two_features_that_move_together_share_alike_and_nothing_is_joint() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(N, 1)), rng.normal(1.0, 1.0, size=(N, 1))

    shares = explain(np.hstack([before] * 2), np.hstack([now] * 2), 0.05 * before[:, 0], 0.05 * now[:, 0])

    assert shares["x0"].share == pytest.approx(0.5)
    assert shares[JOINT].share == 0


CELLS = arrays(np.int64, (3, 5), elements=st.integers(0, 50))


@pytest.mark.slow
@given(
    CELLS,
    CELLS,
    arrays(np.float64, (3, 5), elements=st.one_of(st.just(np.nan), st.floats(0, 1))),
    st.floats(0, 1),
    st.one_of(st.just(np.nan), st.floats(0, 1)),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_shares_are_ranked_between_0_and_1_and_add_up_to_1_or_0(
    training: np.ndarray, window: np.ndarray, profiles: Floats, before: float, now: float
) -> None:
    shares = attribute(["a", "b", "c"], training, window, profiles, before, now)

    values = [share.share for share in shares]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert sum(values) == pytest.approx(1) or not any(values)


def test_without_events_or_scores_nothing_is_explained() -> None:
    training, profiles = np.array([[5, 5, 0]]), np.array([[0.1, 0.9, np.nan]])
    nothing = np.zeros((1, 3), np.int64)

    assert attribute(["a"], training, nothing, profiles, 0.5, float("nan")) == ()
    assert attribute(["a"], nothing, training, profiles, float("nan"), 0.5) == ()


def test_a_shift_is_the_change_of_shares_times_the_distance_from_the_mean_score() -> None:
    """The mean is that of all events, not of those that have the feature: (0.3 - 0.8)(-0.1) + (0.7 - 0.2) 0.3 = 0.2."""
    profiles = np.array([[0.2, 0.6, np.nan]])
    shares = attribute(["a"], np.array([[8, 2, 0]]), np.array([[30, 70, 0]]), profiles, 0.3, 0.6)

    assert [(share.metric, share.shift) for share in shares] == [
        ("a", pytest.approx(0.2)),
        (JOINT, pytest.approx(0.1)),
    ]
    assert [share.share for share in shares] == pytest.approx([2 / 3, 1 / 3])


def test_a_value_that_training_never_had_counts_as_the_overall_mean() -> None:
    (share, _) = attribute(
        ["a"], np.array([[5, 5, 0]]), np.array([[5, 0, 5]]), np.array([[0.2, 0.8, np.nan]]), 0.5, 0.35
    )

    assert share == Share("a", pytest.approx(-0.15), pytest.approx(1.0))
