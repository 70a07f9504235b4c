"""How each version stands, from what was announced and from what workers reported of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from models.versions.timeline import Timeline
from schemas.wire import ModelStatus, ModelUpdate

#: Besides the roles that can be announced: champion by announcement, and refused by every worker that has looked at it.
REFUSED = "refused"


@dataclass(frozen=True)
class Standing:
    """``update``: the last one of the version. ``at_ms``: since when it stands like this, as far as that is known."""

    update: ModelUpdate
    role: str
    why: str
    by: str
    at_ms: int


@dataclass
class _Said:
    """What workers have said of one version with one artifact; ``refused``: by worker, when and why."""

    is_loaded: bool = False
    at_ms: int = 0
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)


class Standings:
    """How the versions of one pipeline stand: fed with both topics' records, each topic's in their order."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._last: dict[str, ModelUpdate] = {}
        self._said: dict[tuple[str, str], _Said] = {}
        self._now: tuple[ModelUpdate | None, dict[str, str]] | None = None

    def observe_update(self, update: ModelUpdate) -> None:
        """Take the next record of the model-update topic."""
        self.timeline.observe(update)
        self._last.pop(update.version, None)
        self._last[update.version] = update
        self._now = None

    def observe_status(self, status: ModelStatus) -> None:
        """Take a record of the model-status topic. One that names no digest speaks of all of them."""
        if status.version is None:
            return
        self._now = None
        said = self._said.setdefault((status.version, status.sha256), _Said())
        said.at_ms = max(said.at_ms, status.at_ms)
        if status.status == REFUSED:
            said.refused[status.worker] = status.at_ms, status.why
        else:
            said.is_loaded = True
            said.refused.pop(status.worker, None)

    def champion(self) -> ModelUpdate | None:
        """The promotion that was announced last among those that are not refused."""
        return self._look()[0]

    def refused(self) -> dict[str, str]:
        """Versions that are announced as champion and refused, and why."""
        return self._look()[1]

    def _look(self) -> tuple[ModelUpdate | None, dict[str, str]]:
        """Both, computed once after a record: there may be thousands of versions, and this is called all the time."""
        if self._now is None:
            champion = next(
                (promotion for promotion in reversed(self.timeline.champions) if not self._refusal(promotion)), None
            )
            refused = {
                update.version: why
                for update in self._last.values()
                if update.role == "champion" and (why := self._refusal(update))
            }
            self._now = champion, refused
        return self._now

    def all(self) -> Iterator[Standing]:
        """How each version stands."""
        champion = self.champion()
        follower = champion or self.timeline.newest()
        since_ms = self._since(champion) if champion is not None else 0  # once: it may have followed thousands
        for update in self._last.values():
            if update.role != "champion":
                yield Standing(update, update.role, update.why, update.by, update.announced_at_ms)
            elif why := self._refusal(update):
                yield Standing(update, REFUSED, why, update.by, max(update.announced_at_ms, self._said_at(update)))
            elif champion is not None and update.version == champion.version:
                yield Standing(update, "champion", update.why, update.by, self._since(update))
            elif follower is not None:
                newest = self._last[follower.version]
                words = "rolled back to" if newest.is_rollback else "superseded by"
                at_ms = max(update.announced_at_ms, newest.announced_at_ms, since_ms)
                yield Standing(update, "retired", f"{words} {follower.version}", newest.by, at_ms)
            else:  # rolled back to a version that is retired itself by now
                yield Standing(update, "retired", "rolled back", "", update.announced_at_ms)

    def _since(self, champion: ModelUpdate) -> int:
        """When a champion became champion: when it was announced or loaded after all, or later ones were refused."""
        later = [promotion for promotion in self.timeline.champions if self._refusal(promotion)]
        announced_ms = self._last[champion.version].announced_at_ms
        return max([announced_ms, self._loaded_at(champion), *map(self._said_at, later)])

    def _loaded_at(self, update: ModelUpdate) -> int:
        """When a version that had been refused was loaded; 0 when it never was refused."""
        said = self._said.get((update.version, update.sha256))
        return said.at_ms if said is not None and said.is_loaded and said.refused else 0

    def _said_at(self, update: ModelUpdate) -> int:
        """When workers last spoke of a version; they must have spoken of it."""
        return max(said.at_ms for said in self._about(update))

    def _about(self, update: ModelUpdate) -> list[_Said]:
        places = ((update.version, update.sha256), (update.version, ""))
        return [self._said[place] for place in places if place in self._said]

    def _refusal(self, update: ModelUpdate) -> str:
        """Why every worker that has looked at a version refuses it; "" when none does, or any has loaded it."""
        about = self._about(update)
        if any(said.is_loaded for said in about):
            return ""
        refusals = [refusal for said in about for refusal in said.refused.values()]
        return max(refusals)[1] if refusals else ""
