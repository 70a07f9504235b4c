"""Compares the scores of a replay with those of the stream, bit for bit."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.wire import Score

#: Fields that must be equal. Where and when an event was scored may differ, and so may its reasons.
COMPARED = ("event_id", "entity", "event_time_ms", "score", "decision", "model", "version", "feature_set")


@dataclass(frozen=True)
class Difference:
    """One value of one event that differs."""

    partition: int
    offset: int
    event_id: str
    what: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return (
            f"partition {self.partition} offset {self.offset} ({self.event_id}): {self.what} was {self.recorded!r},"
            f" is {self.replayed!r}"
        )


@dataclass
class ScoreCheck:
    """Collects recorded and replayed scores, interleaved in any way, and compares those of the same event.

    Recorded scores that are ``stale`` are counted and not compared: they were published before labels that a replay has
    in time. Memory holds the scores that only one side has given so far.

    Attributes
    ----------
    different
        Events with at least one difference.
    by_kind
        How many values differ, by field or feature.
    doubled
        How many recorded scores are of an event that had one.
    """

    keep: int = 20
    equal: int = 0
    stale: int = 0
    different: int = 0
    doubled: int = 0
    first: list[Difference] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)
    _decode: Any = field(default_factory=lambda: msgspec.json.Decoder(Score).decode, repr=False)
    _recorded: dict[tuple[int, int], Score] = field(default_factory=dict, repr=False)
    _replayed: dict[tuple[int, int], bytes] = field(default_factory=dict, repr=False)
    _seen: dict[int, int] = field(default_factory=dict, repr=False)

    def add_recorded(self, value: bytes) -> None:
        """Take a score as it was published."""
        score: Score = self._decode(value)
        place = score.source.partition, score.source.offset
        if place[1] <= self._seen.get(place[0], -1):
            self.doubled += 1
            return
        self._seen[place[0]] = place[1]
        other = self._replayed.pop(place, None)
        if other is None:
            self._recorded[place] = score
        else:
            self._compare(score, self._decode(other))

    def add_replayed(self, partition: int, offset: int, value: bytes) -> None:
        """Take a score of the replay, as it would be published."""
        recorded = self._recorded.pop((partition, offset), None)
        if recorded is None:
            self._replayed[partition, offset] = value
        else:
            self._compare(recorded, self._decode(value))

    @property
    def not_recorded(self) -> int:
        """Events that only the replay has scored: the recording was made before they were, or their score was lost."""
        return len(self._replayed)

    @property
    def not_replayed(self) -> int:
        """Events with a recorded score that the replay did not score."""
        return len(self._recorded)

    @property
    def missing(self) -> int:
        """Of ``not_recorded``, events before the last recorded score of their partition: these were lost."""
        return sum(offset < self._seen.get(partition, -1) for partition, offset in self._replayed)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs; unscored events at the end of the recording do not count."""
        return not (self.different or self.not_replayed or self.missing or self.doubled)

    def differences(self) -> list[Difference]:
        """The first differences, those of whole scores included."""
        lost = [
            Difference(*place, score.event_id, "score", score.score, None) for place, score in self._recorded.items()
        ]
        gone = [
            Difference(*place, score.event_id, "score", None, score.score)
            for place, value in self._replayed.items()
            if place[1] < self._seen.get(place[0], -1)
            for score in (self._decode(value),)
        ]
        return [*self.first, *lost, *gone][: self.keep]

    def _compare(self, recorded: Score, replayed: Score) -> None:
        if recorded.stale:
            self.stale += 1
            return
        differing = [
            (what, getattr(recorded, what), getattr(replayed, what))
            for what in COMPARED
            if _bits(getattr(recorded, what)) != _bits(getattr(replayed, what))
        ]
        if recorded.features and replayed.features:
            names = dict.fromkeys([*recorded.features, *replayed.features])
            pairs = [(name, recorded.features.get(name), replayed.features.get(name)) for name in names]
            differing += [(name, served, again) for name, served, again in pairs if _bits(served) != _bits(again)]
        if not differing:
            self.equal += 1
            return
        self.different += 1
        self.by_kind.update(what for what, _, _ in differing)
        place = recorded.source.partition, recorded.source.offset
        room = self.keep - len(self.first)
        self.first += [Difference(*place, recorded.event_id, *values) for values in differing[:room]]


def _bits(value: Any) -> Any:
    """A float as its bits, so that -0.0 is not 0.0; anything else as it is."""
    return struct.pack("<d", value) if isinstance(value, float) else value
