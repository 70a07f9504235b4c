"""Which events a model may learn from: those whose labels must have come by the end of what was known.

Of the newest days only the labels that come early are here, and these may be of one kind: a fraud is reported within
days, but that nothing was reported is known only after weeks. A model that learns from these labels learns how labels
come. So an event counts when it was `maturity` old at the time up to which labels are known. The law of the delays
(`app.core.counts.delay_law`) says whether that is old enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.delay_law import FEWEST_LABELS, say_ms
from app.core.labels.held import say_share, say_time
from app.core.labels.maturity_setting import ENOUGH, maturity_warnings
from app.core.performance.measures import wilson
from models.versions.manifest import LabelDelay, LabelFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.core.batches import Floats, Ints
    from app.core.counts.delay_law import DelayLaw
    from app.core.labels.held import Held

#: From this many labels on, training has a law of delays. It is rough, and only refuses; windows are corrected by
#: better ones.
FEWEST_IN_TRAINING = 10
#: The rate of positives may be wrong by this share of itself, for labels that have not come.
_MOST_BIAS = 0.1
#: A label whose share at an age is below this is not weighed by its inverse: one event would stand for more than ten.
_LEAST_SHARE = 0.1
#: Events without a label, of those old enough, above which labels may be selective.
_MANY_UNLABELLED = 0.2
#: With fewer positives (or negatives) their rate is not known to within a fifth.
_SOFT_FLOOR = 100


class MaturityError(ValueError):
    """Labels that no model may learn from; one sentence that says what to do."""


@dataclass(frozen=True)
class LabelTimes:
    """The times by which it is judged whether the labels of a range of events have come.

    Parameters
    ----------
    from_ms, to_ms
        Where the range begins and ends.
    known_ms
        Up to which time labels are known; where the range begins if none is.
    maturity_ms, horizon_ms
        As the pipeline file has them.
    """

    from_ms: int
    to_ms: int
    known_ms: int
    maturity_ms: int
    horizon_ms: int

    def is_old_enough(self, event_time_ms: Ints) -> NDArray[np.bool_]:
        """Whether the labels of each event must have come by the time up to which labels are known."""
        return np.asarray(event_time_ms + self.maturity_ms <= self.known_ms, np.bool_)

    def ages_ms(self, event_time_ms: Ints) -> Floats:
        """How old each event was at the time up to which labels are known."""
        return (self.known_ms - event_time_ms).astype(np.float64)

    @property
    def are_within_horizon(self) -> bool:
        """Whether labels may still come to all events of the range."""
        return self.known_ms - self.from_ms < self.horizon_ms


@dataclass(frozen=True, eq=False)
class Maturity:
    """What is known of the labels of a range of events.

    Parameters
    ----------
    law
        Of the delays that were seen up to the time up to which labels are known.
    n_events
        Events of the range.
    mature
        Of those old enough: without a label, with label 0, with label 1.
    young
        Of the others, likewise.
    arrived
        The shares of the labels 0 and 1 of those old enough that are here, by the law at their ages; 1 without one.
    held
        What was read.
    """

    times: LabelTimes
    law: DelayLaw
    n_events: int
    mature: tuple[int, int, int]
    young: tuple[int, int, int]
    arrived: tuple[float, float]
    held: Held

    @classmethod
    def of(cls, event_time_ms: Ints, labels: Floats, law: DelayLaw, times: LabelTimes, held: Held) -> Maturity:
        """Count events by age and label (NaN: none)."""
        is_mature = times.is_old_enough(event_time_ms)
        kind = np.where(np.isnan(labels), 0, labels + 1).astype(np.int64)
        mature, young = (np.bincount(kind[rows], minlength=3).tolist() for rows in (is_mature, ~is_mature))
        ages = times.ages_ms(event_time_ms[is_mature])
        arrived = [
            float(law.arrived(label, ages).mean()) if len(ages) and law.is_known(label) else 1.0 for label in (0, 1)
        ]
        return cls(
            times=times,
            law=law,
            n_events=len(event_time_ms),
            mature=(mature[0], mature[1], mature[2]),
            young=(young[0], young[1], young[2]),
            arrived=(arrived[0], arrived[1]),
            held=held,
        )

    @property
    def needed_ms(self) -> float:
        """By which age 99 % of either label have come, as far as it is known."""
        return float(np.fmax(self.law.within_ms(0, ENOUGH), self.law.within_ms(1, ENOUGH)))

    @property
    def unlabelled(self) -> float:
        """The share of the events old enough that have no label."""
        n_mature = sum(self.mature)
        return self.mature[0] / n_mature if n_mature else 0.0

    def warnings(self) -> list[str]:
        """Sentences on what is right, and could be better; first of all, `check`."""
        times = self.times
        self.check()
        said = [*self.held.say_refused(), *maturity_warnings(self.law, times.maturity_ms, times.horizon_ms)]
        if self.unlabelled > _MANY_UNLABELLED:
            said.append(
                f"{self.unlabelled:.0%} of the {sum(self.mature):,} events that are old enough have no label: what is"
                " learnt holds for events that get one, and if those are chosen (by their score, say) for nothing else;"
                " have a 0 sent for every event of which nothing else is known"
                + (
                    "; or labels take longer than these events are old, then have --from begin earlier."
                    * times.are_within_horizon
                    or "."
                )
            )
        for label, name in ((1, "positive"), (0, "negative")):
            n, n_labelled = self.mature[1 + label], self.mature[1] + self.mature[2]
            if n < _SOFT_FLOOR:
                low, high = map(say_share, wilson(n / n_labelled, n_labelled))
                said.append(
                    f"Only {n} of the {n_labelled:,} labelled events are {name} ({say_share(n / n_labelled)}): with so"
                    f" few, the true rate may be anything from {low} to {high}, and little can be said of later"
                    f" windows; train on {_SOFT_FLOOR} or more, of a longer time."
                )
        return said

    def describe(self) -> list[str]:
        """What is learnt from and what is left out, by reason; of events without any, nothing."""
        times = self.times
        if not self.n_events:
            return []
        read = f"{self.n_events:,} events read in that time"
        if not self.held.n_labels:
            return [f"{read}; no label of any event is known."]
        young, mature = sum(self.young), sum(self.mature)
        left_out = (
            f"{mature - self.mature[0]:,} are learnt from. Left out: {young:,} younger than {say_ms(times.maturity_ms)}"
            f" then (performance.maturity), {young - self.young[0]:,} of them with a label; {self.mature[0]:,} old"
            " enough that have none."
        )
        words = [f"{read}; labels are known up to {say_time(times.known_ms)}.", left_out]
        laws = [self.law.describe(label) for label in (0, 1)]
        if self.law.is_known(0) or self.law.is_known(1):
            words.append(f"Of the delays: {'; '.join(laws)}.")
        return words

    def facts(self, n_weighed: int) -> LabelFacts:
        """For the manifest; ``n_weighed``: the young events that are fitted on by weight."""
        times = self.times
        delays = [
            LabelDelay(label, self.law.n[label], self.law.within_ms(label, 0.5), self.law.within_ms(label, ENOUGH))
            for label in (0, 1)
            if self.law.is_known(label)
        ]
        young = sum(self.young)
        return LabelFacts(
            known_ms=times.known_ms,
            maturity_ms=times.maturity_ms,
            young_rows=young,
            young_labelled_rows=young - self.young[0],
            unlabelled_rows=self.mature[0],
            weighed_rows=n_weighed,
            delays=tuple(delays),
        )

    def check(self) -> None:
        """Raise MaturityError when a model of these labels cannot be right."""
        times = self.times
        n_labelled = self.mature[1] + self.mature[2]
        if not self.n_events:
            raise MaturityError(self.held.say_no_events(times.from_ms, times.to_ms))
        maturity = say_ms(times.maturity_ms)
        if not n_labelled + self.young[1] + self.young[2]:
            raise MaturityError(self.held.say_no_labels(self.n_events, times.to_ms))
        if not sum(self.mature):
            raise MaturityError(
                f"None of the {self.n_events:,} events was {maturity} old (performance.maturity) when the last label"
                f" was known, at {say_time(times.known_ms)}: have --to end later than {maturity} after --from, or"
                f" --from begin well before {say_time(times.known_ms - times.maturity_ms)}."
            )
        if not n_labelled:
            raise MaturityError(
                f"None of the {sum(self.mature):,} events that were {maturity} old (performance.maturity) at the newest"
                f" label, {say_time(times.known_ms)}, has one, and {self.young[1] + self.young[2]:,} younger events do:"
                " have --to end later, when these are old enough, or begin with --from where labels were sent."
            )
        for label in (0, 1):
            if not self.mature[1 + label]:
                raise MaturityError(self._say_one_class(label))
        for label in (1, 0):
            if times.are_within_horizon and not self.law.is_known(label):
                raise MaturityError(
                    f"{self.law.n[label]} labels {label} are too few to say how long they take, and no event is as old"
                    f" as labels.horizon ({say_ms(times.horizon_ms)}): have --from begin earlier, or --to end later."
                )
            if self.unlabelled > _MANY_UNLABELLED and self.law.is_still_coming(label, times.horizon_ms):
                raise MaturityError(
                    f"Labels {label} were still coming at the greatest age that was seen"
                    f" ({say_ms(self.law.reach_ms[label])}), and {self.unlabelled:.0%} of the events that are"
                    f" {maturity} old (performance.maturity) have none: delays are longer than these data; have --from"
                    " begin earlier, or --to end later, and set performance.maturity to what `model train` then says."
                )
        self._refuse_bias()

    def _say_one_class(self, label: int) -> str:
        """Of labels of which none has come to events that are old enough."""
        times = self.times
        maturity, n = say_ms(times.maturity_ms), self.mature[2 - label]
        said = f"All {n:,} labels of events that were {maturity} old (performance.maturity) are {1 - label}"
        least = self.law.within_ms(label, ENOUGH)
        if least > times.maturity_ms:
            return (
                f"{said}, and labels {label} take up to {say_ms(least)}: set performance.maturity to that, and have"
                f" --to end later than {say_ms(least)} after --from."
            )
        if self.unlabelled > _MANY_UNLABELLED:
            send = "send them" if label else "send one for each event as soon as no 1 can come any more"
            return (
                f"{said}, and {self.mature[0]:,} such events have none: either nobody sends labels {label}, then"
                f" {send}; or they take longer than these events are old, then have --to end later, and set"
                " performance.maturity and labels.horizon to more than that."
            )
        return (
            f"{said}: labels {label} are rare, then have --from begin earlier, or --to end later; or nobody sends them"
            f" ({self.mature[0]:,} such events have none), and a model needs both."
        )

    def _refuse_bias(self) -> None:
        times = self.times
        here = self.mature[1:]
        if not min(self.arrived) or not min(here):
            return
        due = [n / share for n, share in zip(here, self.arrived, strict=True)]
        rate, true_rate = here[1] / sum(here), due[1] / sum(due)
        if abs(rate - true_rate) <= _MOST_BIAS * true_rate:
            return
        raise MaturityError(
            f"Of events that were {say_ms(times.maturity_ms)} old (performance.maturity), {self.arrived[1]:.0%} of the"
            f" labels 1 and {self.arrived[0]:.0%} of the labels 0 have come, so {say_share(rate)} would be positive in"
            f" place of {say_share(true_rate)}: set performance.maturity to {say_ms(self.needed_ms)}, by which 99 % of"
            " either have come, and have --to end at least so long after --from."
        )


def weigh(law: DelayLaw, labels: Floats, ages_ms: Floats) -> Floats:
    """How many events each labelled event stands for: the inverse probability that such a label is here at its age.

    The weight is 0 at ages at which fewer than 10 % of either label are here. The missing label cannot be made up for
    there, and a model that counted the other one alone would learn that it is frequent.

    Raises
    ------
    MaturityError
        Where the law of either label is not known.
    """
    for label in (0, 1):
        if law.n[label] < FEWEST_LABELS or not law.is_known(label):
            raise MaturityError(
                f"Events cannot be weighed by how many labels are here at their age, which {law.n[label]} labels"
                f" {label} do not say; leave them out, or have --from begin earlier, for {FEWEST_LABELS} of them."
            )
    here = np.stack([law.arrived(label, ages_ms) for label in (0, 1)])
    own = np.where(labels == 1, here[1], here[0])
    return np.where(here.min(axis=0) >= _LEAST_SHARE, 1 / np.maximum(own, _LEAST_SHARE), 0.0)
