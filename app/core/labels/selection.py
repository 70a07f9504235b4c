"""Whether labels are those of chosen events; what can then be said, and what nobody can know.

Labels may come for one side of the threshold alone: where only events with a positive decision are investigated, or
where such events are stopped, so that their label never comes true. Given the score, these labels still say whether the
calibration holds. They say nothing of all events: neither how many positives there are, nor how well scores tell them
from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.faults.fault import Fault
from app.core.performance.label_checks import ALL_ARRIVED, LabelCheck, check_labels
from app.core.performance.order_weights import order_weights

if TYPE_CHECKING:
    from app.core.batches import Ints
    from models.reference.reference import Counts, Reference

_MISSING = "too few of either label have come by performance.maturity, or nobody knows yet how many will"
#: A side must lack this many labels, at the other side's share, before their absence is no chance.
_MANY = 30.0
#: Labels on a side count as none up to this share of those that are due.
_NONE = 0.01
#: One side has so many times the other's share of labels, before it is said ...
_UNLIKE = 2.0
#: ... and so many standard errors more.
_SURE = 5.0
#: Fewer labels are not looked at.
_FEWEST_ON_A_SIDE = 10
#: A calibration with a smaller p-value is said to be off.
_LEVEL = 0.01


@dataclass(frozen=True)
class Selection:
    """How labels are spread over the two sides of the threshold; (below, at or above) each.

    ``labelled``: events with a label. ``events``: all. ``is_one_sided``: labels come of one side alone, in practice.
    ``check``: of the side with more labels, do they come out as the scores say?
    """

    threshold: float
    labelled: tuple[int, int]
    events: tuple[int, int]
    is_one_sided: bool
    check: LabelCheck

    @property
    def side(self) -> int:
        """The side with the larger share of labels: 0 below, 1 at or above the threshold."""
        below, above = (n / of for n, of in zip(self.labelled, self.events, strict=True))
        return int(above > below)

    def describe(self) -> str:
        """One or two sentences: what is so, what cannot be known, and what can."""
        where = ("below", "at or above")
        n, n_other = self.labelled[self.side], self.labelled[1 - self.side]
        of, of_other = self.events[self.side], self.events[1 - self.side]
        judged = f"The calibration {where[self.side]} it can{' and the precision can' if self.side else ''}: "
        p_value = self.check.p_direction
        holds = self.check.direction if p_value < _LEVEL else "as many positives as the scores say"
        holds = "too few labels to say" if math.isnan(p_value) else f"{holds} (p = {p_value:.2g})"
        if self.is_one_sided:
            others = "none" if not n_other else f"{n_other:,}"
            return (
                f"Labels come only of events scored {where[self.side]} {self.threshold:g} ({n:,} of {of:,}; of the"
                f" {of_other:,} others {others}): the AUC, the recall and the rate of positives of all events cannot be"
                f" known. {judged}{holds}."
            )
        return (
            f"Labels come of {n / of:.0%} of the events scored {where[self.side]} {self.threshold:g} and of"
            f" {n_other / of_other:.1%} of the others: the AUC and the rate of positives of the labelled events are not"
            f" those of all. {judged}{holds}."
        )


@dataclass(frozen=True)
class OneKind:
    """Labels that are all 0, or all 1, in practice, where many of the other kind are due.

    ``n``: labels; ``due``: how many of them their scores promise to be of the other kind; ``unlabelled``: events of the
    window without a label.
    """

    label: int
    n: int
    due: float
    unlabelled: int

    @property
    def is_unsent(self) -> bool:
        """Whether so many events have no label that the other kind is probably not sent, and not just rare."""
        return self.unlabelled >= self.due / 2

    @property
    def sentence(self) -> str:
        """For a person."""
        start = f"All {self.n:,} labels are {self.label}; their scores promise that {self.due:,.0f} of them are"
        if not self.is_unsent:
            return f"{start} {1 - self.label}, and of none that came true, though all have a label."
        return (
            f"{start} {1 - self.label}, and {self.unlabelled:,} events have no label: labels {1 - self.label} are not"
            " sent any more."
        )

    @property
    def fault(self) -> Fault | None:
        """What is wrong upstream, if labels are not sent."""
        return Fault("labels_missing", (), self.sentence, 1.0, fields=("labels",)) if self.is_unsent else None


class WindowLabels(NamedTuple):
    """What is known of a window's labels: the shares that are here, whether of one kind, whether of chosen events."""

    is_mature: bool
    arrived: tuple[float, float] | None = None
    one_kind: OneKind | None = None
    chosen: Selection | None = None

    @property
    def here(self) -> tuple[float, float]:
        """The shares of the labels 0 and 1 that are here; all, where it is not known."""
        return self.arrived or ALL_ARRIVED

    @property
    def unsent(self) -> Fault | None:
        return self.one_kind.fault if self.one_kind is not None else None

    @property
    def silence(self) -> str:
        """Why the share of positives is not compared with that of training; "": it is."""
        if self.arrived is None:
            return _MISSING
        if self.one_kind is not None and self.one_kind.is_unsent:
            return f"labels {1 - self.one_kind.label} are not sent any more"
        if self.chosen is not None:
            alone = " alone" if self.chosen.is_one_sided else " more than of the other"
            return f"labels come of one side of the threshold{alone}"
        return ""

    @property
    def can_be_judged(self) -> bool:
        is_one_sided = self.chosen is not None and self.chosen.is_one_sided
        return self.arrived is not None and not is_one_sided and self.unsent is None

    def notes(self, n_labels: int) -> list[str]:
        """Sentences beside the verdict's reason."""
        sentences = [self.chosen.describe()] if self.chosen is not None else []
        if self.one_kind is not None and self.unsent is None:
            sentences.append(self.one_kind.sentence)
        if self.can_be_judged and not n_labels:
            sentences.append("None of them has a label, though all are old enough.")
        if self.is_mature and self.arrived is None:
            sentences.append(f"Its labels are not judged: {_MISSING}.")
        return sentences


def find_selection(reference: Reference, counts: Counts) -> Selection | None:
    """Compare the shares of events with a label on both sides of the threshold; None: nothing sure is amiss.

    Examples
    --------
    See tests/unit/test_label_selection.py: labels at random, by decision, and of few events on one side.
    """
    cells, at = reference.score_cells, reference.threshold_cell
    scored, labels = counts.counts[-2, :cells], counts.outcomes.sum(axis=0)
    # Labels that came twice count once.
    events, labelled = (_by_side(in_cells, at) for in_cells in (np.maximum(scored, labels), labels))
    if not min(events) or sum(labelled) < _FEWEST_ON_A_SIDE:
        return None
    shares = [n / of for n, of in zip(labelled, events, strict=True)]
    side = int(shares[1] > shares[0])
    missed = events[1 - side] * shares[side]
    is_one_sided = missed >= _MANY and labelled[1 - side] <= _NONE * missed
    common = sum(labelled) / sum(events)
    error = math.sqrt(common * (1 - common) * (1 / events[0] + 1 / events[1]))
    is_unlike = shares[side] >= _UNLIKE * shares[1 - side] and shares[side] - shares[1 - side] > _SURE * error
    if not (is_one_sided or (is_unlike and missed >= _MANY)):
        return None
    kept = slice(at, None) if side else slice(0, at)
    outcomes = reference.training.outcomes[:, kept]
    weights = order_weights(outcomes, reference.mean_scores[kept])
    check = check_labels(outcomes, counts.outcomes[:, kept], weights)
    return Selection(reference.threshold, labelled, events, is_one_sided, check)


def find_one_kind(reference: Reference, counts: Counts) -> OneKind | None:
    """Look for labels of one kind alone; None: there are some of either, or hardly any are due."""
    n = counts.outcomes.sum(axis=1)
    label = int(n[1] > n[0])
    known, outcomes = reference.training.outcomes.sum(axis=0), reference.training.outcomes[1 - label]
    shares = np.where(known > 0, outcomes / np.maximum(known, 1), outcomes.sum() / max(int(known.sum()), 1))
    due = float(counts.outcomes[label] @ shares)
    if due < _MANY or n[1 - label] > _NONE * due:
        return None
    return OneKind(label, int(n.sum()), due, max(counts.n - int(n.sum()), 0))


def _by_side(of_cells: Ints, threshold_cell: int) -> tuple[int, int]:
    return int(of_cells[:threshold_cell].sum()), int(of_cells[threshold_cell:].sum())
