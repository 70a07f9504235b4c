"""What was read to train on, in the range and beyond it, and what to say where that is too little."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """How many events or labels could not be read, and what was wrong with the first."""

    n: int = 0
    why: str = ""

    def __add__(self, other: Refused) -> Refused:
        return Refused(self.n + other.n, self.why or other.why)


@dataclass(frozen=True)
class Held:
    """What was read.

    Parameters
    ----------
    first_ms, last_ms
        The times of the first and the last event; None: there is none.
    n_labels
        Labels of events, known before the end of the range.
    first_label_ms
        When the first label of any event counts; None: none does.
    n_strays
        Labels of no event that was read, or that came after the horizon.
    refused_events, refused_labels
        What could not be read.
    """

    first_ms: int | None
    last_ms: int | None
    n_labels: int
    first_label_ms: int | None = None
    n_strays: int = 0
    refused_events: Refused = Refused()
    refused_labels: Refused = Refused()

    def say_refused(self) -> list[str]:
        """A sentence for labels and one for events that could not be read, if there were any."""
        return [
            f"{refused.n:,} {what} could not be read and are left out, the first because: {refused.why}"
            for what, refused in (("labels", self.refused_labels), ("events", self.refused_events))
            if refused.n
        ]

    def say_no_events(self, from_ms: int, to_ms: int) -> str:
        """Of a range without events: what was read, and what to do."""
        if self.first_ms is not None and self.last_ms is not None:
            return (
                f"No event lies between {say_time(from_ms)} (--from) and {say_time(to_ms)} (--to): those that were read"
                f" are from {say_time(self.first_ms)} to {say_time(self.last_ms)}; choose --from and --to within that."
            )
        if self.refused_events.n:
            return f"None of the {self.refused_events.n:,} events could be read, {_because(self.refused_events)}"
        return (
            "No event was read at all: choose other times by --from and --to, or name by --recording a file that holds"
            " events (labels alone are not enough)."
        )

    def say_no_labels(self, n_events: int, to_ms: int) -> str:
        """Of a range whose events have no label: why not, and what to do."""
        none = f"None of the {n_events:,} events has a label that was known by {say_time(to_ms)} (--to)"
        if self.n_labels:
            return f"{none}, though others have: have --to end later, or --from begin earlier."
        if self.first_label_ms is not None:
            return f"{none}, and the first label came at {say_time(self.first_label_ms)}: have --to end later."
        if self.n_strays:
            return (
                f"None of the {self.n_strays:,} labels is of an event that was read: their `event_id` has to be the"
                " event's id (the field that [events] id names), their key the entity's, and their time within"
                " labels.horizon of the event's."
            )
        if self.refused_labels.n:
            return f"None of the {self.refused_labels.n:,} labels could be read, {_because(self.refused_labels)}"
        return (
            f"The data hold no label at all, for {n_events:,} events, and a model needs both outcomes: send a 0 or a 1"
            " for each event to the labels topic and record again, or have the pipeline's source give them."
        )


def _because(refused: Refused) -> str:
    return f"the first because: {refused.why}"


def say_share(share: float) -> str:
    """A share in percent, with two digits of whichever of it and the rest is smaller.

    Examples
    --------
    >>> [say_share(each) for each in (0, 0.00038, 0.033, 0.8249, 0.9996, 1)]
    ['0%', '0.038%', '3.3%', '82%', '99.960%', '100%']
    """
    percent = 100 * share
    smaller = min(percent, 100 - percent)
    digits = min(max(1 - math.floor(math.log10(smaller)), 0), 9) if smaller > 0 else 0
    return f"{percent:.{digits}f}%"


def say_time(time_ms: int) -> str:
    """A time in UTC, to the minute.

    Examples
    --------
    >>> say_time(1_357_000_000_000)
    '2013-01-01 00:26'
    """
    return dt.datetime.fromtimestamp(time_ms / 1000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M")
