"""What follows from the numbers of a window: thresholds are exact, and what is unknown is no reason for anything."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.faults.fault import Fault
from app.core.verdict.decide import decide
from app.core.verdict.situation import Misfit, Performance, Predecessor, RateChange, Situation, Thresholds
from app.core.verdict.words import Change

#: Numbers that floats hold exactly.
WINDOW = Situation(n=1000, n_reference=1000, thresholds=Thresholds(1 / 64, rate=1 / 4, calibration=1 / 4))
EIGHTHS = st.integers(-8, 8).map(lambda n: n / 8)
P_VALUES = st.sampled_from([0.0, 1 / 128, 1 / 64, 1 / 32, math.nan])


def test_without_a_word_nothing_is_known_and_nothing_has_moved() -> None:
    window = Situation(n=1, n_reference=1)
    assert [window.score_moved, window.tells_less, window.is_off, window.rate_moved] == [False] * 4
    assert not replace(window, misfit=Misfit(p_direction=0.0, p_order=0.0, p_shape=0.0)).tells_less
    assert (window.better_predecessor, window.features, window.change("score")) == (None, (), None)
    assert window.thresholds == Thresholds(alpha=0.001, rate=0.1, calibration=0.05, fewest=200)
    assert (window.misfit, window.misfits, window.misfit_segments, window.told_misfit) == (None, (), (), None)
    assert all(math.isnan(value) for value in (window.score.reference, window.score.detection, *astuple(window.rate)))


#: Alpha times these shares is what the questions may spend.
OF_ORDER, OF_SHAPE, OF_RATES, OF_SEGMENTS, ORDER_OF_SEGMENT = 0.5, 0.05, 0.1, 0.25, 0.7


def around(level: float) -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.999 * level, level, 1.001 * level, 0.5, math.nan])


@given(p_value=around(OF_ORDER / 64), loss=st.sampled_from([-3.0, 0.0, 0.999, 1.0, 5.0]))
def test_scores_tell_less_where_they_surely_do_and_a_measure_has_lost_what_matters(p_value: float, loss: float) -> None:
    misfit = Misfit(p_order=p_value, losses={"log_loss": -1.0, "auc": loss})
    assert replace(WINDOW, misfit=misfit).tells_less == (p_value < OF_ORDER / 64 and loss >= 1)


def test_what_an_alert_calls_worse_than_promised_is_so_in_the_verdict() -> None:
    """Whatever the order says; without labels nothing is."""
    lost = Performance("AUC", 0.89, expected=0.99, least=0.01, is_worse=True)
    assert replace(WINDOW, misfit=Misfit(p_order=0.2), performance=lost).tells_less
    assert not replace(WINDOW, misfit=Misfit(p_order=0.2), performance=replace(lost, is_worse=False)).tells_less
    assert not replace(WINDOW, performance=lost).tells_less
    assert decide(replace(WINDOW, misfit=Misfit(p_order=0.2), performance=lost)).kind == "concept_drift"


@given(p_value=around(OF_SHAPE / 64), effect=st.sampled_from([0.0, 0.249, 0.25, 1.0]))
def test_odd_odds_are_told_where_they_are_sure_and_far_enough(p_value: float, effect: float) -> None:
    misfit = Misfit(p_shape=p_value, effect=effect)
    assert replace(WINDOW, misfit=misfit).tells_less == (p_value < OF_SHAPE / 64 and effect >= 1 / 4)


@given(p_value=around(OF_RATES / 64), gap=st.sampled_from([-1.0, -0.25, -0.249, 0.0, 0.249, 0.25]))
def test_the_scores_are_off_where_they_surely_are_and_far_enough(p_value: float, gap: float) -> None:
    assert replace(WINDOW, misfit=Misfit(p_direction=p_value, gap=gap)).is_off == (
        p_value < OF_RATES / 64 and abs(gap) >= 1 / 4
    )


@given(p_value=around(OF_RATES / 64), rates=st.tuples(EIGHTHS.map(abs), EIGHTHS | st.just(math.nan)))
def test_the_rate_has_moved_where_it_surely_has_and_far_enough(p_value: float, rates: tuple[float, float]) -> None:
    window = replace(WINDOW, rate=RateChange(reference=rates[0], detection=rates[1], p_value=p_value))
    assert window.rate_moved == (p_value < OF_RATES / 64 and abs(rates[0] - rates[1]) >= rates[0] / 4)


@given(before=EIGHTHS, said=EIGHTHS, now=EIGHTHS)
def test_a_change_of_the_rate_explains_a_gap_of_its_size_and_direction(before: float, said: float, now: float) -> None:
    window = replace(
        WINDOW, rate=RateChange(reference=before, detection=now), misfit=Misfit(rate_expected=said, rate_realised=now)
    )
    change, gap = now - before, now - said
    alike = (change > 0 and gap > 0) or (change < 0 and gap < 0)
    assert window.is_explained_by_rate == (alike and abs(change) <= 2 * abs(gap) and abs(gap) <= 2 * abs(change))


def test_segments_share_what_they_may_spend_and_the_surest_comes_first() -> None:
    each = OF_SEGMENTS / 64 / 4
    order, direction = each * ORDER_OF_SEGMENT, each * (1 - ORDER_OF_SEGMENT)
    lost = {"auc": 1.0}
    misfits = (
        Misfit(segment="late", p_order=0.99 * order, losses=lost, p_direction=0.5),
        Misfit(segment="no loss", p_order=0.0, losses={"auc": 0.9}, p_direction=math.nan),
        Misfit(segment="not sure", p_order=1.01 * order, losses=lost, p_direction=1.01 * direction, gap=1.0),
        Misfit(segment="first", p_order=math.nan, p_direction=0.1 * direction, gap=-0.25),
    )
    window = replace(WINDOW, misfits=misfits, misfit=Misfit())
    assert [misfit.segment for misfit in window.misfit_segments] == ["first", "late"]
    assert window.told_misfit == misfits[3]
    of_all = Misfit(p_order=0.0, losses=lost)
    assert replace(window, misfit=of_all).told_misfit == of_all


def test_of_what_is_sure_of_all_events_a_segment_is_named_that_is_likely_to_be_where_it_is() -> None:
    lost, level = {"auc": 1.0}, 0.01 * ORDER_OF_SEGMENT / 2
    likely = Misfit(segment="a", p_order=0.99 * level, losses=lost)
    unlikely = Misfit(segment="b", p_order=1.01 * level, losses=lost)
    window = Situation(n=1000, n_reference=1000, misfit=Misfit(), misfits=(unlikely, likely))
    assert window.misfit_segments == ()
    assert replace(window, misfit=Misfit(p_order=0.0, losses=lost)).misfit_segments == (likely,)


@pytest.mark.parametrize(("loss", "is_worse"), [(0.15, False), (0.17, True)])
def test_a_fault_takes_twice_its_share_of_the_pairs_at_most(loss: float, *, is_worse: bool) -> None:
    """Of an AUC of 0.8, a fault in a tenth of the events takes 0.16."""
    window = replace(
        WINDOW,
        faults=(Fault("unseen_values", ("k",), "New.", 0.1),),
        misfit=Misfit(p_order=0.0, losses={"auc": 5.0}),
        performance=Performance("AUC", 0.8 - loss, expected=0.8),
    )
    assert window.is_worse_than_faults == is_worse
    assert not replace(window, misfit=Misfit()).is_worse_than_faults
    estimated = Performance("AUC", 0.1, expected=0.8, is_realised=False)
    assert not replace(window, performance=estimated).is_worse_than_faults


@given(p_value=P_VALUES, values=st.tuples(EIGHTHS, EIGHTHS | st.just(math.nan)), is_known=st.booleans())
def test_the_one_before_is_better_where_it_surely_did_better(
    p_value: float, values: tuple[float, float], *, is_known: bool
) -> None:
    before = Predecessor("1.0.0", values[1], p_value, 1)
    performance = Performance("auc", values[0], predecessor=before if is_known else None)
    predecessor = replace(WINDOW, performance=performance).better_predecessor
    assert predecessor == (before if is_known and values[1] > values[0] and p_value < 1 / 64 else None)


@pytest.mark.parametrize(("p_value", "is_better"), [(1 / 128, True), (1 / 64, False)])
def test_a_p_value_that_is_all_the_window_may_spend_is_not_enough(p_value: float, *, is_better: bool) -> None:
    performance = Performance("auc", 0.5, predecessor=Predecessor("1.0.0", 0.75, p_value, 1))
    assert (replace(WINDOW, performance=performance).better_predecessor is not None) == is_better


@pytest.mark.parametrize(("value", "limit", "is_below"), [(0.5, 0.5, False), (0.25, 0.5, True), (0.5, math.nan, False)])
def test_a_measure_is_below_its_limit_and_not_at_it(value: float, limit: float, *, is_below: bool) -> None:
    assert Performance("auc", value, limit).is_below_limit == is_below


def test_features_that_moved_are_told_from_score_and_outcome_the_most_moved_first() -> None:
    kinds = [
        ("a", "numeric", 0.25),
        ("score", "score", 1.0),
        ("b", "category", 0.5),
        ("c", "numeric", 0.25),
        ("outcome", "outcome", 0.75),
    ]
    changes = [Change(*each) for each in kinds]
    window = replace(WINDOW, changes=tuple(changes))
    assert window.features == (changes[2], changes[0], changes[3])
    assert window.change("outcome") is changes[4]
    assert window.score_moved
    assert not replace(WINDOW, changes=tuple(changes[:1])).score_moved
