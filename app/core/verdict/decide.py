r"""One verdict per window and model: what has happened, what explains it, where it sits, and what to do next.

`decide` takes what others have found (tests, faults, attribution, labelled events, performance) and does not test
again. The first row that applies:

=================== ================================================================================= =================
kind                when                                                                              advice
=================== ================================================================================= =================
no_reference        the version's training counts hold no event                                       watch
pipeline_fault      a fault of the traffic: no events, too few, too many                              look upstream
too_little_data     fewer events in the window, or in training, than ``fewest``                       watch
pipeline_fault      a fault of values or columns, unless labels say more than it explains             look upstream
concept_drift       scores tell outcomes apart less well than they promise (order, shape, or an AUC   retrain *
                    that is surely below what they promise), by what matters
label_prior_drift   positives are more or less frequent than in training, and than the scores say     watch *
                    (which of the two is sure does not matter)
concept_drift       positives are more or less frequent than the scores say, and not than in          retrain *
                    training; or labels speak against the scores in a segment
score_drift         the score has signalled                                                           watch *
feature_drift       a feature has signalled                                                           watch *
label_prior_drift   the outcome has signalled, or its share has moved                                 watch *
too_little_data     nothing of all that, and something is not compared (`app.core.drift.silences`): the     watch
                    version scored only part of the window, or features are filling; of such a part
                    the share of positive labels says nothing, either
none                nothing of all that                                                               watch *
=================== ================================================================================= =================

\* *roll back* instead when the version is new and the version before surely did better (`app.core.verdict.succession`);
*retrain* instead when the performance is below its limit. Not for faults: the version before would suffer as well.

When only the share of positives changes, Bayes' rule multiplies the odds of all scores by one number. Order and shape
do not notice (`app.core.performance.label_checks`), so what they find is a concept drift whatever the share does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from app.core.faults.fault import percent
from app.core.verdict.attribution import JOINT
from app.core.verdict.headlines import HEADLINES
from app.core.verdict.segments import rank_segments
from app.core.verdict.words import Example, number_pair, say

if TYPE_CHECKING:
    from app.core.verdict.segments import Segment
    from app.core.verdict.situation import Performance, Predecessor, Situation

VerdictKind = Literal[
    "none",
    "feature_drift",
    "score_drift",
    "label_prior_drift",
    "concept_drift",
    "pipeline_fault",
    "too_little_data",
    "no_reference",
]
Action = Literal["watch", "look_upstream", "retrain", "roll_back"]

#: An explanation names at most so many features, and none that explains less than this.
_MOST_EXPLAINED = 5
_LEAST_SHARE = 0.05


class Explanation(NamedTuple):
    """A metric, the share of the score's change that it explains (NaN where the scores have not moved), and words."""

    metric: str
    share: float
    words: str


class Advice(NamedTuple):
    """What to do next, and why in one sentence."""

    action: Action
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What `decide` says. The lists are ranked, the most important first.

    ``segments``: where the change sits, if it sits anywhere more than elsewhere.
    ``unlabelled``: the kind that it would be if no labels were known. Alerts that need no labels go by this.
    ``concerned``: of a fault, the fields as they are named in the events, or else the metrics; "traffic".
    """

    kind: VerdictKind
    headline: str
    explained_by: tuple[Explanation, ...]
    segments: tuple[Segment, ...]
    example: Example | None
    advice: Advice
    unlabelled: VerdictKind
    concerned: tuple[str, ...]


def decide(situation: Situation) -> Verdict:
    """Give the verdict of a window, by the table of this module.

    Examples
    --------
    >>> from app.core.verdict.situation import Situation
    >>> from app.core.verdict.words import Change
    >>> before, now = (0.0,) * 4 + (3.2,) + (30.0,) * 5, (9.0,) * 4 + (24.1,) + (40.0,) * 5
    >>> warm = Change("temp", "numeric", 0.6, before, now)
    >>> verdict = decide(Situation(n=5000, n_reference=100_000, changes=(warm,), events="flights"))
    >>> verdict.kind, verdict.advice.action
    ('feature_drift', 'watch')
    >>> verdict.headline
    '`temp` is higher: half of the flights have 24.1 or more, 3.2 or more in training.'
    """
    kind = _kind_beside(situation)
    is_judged = kind not in {"no_reference", "too_little_data"}
    return Verdict(
        kind=kind,
        headline=HEADLINES[kind](situation),
        explained_by=_explain(situation, kind) if is_judged else (),
        segments=rank_segments(situation, by_labels=kind == "concept_drift") if is_judged else (),
        example=_example(situation, kind) if is_judged else None,
        advice=_advise(situation, kind),
        unlabelled=_kind_beside(_without_labels(situation)),
        concerned=_concerned(situation) if situation.faults else (),
    )


def _kind_beside(situation: Situation) -> VerdictKind:
    """The kind. Where nothing is found but something is not compared, too little is known to say that nothing moved."""
    kind = _kind(situation)
    if situation.silence and (kind == "none" or (kind == "label_prior_drift" and situation.silence.is_shared)):
        return "too_little_data"
    return kind


def _kind(situation: Situation) -> VerdictKind:  # noqa: PLR0911  # a row of the table each
    if situation.n_reference == 0:
        return "no_reference"
    if any(fault.kind.startswith("traffic") for fault in situation.faults):
        return "pipeline_fault"
    if not situation.is_enough:
        return "too_little_data"
    if situation.faults and not situation.is_worse_than_faults:
        return "pipeline_fault"
    of_labels = _kind_by_labels(situation)
    if of_labels is not None:
        return of_labels
    if situation.score_moved:
        return "score_drift"
    if situation.features:
        return "feature_drift"
    return "label_prior_drift" if situation.rate_moved or situation.change("outcome") is not None else "none"


def _kind_by_labels(situation: Situation) -> VerdictKind | None:
    """What labels say that neither scores nor features can."""
    if situation.tells_less:
        return "concept_drift"
    if (situation.is_off or situation.rate_moved) and situation.is_explained_by_rate:
        return "label_prior_drift"
    return "concept_drift" if situation.is_off or situation.misfit_segments else None


def _concerned(situation: Situation) -> tuple[str, ...]:
    faults = situation.faults
    return tuple(dict.fromkeys(name for fault in faults for name in fault.fields or fault.metrics or ("traffic",)))


def _without_labels(situation: Situation) -> Situation:
    changes = tuple(change for change in situation.changes if change.metric != "outcome")
    return replace(situation, changes=changes, misfit=None, misfits=(), rate=replace(situation.rate, p_value=math.nan))


def _advise(situation: Situation, kind: VerdictKind) -> Advice:
    if kind == "too_little_data" and situation.is_enough:
        return _OF_A_PART if situation.silence.is_shared else _OF_A_BEGINNING
    if kind in _ADVICE:
        return _ADVICE[kind]
    performance, predecessor = situation.performance, situation.better_predecessor
    if performance is not None and predecessor is not None:
        return Advice("roll_back", _reason_to_roll_back(performance, predecessor, situation.events))
    if performance is not None and performance.is_below_limit:
        value, limit = number_pair(performance.value, performance.limit)
        return Advice("retrain", f"The {performance.measure} is {value}, below its limit of {limit}.")
    if kind == "concept_drift":
        return Advice("retrain", _reason_to_retrain(situation))
    return Advice("watch", _reason_to_watch(performance, kind, awaits_labels=situation.awaits_labels))


def _reason_to_retrain(situation: Situation) -> str:
    performance = situation.performance
    reason = "The same inputs now lead to other outcomes, which the model cannot know."
    if performance is None or not performance.loss >= performance.least:
        return reason
    value, due = number_pair(performance.value, performance.expected)
    return (
        f"The {performance.measure} is {value}, and its scores promise {due}: the same inputs now lead to other"
        " outcomes."
    )


def _reason_to_roll_back(performance: Performance, predecessor: Predecessor, events: str) -> str:
    own, earlier = number_pair(performance.value, predecessor.value)
    where = {0: "of this window", 1: "of the window before"}.get(
        predecessor.windows_ago, f"{predecessor.windows_ago} windows ago"
    )
    return (
        f"Version {predecessor.version}, which scored before, did better on its {events} {where}: its"
        f" {performance.measure} was {earlier}, not {own}, which is more than chance and the usual change between"
        " windows explain."
    )


def _reason_to_watch(performance: Performance | None, kind: VerdictKind, *, awaits_labels: bool) -> str:
    if performance is None or math.isnan(performance.value):
        return "There is nothing to do." if kind == "none" else "Whether the model has become worse is not known yet."
    value, due = number_pair(performance.value, performance.expected)
    if not performance.is_realised:
        rest = "; whether the same inputs lead to other outcomes, labels will tell" if awaits_labels else ""
        return f"As far as the scores tell, the {performance.measure} is {value}{rest}."
    if not math.isnan(performance.limit):
        return f"The {performance.measure} is {value}, as good as it has to be."
    if math.isnan(performance.expected):
        return f"The {performance.measure} is {value}."
    if performance.loss < performance.least:
        return f"The {performance.measure} is {value}, as its scores promise ({due})."
    return f"The {performance.measure} is {value}; its scores promise {due}, and chance may be the difference."


_ADVICE: dict[VerdictKind, Advice] = {
    "no_reference": Advice("watch", "Without the counts of training there is nothing to compare with."),
    "too_little_data": Advice("watch", "So few say too little; wait for more or choose longer windows."),
    "pipeline_fault": Advice(
        "look_upstream", "What reaches the model is not what happened; a new model would learn the fault."
    ),
}
_OF_A_PART = Advice("watch", "A part of a window is no fair sample; the next window will tell.")
_OF_A_BEGINNING = Advice("watch", "Until features are filled, they and the scores are unlike those of training.")


def _explain(situation: Situation, kind: VerdictKind) -> tuple[Explanation, ...]:
    """Faults explain themselves; otherwise features by their share of the score's change, or by how far they moved."""
    if situation.faults:
        # Where labels say more than faults explain, these are not what is said of the score's change.
        attribution = situation.score.attribution if kind == "pipeline_fault" else ()
        shares = {share.metric: share.share for share in attribution}
        return tuple(
            Explanation(metric, shares.get(metric, math.nan), fault.sentence)
            for fault in situation.faults
            for metric in fault.metrics or ("",)
        )
    said = {change.metric: say(change, situation.events).sentence for change in situation.changes}
    if situation.change("score") is None or not situation.score.attribution:
        return tuple(
            Explanation(change.metric, math.nan, said[change.metric]) for change in situation.features[:_MOST_EXPLAINED]
        )
    explanations = []
    for metric, shift, share in situation.score.attribution:
        if share < _LEAST_SHARE:
            continue
        way = "raises" if shift > 0 else "lowers"
        if metric == JOINT:
            reference, detection = number_pair(situation.score.reference, situation.score.detection)
            change = "rise" if shift > 0 else "fall"
            words = (
                f"no feature by itself explains {_points(shift)} of the {change} of the mean score from {reference} to"
                f" {detection}: features go together in another way than in training, or what has moved shows in none"
                " of them"
            )
            explanations.append(Explanation(metric, share, words))
        else:
            moved = f"{said[metric]}; this" if metric in said else f"`{metric}` may have moved, not for certain; this"
            explanations.append(Explanation(metric, share, f"{moved} {way} the mean score by {_points(shift)}"))
    return tuple(explanations[:_MOST_EXPLAINED])


def _points(shift: float) -> str:
    return f"{abs(shift):.2g}"


def _example(situation: Situation, kind: VerdictKind) -> Example | None:
    if kind == "pipeline_fault":
        concerned = {metric for fault in situation.faults[:1] for metric in fault.metrics}
        changes = [change for change in situation.features if change.metric in concerned]
    elif kind == "concept_drift":
        return _example_of_misfit(situation)
    elif kind == "label_prior_drift" and math.isfinite(situation.rate.detection):
        rate = situation.rate
        return Example("positive outcomes", percent(rate.reference), percent(rate.detection))
    else:
        ranked = [share.metric for share in situation.score.attribution] if kind == "score_drift" else []
        changes = [change for name in ranked for change in situation.features if change.metric == name]
        changes += [*situation.features, *situation.changes]
    return say(changes[0], situation.events).example if changes else None


def _example_of_misfit(situation: Situation) -> Example | None:
    misfit, performance = situation.told_misfit, situation.performance
    if situation.tells_less and performance is not None and math.isfinite(performance.loss):
        due, value = number_pair(performance.expected, performance.value)
        return Example(f"{performance.measure}, as scores promise and as it is", due, value)
    if misfit is None or math.isnan(misfit.rate_expected - misfit.rate_realised):
        return None
    where = f" of {misfit.segment}" if misfit.segment else ""
    said, came = percent(misfit.rate_expected), percent(misfit.rate_realised)
    return Example(f"positive outcomes{where}, as scored and as they came", said, came)
