"""The first sentence of a verdict. Most readers read no further."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.core.faults.fault import listed, percent
from app.core.verdict.attribution import JOINT
from app.core.verdict.words import number_pair, say

if TYPE_CHECKING:
    from app.core.verdict.situation import Situation

#: A feature is named as the cause of a change of the scores when it explains so much of it.
_CAUSE = 0.2


def _fault_headline(situation: Situation) -> str:
    first, *others = sorted(situation.faults, key=lambda fault: not fault.kind.startswith("traffic"))
    if not others:
        return first.sentence
    said = {*first.fields, *first.metrics}
    more: list[str] = []
    for fault in others:
        # Of a field that has been named, the features that are wrong besides.
        fields = [name for name in fault.fields if name not in said]
        more += fields or [name for name in fault.metrics or ("traffic",) if name not in said]
    return (
        f"{first.sentence[:-1]}; there is more to look at in {listed(list(dict.fromkeys(more)))}."
        if more
        else first.sentence
    )


def _concept_headline(situation: Situation) -> str:
    start = "The model no longer fits what happens"
    misfit = situation.told_misfit
    assert misfit is not None  # that is what makes it concept drift
    where = f" of {misfit.segment}" if misfit.segment else ""
    performance = situation.performance
    if situation.tells_less and performance is not None and performance.loss >= performance.least:
        realised, due = number_pair(performance.value, performance.expected)
        return f"{start}: its {performance.measure} is {realised}, and its scores promise {due}."
    if abs(misfit.gap) >= situation.thresholds.calibration and math.isfinite(
        misfit.rate_expected - misfit.rate_realised
    ):
        more = "more" if misfit.rate_realised > misfit.rate_expected else "less"
        realised, said = percent(misfit.rate_realised), percent(misfit.rate_expected)
        return (
            f"{start}: positive outcomes are {more} frequent than its scores say, {realised} of the"
            f" {situation.events}{where} and not {said}."
        )
    return f"{start}: of the {situation.events}{where}, some of its scores are too high and others too low."


def _prior_headline(situation: Situation) -> str:
    outcome = situation.change("outcome")
    rate = situation.rate
    if not math.isfinite(rate.change):
        words = (
            say(outcome, situation.events).sentence
            if outcome is not None
            else "the share of positive outcomes has moved"
        )
        return f"{words[0].upper()}{words[1:]}."
    more = "more" if rate.change > 0 else "less"
    detection, reference = percent(rate.detection), percent(rate.reference)
    return f"Positive outcomes are {more} frequent: {detection} of the {situation.events}, {reference} in training."


def _score_headline(situation: Situation) -> str:
    score = situation.change("score")
    assert score is not None  # that is what makes it score drift
    words = say(score, situation.events).sentence
    causes = [share.metric for share in situation.score.attribution if share.metric != JOINT and share.share >= _CAUSE][
        :3
    ]
    because = f", mostly because of {listed(causes)}" if causes else ""
    return f"{words[0].upper()}{words[1:]}{because}."


def _feature_headline(situation: Situation) -> str:
    first, *others = situation.features
    words = say(first, situation.events).sentence
    if not others:
        return f"{words}."
    more = listed([change.metric for change in others]) if len(others) <= 3 else f"{len(others)} other features"
    return f"{words}; {more} moved, too."


def _none_headline(situation: Situation) -> str:
    scope = ""
    if situation.performance is not None and situation.misfit is None:  # it has labels, and none of them is asked
        scope = " that shows before labels come" if situation.awaits_labels else " that shows without labels"
    return f"Nothing has moved{scope}: the {situation.events} are like those of training."


def _little_headline(situation: Situation) -> str:
    if situation.is_enough:
        return _silent_headline(situation)
    numbers = f"{situation.n} {situation.events} in the window, {situation.n_reference} in training"
    return f"Too little data: {numbers}; {situation.thresholds.fewest} of each are needed."


def _silent_headline(situation: Situation) -> str:
    silence = situation.silence
    if silence.is_shared:
        return f"Version {silence.version} scored only part of this window; it is compared in windows of its own."
    first, *others = sorted(silence.filling, key=lambda metric: -metric.until_ms)
    more = "".join(f", `{metric.metric}` until {metric.until}" for metric in others[:2])
    rest = f", {len(others) - 2} more until then at most" if len(others) > 2 else ""
    return f"Too early to compare all: {first.words}{more}{rest}; nor are the scores compared, which are made of them."


def _unknown_headline(_: Situation) -> str:
    return "Not judged: this version has no counts of its training to compare with."


#: By the kind of the verdict.
HEADLINES = {
    "none": _none_headline,
    "feature_drift": _feature_headline,
    "score_drift": _score_headline,
    "label_prior_drift": _prior_headline,
    "concept_drift": _concept_headline,
    "pipeline_fault": _fault_headline,
    "too_little_data": _little_headline,
    "no_reference": _unknown_headline,
}
