"""Laws of the difference of two versions: values by hand, and no dependence on the order of partitions."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from app.core.batches import EventBatch
from app.core.drift.statistics.psi import psi
from app.core.intake.joining import JoinedLabels
from app.core.intake.pending import Scored
from app.core.replay.score_diff import ALL, MEASURES, DiffRow, ScoreDiff

JANUARY_MS = int(datetime(2013, 1, 31, tzinfo=UTC).timestamp() * 1000)
FEBRUARY_MS = JANUARY_MS + 86_400_000


def events(times: list[int], first: int = 0) -> EventBatch:
    n = len(times)
    offsets = np.arange(first, first + n, dtype=np.int64)
    return EventBatch(offsets, np.array(times, dtype=np.int64), ["k"] * n, [f"e{o}" for o in offsets.tolist()], {})


def labels(known: dict[str, float], of: list[Scored | int]) -> JoinedLabels:
    own = {event for event in of if isinstance(event, int)}
    n = len(known)
    return JoinedLabels(
        before=[0] * n,
        event_id=list(known),
        label=list(known.values()),
        label_time_ms=[0] * n,
        events=of,
        own_rows=own,
    )


def add(
    diff: ScoreDiff, partition: int, times: list[int], before: list[float], after: list[float], **more: object
) -> None:
    joined = more.get("joined", JoinedLabels())
    assert isinstance(joined, JoinedLabels)
    was, now = np.array(before), np.array(after)
    diff.add_events(partition, events(times), (was, now), (was >= 0.5, now >= 0.5), joined)


def values(rows: list[DiffRow], segment: str = ALL) -> dict[str, float]:
    return {row.measure: row.value for row in rows if row.segment == segment}


def test_every_measure_of_four_events_by_hand() -> None:
    diff = ScoreDiff()
    scored = Scored(0, 0, "1", 0.0, ())
    add(diff, 0, [JANUARY_MS] * 4, [0.0, 0.25, 0.5, 0.75], [0.0, 0.5, 0.25, 0.75])
    diff.add_labels(0, labels({"e0": 0.0, "e1": 1.0, "e2": 0.0, "e9": 1.0}, [scored] * 4))
    measured = values(diff.rows())
    assert list(measured) == list(MEASURES)
    assert measured["n"] == 4
    assert measured["mean_before"] == measured["mean_after"] == 0.375
    assert measured["mean_difference"] == 0.0
    assert (measured["abs_p50"], measured["abs_p90"], measured["abs_max"]) == (0.0, 0.25, 0.25)  # of 0, 0, 1/4, 1/4
    assert (measured["changed_share"], measured["raised_share"], measured["lowered_share"]) == (0.5, 0.25, 0.25)
    # Deviations -3/8, -1/8, 1/8, 3/8 and -3/8, 1/8, -1/8, 3/8: 16/64 of 20/64.
    assert math.isclose(measured["correlation"], 0.8)
    assert measured["psi"] == 0.0  # the same values, in another order
    assert measured["n_labels"] == 3
    # Positive e1 against e0 and e2: above one of 0, 1/2; above both of 0, 1/4.
    assert (measured["auc_before"], measured["auc_after"]) == (0.5, 1.0)


def test_a_label_of_the_steps_own_event_counts_for_it() -> None:
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS] * 2, [0.1, 0.9], [0.9, 0.1], joined=labels({"e0": 0.0, "e1": 1.0}, [0, 1]))
    measured = values(diff.rows())
    assert (measured["n_labels"], measured["auc_before"], measured["auc_after"]) == (2, 1.0, 0.0)
    add(diff, 0, [FEBRUARY_MS] * 2, [0.1, 0.9], [0.1, 0.9], joined=labels({"e0": 0.0, "e1": 1.0}, [0, 1]))
    measured = values(diff.rows(), "2013-02")
    assert (measured["n_labels"], measured["auc_before"], measured["auc_after"]) == (2, 1.0, 1.0)


def test_months_are_those_of_event_time_in_utc() -> None:
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS, FEBRUARY_MS - 1, FEBRUARY_MS], [0.0, 0.0, 0.0], [0.25, 0.25, 1.0])
    rows = diff.rows()
    assert [row.segment for row in rows if row.measure == "n"] == [ALL, "2013-01", "2013-02"]
    assert (values(rows, "2013-01")["mean_difference"], values(rows, "2013-02")["mean_difference"]) == (0.25, 1.0)


def test_events_that_one_side_has_not_scored_are_counted_and_left_out() -> None:
    diff = ScoreDiff()
    nan = np.nan
    add(
        diff,
        0,
        [JANUARY_MS] * 9,
        [0.5, nan, 0.5, 0.5, nan, nan, nan, nan, nan],
        [0.5, 0.5, nan, nan, *[nan] * 3, 0.1, 0.2],
    )
    assert values(diff.rows())["n"] == 1
    assert (diff.only_before, diff.only_after) == (2, 3)  # and three that nobody scored


def test_the_order_of_partitions_changes_no_bit() -> None:
    draw = np.random.default_rng(7)
    pieces = [(k, draw.random(50).tolist(), draw.random(50).tolist()) for k in range(4)]
    measured = []
    for order in (pieces, pieces[::-1]):
        diff = ScoreDiff()
        for partition, before, after in order:
            add(diff, partition, [JANUARY_MS] * 50, before, after)
        measured.append([(row.measure, np.float64(row.value).tobytes()) for row in diff.rows()])
    assert measured[0] == measured[1]


def test_nothing_to_compare_gives_no_number() -> None:
    measured = values(ScoreDiff().rows())
    assert measured["n"] == 0
    assert math.isnan(measured["auc_after"])


def test_percentiles_and_shares_of_a_hundred_known_differences() -> None:
    """Differences of 1 to 100 thousandths, in any order: the 50th, 90th, 99th and largest of them."""
    diff = ScoreDiff()
    order = np.random.default_rng(1).permutation(100)
    before = np.where(order < 40, 0.9, 0.45)
    after = before + np.where(order % 2, 1, -1) * (order + 1) / 1000
    add(diff, 0, [JANUARY_MS] * 100, before.tolist(), after.tolist())
    measured = values(diff.rows())
    expected = {"abs_p50": 0.05, "abs_p90": 0.09, "abs_p99": 0.099, "abs_max": 0.1}
    assert {name: measured[name] for name in expected} == {
        name: pytest.approx(value) for name, value in expected.items()
    }
    became = ((before < 0.5) & (after >= 0.5)).sum()
    assert measured["raised_share"] == measured["changed_share"] == became / 100 > 0.2
    assert measured["lowered_share"] == 0.0
    assert measured["mean_difference"] == pytest.approx(np.mean(after) - np.mean(before))
    assert measured["correlation"] == pytest.approx(np.corrcoef(before, after)[0, 1])


def test_a_label_finds_the_event_of_its_partition_once_and_none_that_was_replaced() -> None:
    diff = ScoreDiff()
    scored = Scored(0, 0, "1", 0.0, ())
    for partition in (0, 1):
        add(diff, partition, [JANUARY_MS] * 2, [0.2, 0.6], [0.4, 0.8])
    # An event with the id of one that waited, in a later step: the label is its own.
    diff.add_events(0, events([FEBRUARY_MS], first=1), (np.array([0.9]),) * 2, (np.array([True]),) * 2, JoinedLabels())
    diff.add_labels(0, labels({"e1": 1.0, "e0": 0.0}, [scored] * 2))
    diff.add_labels(0, labels({"e0": 1.0}, [scored]))  # joined already
    diff.add_labels(1, labels({"e1": 0.0}, [scored]))
    rows = diff.rows()
    assert (values(rows)["n_labels"], values(rows, "2013-01")["n_labels"], values(rows, "2013-02")["n_labels"]) == (
        *(3, 2, 1),
    )
    assert values(rows)["auc_before"] == 1.0


def test_scores_are_given_of_events_that_both_have_scored() -> None:
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS] * 3, [0.5, np.nan, 0.25], [0.75, 0.5, 0.125])
    before, after = diff.scores()
    assert (before.tolist(), after.tolist()) == ([0.5, 0.25], [0.75, 0.125])


def test_decisions_go_either_way_and_the_same_score_for_all_correlates_with_nothing() -> None:
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS] * 4, [0.9, 0.9, 0.9, 0.9], [0.1, 0.8, 0.2, 0.3])
    measured = values(diff.rows())
    assert (measured["changed_share"], measured["raised_share"], measured["lowered_share"]) == (0.75, 0.0, 0.75)
    assert math.isnan(measured["correlation"])
    assert math.isnan(measured["auc_after"])
    assert (measured["n_labels"], measured["n"]) == (0, 4)


def test_the_index_is_that_of_the_deciles_of_before() -> None:
    """Scores 1 to 20 twentieths, two in each tenth; afterwards the lowest four are the highest."""
    before = np.arange(1, 21) / 20
    after = np.where(before <= 0.2, 1.5, before)
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS] * 20, before.tolist(), after.tolist())
    shares = np.full(10, 2), np.array([0, 0, *[2] * 7, 6])
    assert values(diff.rows())["psi"] == pytest.approx(psi(*shares).statistic)


@pytest.mark.parametrize("n", [3, 12, 37])
def test_a_decile_is_the_least_score_with_that_share_at_or_below_it(n: int) -> None:
    draw = np.random.default_rng(n)
    before, after = np.round(draw.random(n), 1), draw.random(n)
    deciles = sorted({min(x for x in before if 10 * (before <= x).sum() >= tenth * n) for tenth in range(1, 10)})
    shares = np.zeros((2, len(deciles) + 1), np.int64)
    for side, scores in enumerate((before, after)):
        for score in scores:
            shares[side, sum(decile < score for decile in deciles)] += 1
    diff = ScoreDiff()
    add(diff, 0, [JANUARY_MS] * n, before.tolist(), after.tolist())
    assert values(diff.rows())["psi"] == pytest.approx(psi(*shares).statistic)
