"""What a window says to alert rules, whatever rules there are, and what a rule makes of it.

A rule asks two questions: is the window beyond the limit, and is it back within the milder one? A window answers yes or
no only where it can; one that cannot counts for nothing (`app.core.alerts.course`).

*Measures* answer by their range: it lies beyond a limit, or within it, or holds it and says nothing.

*Verdicts* answer by what they could have said. The first kind that applies hides those below it, and without labels
nothing can be said of the relation of inputs to labels (`RULED_OUT`). A window that has labels is read twice, once as
if it had none: rules on faults, scores and features go by that, so that they need not wait for labels and hear nothing
else when these have come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from app.core.counts.sketches import ALL
from app.core.drift.silences import NOTHING_SILENT, Silence
from app.core.performance.loss_tails import find_p_of_losses
from app.core.performance.measures import FEWEST_OF_EITHER, LOWER_IS_BETTER, least_loss, loss_of, measure
from schemas.pipeline.spec import LEAST_OF_DECISIONS

if TYPE_CHECKING:
    from app.core.drift.judgement import Judgement
    from app.core.findings import PerformanceRow
    from app.core.labels.selection import OneKind
    from app.core.performance.calibration import Calibration
    from app.core.verdict.decide import Verdict
    from models.reference.reference import Counts
    from schemas.pipeline.spec import AlertRule

#: The kinds that only labels can show.
OF_LABELS = frozenset({"concept_drift", "label_prior_drift"})
_OTHERS = frozenset({"pipeline_fault", "score_drift", "feature_drift"})
_KINDS = OF_LABELS | _OTHERS
#: What rules on missing labels are on.
LABELS_MISSING = "labels_missing"
#: What is made of where positives are: where these come in bursts, one that scores miss is one surprise.
_OF_POSITIVES = frozenset({"auc", "precision", "recall"})
#: Of what verdicts may spend on labels, so much again is for "worse than promised", which mostly goes with one of them.
_OF_LOSS = 0.25
#: Which kinds a verdict says not to be so, by kind and whether it knew the labels: those that it would have said, had
#: they been so. The precedence is that of `app.core.verdict.decide`; a prior drift comes in two places there, of which
#: the second is below everything. "too_little_data", "no_reference" and a fault rule out nothing.
RULED_OUT: Mapping[tuple[str, bool], frozenset[str]] = {
    ("none", False): _OTHERS,
    ("feature_drift", False): frozenset({"pipeline_fault", "score_drift"}),
    ("score_drift", False): frozenset({"pipeline_fault"}),
    ("none", True): _OTHERS | OF_LABELS,
    ("feature_drift", True): frozenset({"pipeline_fault", "score_drift", "concept_drift"}),
    ("score_drift", True): frozenset({"pipeline_fault", "concept_drift"}),
    ("label_prior_drift", True): frozenset({"pipeline_fault"}),
}


class Limit(NamedTuple):
    """A value that must not be passed, on which side, where a value is back within it, and where it comes from."""

    value: float
    side: Literal["below", "above"]
    clears: float
    why: str = ""


class Reading(NamedTuple):
    """What a window says to rules on one thing.

    Parameters
    ----------
    value, text
        A measured value (NaN: nothing is known), and in words what there is beside it.
    low, high
        Its range; None: it is exact.
    expected
        Of a measure of performance, what the scores of the labelled events promise.
    is_worse
        Whether it is surely worse than that, and by a loss that matters.
    says
        Of a verdict: the kinds that it says, each with a field or other thing that is concerned, or "".
    rules_out
        Of a verdict: the kinds that are surely not so.
    with_labels
        Of a verdict: whether labels were known. Without, another one comes when they are.
    """

    value: float = math.nan
    text: str = ""
    low: float | None = None
    high: float | None = None
    expected: float = math.nan
    is_worse: bool = False
    says: tuple[tuple[str, str], ...] = ()
    rules_out: tuple[str, ...] = ()
    with_labels: bool = False

    @property
    def range(self) -> tuple[float, float]:
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high

    @classmethod
    def from_state(cls, state: list[Any]) -> Reading:
        """Take the JSON values of one."""
        read = cls(*state)
        return read._replace(says=tuple((kind, name) for kind, name in read.says), rules_out=tuple(read.rules_out))


#: A window in which other versions scored and this one did not: it cannot be beyond a limit any more.
ABSENT = Reading(text="absent")
NOTHING = Reading()


class Answer(NamedTuple):
    """Whether a window is beyond a rule's limit, and back within the milder one; None: it cannot say.

    ``limit``: the one that it is beyond; ``loss``: how much worse it is than its scores promise.
    """

    beyond: bool | None = None
    back: bool | None = None
    limit: Limit | None = None
    loss: float = math.nan


UNDECIDED = Answer()


def ask(rule: AlertRule, rule_limits: list[Limit], reading: Reading, past_loss: float = math.nan) -> Answer:
    """Ask a window a rule's questions.

    Parameters
    ----------
    past_loss
        With which a window was beyond; of rules on what the scores promise. A window is back when its range excludes
        half of it, or any loss that matters: one that could not have seen a loss cannot say that it is over.

    Examples
    --------
    >>> from schemas.pipeline.spec import AlertRule
    >>> rule, limit = AlertRule("a", "performance", "auc", below=0.75), Limit(0.75, "below", 0.8)
    >>> [ask(rule, [limit], Reading(area, "", area - 0.03, area + 0.03))[:2] for area in (0.70, 0.74, 0.79, 0.84)]
    [(True, False), (None, False), (False, None), (False, True)]
    """
    if rule.on == "verdict":
        if any(kind in rule.kinds for kind, _ in reading.says):
            return Answer(True, False, rule_limits[0])
        return Answer(False, True) if set(rule.kinds) <= set(reading.rules_out) else UNDECIDED
    if math.isnan(reading.value):
        return UNDECIDED
    if rule.below_expected:
        return _ask_of_loss(rule, reading, past_loss)
    low, high = reading.range
    beyond = next((limit for limit in rule_limits if _is_beyond(low, high, limit.side, limit.value)), None)
    is_within = all(_is_within(low, high, limit.side, limit.value) for limit in rule_limits)
    is_outside = any(_is_beyond(low, high, limit.side, limit.clears) for limit in rule_limits)
    is_back = all(_is_within(low, high, limit.side, limit.clears) for limit in rule_limits)
    return Answer(
        beyond=True if beyond is not None else False if is_within else None,
        back=True if is_back else False if is_outside else None,
        limit=beyond,
    )


def _ask_of_loss(rule: AlertRule, reading: Reading, past_loss: float) -> Answer:
    if math.isnan(reading.expected):
        return UNDECIDED
    least, (low, high) = least_loss(rule.measure, rule.minimum_effect, reading.expected), reading.range
    if reading.is_worse:
        is_up = rule.measure in LOWER_IS_BETTER
        value = reading.expected + least if is_up else reading.expected - least
        limit = Limit(value, "above" if is_up else "below", value, f"{reading.expected:.4g} is what its scores promise")
        return Answer(True, False, limit, loss_of(rule.measure, reading.value, reading.expected))
    largest = loss_of(rule.measure, high if rule.measure in LOWER_IS_BETTER else low, reading.expected)
    return Answer(False, True) if largest <= max(least, past_loss / 2) else UNDECIDED


def _is_beyond(low: float, high: float, side: str, bound: float) -> bool:
    return high < bound if side == "below" else low > bound


def _is_within(low: float, high: float, side: str, bound: float) -> bool:
    return low >= bound if side == "below" else high <= bound


def is_awaited(rule: AlertRule, reading: Reading) -> bool:
    """Whether a window will say more to a rule when its labels are here."""
    is_known = reading.with_labels or reading.text == ABSENT.text
    return rule.on == "verdict" and not is_known and not OF_LABELS.isdisjoint(rule.kinds)


# -- readings of windows -----------------------------------------------------------------------------------------------


def read_verdict(verdict: Verdict, counts: Counts, *, with_labels: bool, silence: Silence = NOTHING_SILENT) -> Reading:
    """What a verdict on a window of such counts says; where something was not compared, it rules out nothing.

    That labels do not come is for rules of their own: no window says it before its labels are due.
    """
    if verdict.concerned == ("labels",):
        return NOTHING
    kind, unlabelled = verdict.kind, verdict.unlabelled
    can_tell = with_labels and min(counts.outcomes.sum(axis=1).tolist()) >= FEWEST_OF_EITHER
    rules_out = RULED_OUT.get((unlabelled, False), frozenset()) | RULED_OUT.get((kind, can_tell), frozenset())
    # Labels of one kind alone show how many there are of it, and not which scores they have beside the others'.
    sayable = _KINDS if can_tell else _KINDS - {"concept_drift"}
    said = dict.fromkeys(said_kind for said_kind in (kind, unlabelled) if said_kind in sayable)
    return Reading(
        text=verdict.headline,
        says=tuple(
            (said_kind, name)
            for said_kind in said
            for name in (verdict.concerned if said_kind == "pipeline_fault" else [""])
        ),
        rules_out=() if silence else tuple(sorted(rules_out - said.keys())),
        with_labels=with_labels,
    )


def read_performance(
    rows: Iterable[PerformanceRow],
    counts: Counts,
    calibration: Calibration,
    alpha: float,
    *,
    minimum_effects: Mapping[str, float],
    label_effect: float = 1.0,
    silence: Silence = NOTHING_SILENT,
) -> dict[str, Reading]:
    """What the measures of a window say, whose labels are mature.

    ``calibration``: among the labels that are here (`Calibration.among_arrived`). ``alpha``: what the window may spend
    on being wrong. ``minimum_effects``: the losses that matter, by measure. ``label_effect``: how many labels come
    together, for what hangs by where positives are: its own design effect is a mean over training, where a burst that
    the scores miss is rare. Scores that are made of features that are filling promise nothing.
    """
    least = {**LEAST_OF_DECISIONS, **minimum_effects}
    promised = {row.measure: row.expected for row in rows if row.segment == ALL and not silence.filling}
    readings = {
        name: Reading(value, "", low, high, promised.get(name, math.nan))
        for name, value, low, high in measure(counts, calibration)
    }
    lost = [
        name
        for name, reading in readings.items()
        if loss_of(name, reading.value, reading.expected) > least_loss(name, least[name], reading.expected)
    ]
    if lost:
        effects = {
            name: max(calibration.design_effects.get(name, 1.0), label_effect if name in _OF_POSITIVES else 1.0)
            for name in lost
        }
        p_values = find_p_of_losses(replace(calibration, design_effects=effects), counts.outcomes, lost)
        readings |= {name: readings[name]._replace(is_worse=p_values[name] < alpha * _OF_LOSS) for name in lost}
    return readings


def read_labels(one_kind: OneKind | None, n_labels: int) -> Reading:
    """Whether labels of one kind, or all, do not come any more, of a mature window whose labels should be here."""
    if not n_labels:
        return Reading(1.0, "none of its events has one, though all are old enough")
    if one_kind is not None and one_kind.is_unsent:
        return Reading(1.0, one_kind.sentence.removesuffix("."))
    return Reading(0.0)


def read_drift(tested: Iterable[Judgement]) -> Reading:
    """The share of metrics that drift; its range is what those that could not be judged leave open."""
    judged: dict[str, bool] = {}
    drifting = set()
    for report in tested:
        if report.segment == ALL:
            judged[report.metric] = judged.get(report.metric, False) or report.verdict.threshold is not None
            drifting |= {report.metric} if report.verdict.signal == "DRIFT" else set()
    if not judged:
        return NOTHING
    n_open = sum(not is_judged for is_judged in judged.values())
    share = len(drifting) / len(judged)
    return Reading(share, "", share, (len(drifting) + n_open) / len(judged))
