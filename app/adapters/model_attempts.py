"""Which announced versions are to be tried, and when again: what is refused today may be there tomorrow.

An attempt is of a version, the digest of its artifact and the place where it is said to be, so that an announcement
with a wrong place spoils nothing for the right one. What is wrong with the place (nothing is there, a file cannot be
read or is not whole) may pass: it is tried again, with growing pauses. What is wrong with the version itself stays
wrong until its files are others, or somebody announces it again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from models.registry import Stamp
from schemas.wire import ModelUpdate

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

#: Model, version and digest: what is loaded. And where it is: what is tried.
Content = tuple[str, str, str]
Place = tuple[str, str, str, str]


def content_of(update: ModelUpdate) -> Content:
    return update.model, update.version, update.sha256


def place_of(update: ModelUpdate) -> Place:
    return *content_of(update), update.uri


@dataclass
class Attempt:
    """What became of an announced version.

    ``why``: of its refusal, "" when it was never tried. ``stamp``: of the files that were refused; None when it is to
    be tried whatever they are. ``due_s``: when it is to be tried again.
    """

    update: ModelUpdate
    why: str = ""
    stamp: Stamp | None = None
    pause_s: float = FIRST_PAUSE_S
    due_s: float = 0.0
    is_running: bool = False
    #: Set when the thread has ended that was not waited for any longer; None: there is none.
    given_up: threading.Event | None = None

    def refuse(self, why: str, stamp: Stamp | None, now_s: float) -> bool:
        """Note a refusal; whether it says something new."""
        is_news = why != self.why
        self.why, self.stamp = why, stamp
        self.wait(now_s)
        return is_news

    def wait(self, now_s: float) -> None:
        """Look again later, and later each time."""
        self.due_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)

    def ask_again(self) -> None:
        """Somebody has announced it again: it is tried at once, whatever is known of it."""
        self.stamp, self.pause_s, self.due_s = None, FIRST_PAUSE_S, 0.0


class Attempts:
    """Of one worker. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._attempts: dict[Place, Attempt] = {}

    def announce(self, update: ModelUpdate) -> None:
        """An update has come, of a version that shall score."""
        found = self._attempts.get(place_of(update))
        if found is not None:
            found.ask_again()

    def due(self, champions: Iterable[ModelUpdate], loaded: Iterable[Content], now_s: float) -> Iterator[Attempt]:
        """What is to be tried now: of the champions, those that are not loaded; each once, where it stands last."""
        known, places = set(loaded), dict[Place, ModelUpdate]()
        for update in champions:
            if content_of(update) not in known:
                places.pop(place_of(update), None)
                places[place_of(update)] = update
        for place, update in places.items():
            attempt = self._attempts.setdefault(place, Attempt(update))
            is_stuck = attempt.given_up is not None and not attempt.given_up.is_set()
            if not attempt.is_running and not is_stuck and attempt.due_s <= now_s:
                yield attempt

    def refused_files(self, content: Content) -> dict[Stamp, str]:
        """Files of a version that were refused, wherever they were said to be, and why."""
        tried = (attempt for place, attempt in self._attempts.items() if place[:3] == content)
        return {attempt.stamp: attempt.why for attempt in tried if attempt.stamp is not None}

    @property
    def is_running(self) -> bool:
        return any(attempt.is_running for attempt in self._attempts.values())

    @property
    def has_untried(self) -> bool:
        """Whether there is no verdict yet of something that is being tried."""
        return any(attempt.is_running and not attempt.why for attempt in self._attempts.values())
