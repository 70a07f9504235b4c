"""The timeline of a pipeline's model versions, built from the records of the model-update topic in offset order."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.wire import ModelUpdate

#: A record with one of these roles takes its version off the timeline, until a later record promotes it again.
REMOVING_ROLES = frozenset({"retired", "unusable"})


class Timeline:
    """Which version was, is and will be champion. Pure: the same records give the same answers.

    The champion at event time t is the champion record of the highest offset whose ``valid_from_ms`` is None or <= t
    and whose version has no later record that retires it or calls it unusable.
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
            self._champions = [
                champion
                for champion in self._champions
                if (champion.model, champion.version) != (update.model, update.version)
            ]
        elif update.role == "champion":
            self._champions.append(update)

    @property
    def updates(self) -> tuple[ModelUpdate, ...]:
        """Every record seen, oldest first."""
        return tuple(self._updates)

    @property
    def champions(self) -> tuple[ModelUpdate, ...]:
        """The promotions that still stand, oldest first."""
        return tuple(self._champions)

    def champion_at(self, event_time_ms: int) -> ModelUpdate | None:
        """Return the record whose version scores an event of this time; None when there is none."""
        for champion in reversed(self._champions):
            if champion.valid_from_ms is None or champion.valid_from_ms <= event_time_ms:
                return champion
        return None

    def newest(self) -> ModelUpdate | None:
        """Return the promotion that was announced last, whether or not its time has come."""
        return self._champions[-1] if self._champions else None

    def previous(self) -> ModelUpdate | None:
        """Return what a roll back promotes again: the promotion before the newest.

        Promoting a version that is already on the way back undoes everything promoted since, so that rolling back twice
        goes back two versions instead of forth again: after 1, 2, 3 and a roll back (2), the previous one is 1.
        """
        stack: list[ModelUpdate] = []
        for champion in self._champions:
            versions = [(earlier.model, earlier.version) for earlier in stack]
            if (champion.model, champion.version) in versions:
                del stack[versions.index((champion.model, champion.version)) :]
            stack.append(champion)
        return stack[-2] if len(stack) > 1 else None
