"""Where a change sits is said only where it sits there more than elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.core.verdict.decide import Verdict, decide
from app.core.verdict.situation import Misfit, RateChange, SegmentChange, Situation, Thresholds
from app.core.verdict.words import Change

SHARES = {"land=DE": 0.5, "land=FR": 0.2, "land=PL": 0.15, "land=US": 0.1, "land=NG": 0.05}
N = 20_000
QUIET = Situation(n=N, n_reference=100_000, events="payments", thresholds=Thresholds(0.001))
MOVED = Change("betrag", "numeric", 0.4, at_least=(3.0, 0.1, 0.5))


def named(verdict: Verdict) -> set[str]:
    return {each.segment for each in verdict.segments}


def misfit(loss: float, segment: str = "", share: float = 1.0) -> Misfit:
    """An AUC that is lost, surely, by so much."""
    return Misfit(
        p_order=1e-9,
        losses={"auc": loss / 0.02},
        segment=segment,
        n=int(N * share),
        rate_expected=0.1,
        rate_realised=0.1,
    )


def concept_drift(losses: dict[str, float]) -> Situation:
    """In all events, the loss is about that of the segments in proportion to their events."""
    whole = sum(SHARES[name] * loss for name, loss in losses.items())
    of_segments = tuple(misfit(loss, name, SHARES[name]) for name, loss in losses.items() if loss > 0.01)
    return replace(QUIET, misfit=misfit(whole), misfits=of_segments)


def feature_drift(effects: dict[str, float]) -> Situation:
    """In all events shares are as far apart as those of the segments, weighted by their events."""
    whole = sum(SHARES[name] * effect for name, effect in effects.items())
    of_segments = tuple(
        SegmentChange(name, "betrag", effect, int(N * SHARES[name]), effect / whole)
        for name, effect in effects.items()
        if effect
    )
    return replace(QUIET, changes=(MOVED,), segments=of_segments)


KINDS = pytest.mark.parametrize("make", [concept_drift, feature_drift])


@KINDS
def test_what_all_segments_share_sits_in_none_of_them_however_large_one_is(make: object) -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        alike = {name: 0.5 * float(generator.uniform(0.8, 1.25)) for name in SHARES}
        verdict = decide(make(alike))  # type: ignore[operator]  # one of two
        assert verdict.kind in {"concept_drift", "feature_drift"}
        assert named(verdict) == set()


@KINDS
def test_what_one_segment_has_alone_is_named_by_it(make: object) -> None:
    for name in SHARES:
        alone = dict.fromkeys(SHARES, 0.0) | {name: 0.5}
        assert named(decide(make(alone))) == {name}  # type: ignore[operator]  # one of two


@KINDS
def test_two_segments_that_have_all_of_it_are_both_named(make: object) -> None:
    two = dict.fromkeys(SHARES, 0.0) | {"land=DE": 0.5, "land=FR": 0.4}
    assert named(decide(make(two))) == {"land=DE", "land=FR"}  # type: ignore[operator]  # one of two


@KINDS
def test_a_small_segment_that_only_seems_to_have_lost_more_is_not_where_it_sits(make: object) -> None:
    """It has a tenth of the events and a sixth of the change."""
    mostly_alike = dict.fromkeys(SHARES, 0.3) | {"land=US": 0.5}
    assert named(decide(make(mostly_alike))) == set()  # type: ignore[operator]  # one of two


def test_a_segment_that_labels_speak_against_alone_is_named_whatever_all_events_seem_to_say() -> None:
    """Over all events nothing is sure, so their loss may be chance, and more than the segment's."""
    unsure = Misfit(p_order=0.2, losses={"auc": 3.0}, n=N)
    verdict = decide(replace(QUIET, misfit=unsure, misfits=(misfit(0.4, "land=NG", 0.05),)))
    assert (verdict.kind, named(verdict)) == ("concept_drift", {"land=NG"})


def test_a_metric_that_signals_in_a_segment_alone_sits_there() -> None:
    change = SegmentChange("land=US", "betrag", 0.2, N // 10)
    assert named(decide(replace(QUIET, changes=(MOVED,), segments=(change,)))) == {"land=US"}


def test_what_signals_in_all_segments_and_not_in_all_events_sits_in_none() -> None:
    changes = tuple(SegmentChange(name, "betrag", 0.2, int(N * share)) for name, share in SHARES.items())
    assert named(decide(replace(QUIET, changes=(MOVED,), segments=changes))) == set()


def test_each_way_of_dividing_the_events_is_judged_by_itself() -> None:
    """A change in DE alone is spread over the devices as these are in DE."""
    of_land = feature_drift(dict.fromkeys(SHARES, 0.0) | {"land=DE": 0.6})
    of_device = tuple(SegmentChange(f"geraet={name}", "betrag", 0.3, N // 2, 1.0) for name in ("web", "app"))
    verdict = decide(replace(of_land, segments=(*of_land.segments, *of_device)))
    assert named(verdict) == {"land=DE"}


def test_a_segment_that_only_one_measure_makes_look_worse_is_like_the_others() -> None:
    """The order is lost alike; where there are more positives, that costs more of the log loss."""
    whole = replace(misfit(0.5), losses={"auc": 25.0, "log_loss": 20.0})
    there = replace(misfit(0.5, "land=FR", 0.2), losses={"auc": 26.0, "log_loss": 60.0})
    assert named(decide(replace(QUIET, misfit=whole, misfits=(there,)))) == set()
    worse = replace(there, losses={"auc": 75.0, "log_loss": 60.0})
    assert named(decide(replace(QUIET, misfit=whole, misfits=(worse,)))) == {"land=FR"}


def test_a_rate_that_is_off_in_one_segment_is_named_by_it() -> None:
    off = Misfit(p_direction=1e-9, gap=0.05, rate_expected=0.1, rate_realised=0.115, n=N)
    there = replace(off, gap=0.5, rate_realised=0.25, segment="land=US", n=N // 10)
    elsewhere = replace(off, gap=0.06, segment="land=DE", n=N // 2)
    situation = replace(
        QUIET, misfit=off, misfits=(there, elsewhere), rate=RateChange(reference=0.115, detection=0.115)
    )
    assert named(decide(situation)) == {"land=US"}


def test_a_rate_that_is_off_in_a_segment_is_not_where_an_order_sits_that_all_have_lost() -> None:
    """Its scores were too high; those of the others were too low, so that over all events the rates fit."""
    whole = replace(misfit(0.5), p_direction=0.4, gap=0.001)
    there = replace(misfit(0.5, "land=NG", 0.05), p_direction=1e-40, gap=-0.3)
    assert named(decide(replace(QUIET, misfit=whole, misfits=(there,)))) == set()
