"""What the demo streams, how far it is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field


class DemoError(RuntimeError):
    """The demo cannot go on; one sentence that says why and where to look."""


@dataclass(frozen=True)
class Progress:
    """How far the stream is. ``share`` in [0, 1]; ``training`` names what is being trained, if anything."""

    share: float
    events: int
    events_per_second: float
    lag: int
    at_ms: int
    training: str


@dataclass(frozen=True)
class Retrain:
    """A version made in mid-stream.

    ``started_at``, ``swapped_at``: events sent when training began and when the version scored; ``started_ms``: event
    time of the former.
    """

    version: str
    from_ms: int
    to_ms: int
    why: str
    seconds: float
    started_at: int
    started_ms: int
    swapped_at: int
    held_to: int


@dataclass(frozen=True)
class Course:
    """What to stream, and when to retrain.

    Parameters
    ----------
    limit
        Events at most; None: all from ``from_ms`` to ``to_ms``.
    retrain_at
        Retrain once so many events are sent, whatever the monitor says.
    most_retrains
        No more than so many.
    expected_training_s
        How long a training takes, to choose the rate that the stream is held to.
    """

    from_ms: int
    to_ms: int
    limit: int | None
    family: str
    retrain_at: int | None
    most_retrains: int
    expected_training_s: float


@dataclass
class Sent:
    """What was sent, and how fast it was taken while nothing held it back."""

    events: int = 0
    labels: int = 0
    at_ms: int = 0
    last_event_ms: int = 0
    seconds: float = 0.0
    free_events: int = 0
    free_seconds: float = 0.0
    retrains: list[Retrain] = field(default_factory=list)

    def share_of(self, course: Course) -> float:
        """How much of the course has been sent, in [0, 1]."""
        by_time = (self.at_ms - course.from_ms) / (course.to_ms - course.from_ms) if self.at_ms else 0.0
        by_count = self.events / course.limit if course.limit else 0.0
        return min(1.0, max(by_time, by_count))
