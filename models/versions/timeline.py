"""The timeline of a pipeline's model versions, built from the records of the model-update topic in offset order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from schemas.wire import ModelUpdate

#: A record with one of these roles takes its version off the timeline, until a later record promotes it again.
REMOVING_ROLES = frozenset({"retired", "unusable"})
#: Before all event times.
ALWAYS_MS = -(2**62)


class Span(NamedTuple):
    """Event times from ``from_ms`` (None: the beginning) to ``to_ms`` (None: the end); None: nobody scores them."""

    from_ms: int | None
    to_ms: int | None
    champion: ModelUpdate | None


class Timeline:
    """Which version was, is and will be champion. The same records give the same answers.

    Promotions that stand are a stack. A promotion is put on top (one that promotes the champion again, with nothing
    new, takes its place); a roll back takes off what was promoted since, as if it had never been; a version that is
    retired or called unusable is taken out. The champion at event time t is the topmost promotion whose
    ``valid_from_ms`` is None or <= t. Where there is none, events are left unscored.
    """

    def __init__(self, updates: Iterable[ModelUpdate] = ()) -> None:
        self._updates: list[ModelUpdate] = []
        self._champions: list[ModelUpdate] = []
        for update in updates:
            self.observe(update)

    def observe(self, update: ModelUpdate) -> None:
        """Take the next record, in offset order."""
        self._updates.append(update)
        if update.role in REMOVING_ROLES:
            self._champions = [champion for champion in self._champions if not _is_same(champion, update)]
        elif update.role == "champion":
            kept = self.kept_by_rollback(update) if update.is_rollback else None
            if kept is not None:
                del self._champions[kept:]
                return
            if self._champions and _is_again(self._champions[-1], update):
                del self._champions[-1]  # it is announced once more, and there is nothing to go back to
            self._champions.append(update)

    @property
    def updates(self) -> tuple[ModelUpdate, ...]:
        """Every record seen, oldest first."""
        return tuple(self._updates)

    @property
    def champions(self) -> tuple[ModelUpdate, ...]:
        """The promotions that still stand, oldest first."""
        return tuple(self._champions)

    @property
    def announced(self) -> tuple[ModelUpdate, ...]:
        """The newest promotion of each version that may have scored something and was not taken off since."""
        promotions: dict[tuple[str, str], ModelUpdate] = {}
        for update in self._updates:
            if update.role in REMOVING_ROLES:
                promotions.pop((update.model, update.version), None)
            elif update.role == "champion":
                promotions[update.model, update.version] = update
        return tuple(promotions.values())

    def champion_at(self, event_time_ms: int) -> ModelUpdate | None:
        """Return the promotion whose version scores an event of this time; None when there is none."""
        for champion in reversed(self._champions):
            if champion.valid_from_ms is None or champion.valid_from_ms <= event_time_ms:
                return champion
        return None

    def spans(self) -> Iterator[Span]:
        """Which version scores which event times, from the beginning to the end of time; neighbours are never alike."""
        first = Span(
            None,
            None,
            next((promotion for promotion in reversed(self._champions) if promotion.valid_from_ms is None), None),
        )
        for from_ms in sorted(
            {promotion.valid_from_ms for promotion in self._champions if promotion.valid_from_ms is not None}
        ):
            champion = self.champion_at(from_ms)
            if champion is None or first.champion is None or not _is_same(champion, first.champion):
                yield first._replace(to_ms=from_ms)
                first = Span(from_ms, None, champion)
        yield first

    def newest(self) -> ModelUpdate | None:
        """Return the champion: the promotion on top, whether or not its time has come."""
        return self._champions[-1] if self._champions else None

    def previous(self) -> ModelUpdate | None:
        """Return the promotion that a roll back of the champion goes back to."""
        return self._champions[-2] if len(self._champions) > 1 else None

    def kept_by_rollback(self, back_to: ModelUpdate) -> int | None:
        """How many promotions stand after a roll back to a version; None when it is not below the champion."""
        for place in range(len(self._champions) - 2, -1, -1):
            if _is_same(self._champions[place], back_to):
                return place + 1
        return None


class Begins:
    """From which event time on a stream has scored, as its timeline grew.

    An event before that time may have been left unscored when it was read. Later, a roll back or a version that is
    valid sooner may have moved the time; only the versions in scores tell which events were read before that. So this
    gives the latest time that is possible.

    Parameters
    ----------
    score_from_ms
        Event time before which the pipeline file leaves events unscored.
    refused
        Versions that the workers may have refused; then they began nothing.
    """

    def __init__(
        self, updates: Sequence[ModelUpdate], score_from_ms: int | None, refused: frozenset[str] = frozenset()
    ) -> None:
        self._least_ms = score_from_ms if score_from_ms is not None else ALWAYS_MS
        self._first: dict[str, int] = {}
        timeline, begins = Timeline(), []
        for place, update in enumerate(updates):
            timeline.observe(update)
            standing = [
                champion for champion in timeline.champions if champion.version not in refused
            ] or timeline.champions
            begins.append(min((_begin_of(champion) for champion in standing), default=ALWAYS_MS))
            if update.role == "champion":
                self._first.setdefault(update.version, place)
        #: From each step of the timeline on: the latest time from which it has scored.
        self._from = list(accumulate([ALWAYS_MS, *reversed(begins)], max))[::-1]

    @property
    def highest_ms(self) -> int:
        """The latest of all; `ALWAYS_MS` when no event was ever left unscored."""
        return max(self._least_ms, self._from[0])

    def of(self, starts: Sequence[tuple[int, str]]) -> list[int]:
        """The time before the first start of a version in a partition, and the one from each start on."""
        step, times_ms = 0, [self.highest_ms]
        for _, version in starts:
            step = max(step, self._first.get(version, 0))
            times_ms.append(max(self._least_ms, self._from[step]))
        return times_ms if starts else times_ms * 2


def _is_same(one: ModelUpdate, other: ModelUpdate) -> bool:
    return (one.model, one.version) == (other.model, other.version)


def _is_again(champion: ModelUpdate, update: ModelUpdate) -> bool:
    """Whether nothing is new: an update with a wrong place or digest does not replace the one that was right."""
    content, other = ((promotion.uri, promotion.sha256, promotion.valid_from_ms) for promotion in (champion, update))
    return _is_same(champion, update) and content == other


def _begin_of(champion: ModelUpdate) -> int:
    return champion.valid_from_ms if champion.valid_from_ms is not None else ALWAYS_MS
