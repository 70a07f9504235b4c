"""Which dead letters go back to where they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from app.core.entities.copies import read_origin
from schemas.topics import ORIGIN_HEADER, Topics
from schemas.wire import DeadLetter

#: Header of a record that was sent back: where it was read first.
REPLAYED_HEADER = "streamgauge-replayed-from"

#: Partition and offset on the topic of dead letters.
Place = tuple[int, int]


@dataclass(frozen=True)
class Wanted:
    """What is asked for; empty or None: everything. Times are half-open and those of the rejection."""

    reasons: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    from_ms: int | None = None
    to_ms: int | None = None
    #: Whether to select also what was sent back before and was rejected again.
    again: bool = False

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a letter is asked for, whether or not it was sent back before."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.stages or letter.stage in self.stages)
            and (self.from_ms is None or letter.rejected_at_ms >= self.from_ms)
            and (self.to_ms is None or letter.rejected_at_ms < self.to_ms)
        )


@dataclass
class Selection:
    """The letters to send, in the order of their topic, and how many are left out for which reason.

    Attributes
    ----------
    counts
        Letters to send by stage and reason.
    unmatched
        Letters that were not asked for, by stage and reason.
    done
        Letters that were sent back before.
    repeated
        Letters whose record had been sent back before and was rejected again.
    """

    letters: list[tuple[Place, DeadLetter]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    unmatched: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: int = 0
    repeated: int = 0


def select(letters: Iterable[tuple[Place, DeadLetter]], wanted: Wanted, done: Collection[Place]) -> Selection:
    """Choose among the letters.

    Parameters
    ----------
    done
        Places of the letters that were sent back before.
    """
    selection = Selection()
    for place, letter in letters:
        kind = letter.stage, letter.reason
        if not wanted.matches(letter):
            selection.unmatched[kind] += 1
        elif place in done:
            selection.done += 1
        elif not wanted.again and any(name == REPLAYED_HEADER for name, _ in letter.headers):
            selection.repeated += 1
        else:
            selection.letters.append((place, letter))
            selection.counts[kind] += 1
    return selection


def mark(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of a letter's record when it is sent back: its own, and where it was read."""
    source = letter.source
    own = [(name, data) for name, data in letter.headers if name != REPLAYED_HEADER]
    return [*own, (REPLAYED_HEADER, f"{source.topic}/{source.partition}/{source.offset}".encode())]


def address(letter: DeadLetter, topics: Topics) -> tuple[str, int, list[tuple[str, bytes]]]:
    """Topic and partition to send a letter's record back to, and its headers; for a copy, those of the original."""
    source = letter.source
    origin = read_origin(letter.headers) if topics.by_entity else None
    if origin is None or origin[0] >= topics.partitions:  # no router wrote this header
        return source.topic, source.partition, mark(letter)
    topic = topics.sent_labels if source.topic == topics.labels else topics.sent_events
    return topic, origin[0], [header for header in mark(letter) if header[0] != ORIGIN_HEADER]
