"""Which announced versions are to be tried, and when again: what is missing today may be there tomorrow.

An attempt is of a version, the digest of its artifact and the place where it is said to be, so that an announcement
with a wrong place spoils nothing for the right one. What is wrong with the place (nothing is there, a file cannot be
read or is not whole) may pass: it is tried again, with growing pauses. What is wrong with the version itself stays
wrong until its files are different ones, or somebody announces it again.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from models.versions.registry import Stamp
from schemas.wire import ModelUpdate

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: How many are tried again at a time: if thousands cannot be found, each has its turn.
MOST_AGAIN = 20

#: Model, version and digest: what is loaded. And where it is: what is tried.
Content = tuple[str, str, str]
Place = tuple[str, str, str, str]


def content_of(update: ModelUpdate) -> Content:
    return update.model, update.version, update.sha256


def place_of(update: ModelUpdate) -> Place:
    return *content_of(update), update.uri


@dataclass(eq=False)
class Attempt:
    """What became of an announced version.

    ``refused``: files of the version, at any place, that were refused, and why. ``why``: why it was refused last, ""
    when it was never tried. ``stamp``: of the files that were refused; None when it is to be tried whatever they are.
    ``due_s``: when it is to be tried again.
    """

    update: ModelUpdate
    refused: dict[Stamp, str] = field(default_factory=dict)
    why: str = ""
    stamp: Stamp | None = None
    pause_s: float = FIRST_PAUSE_S
    due_s: float = 0.0
    is_running: bool = False
    #: Set when the thread that was no longer waited for has ended; None: there is no such thread.
    given_up: threading.Event | None = None

    def is_due(self, now_s: float) -> bool:
        if self.is_running or self.due_s > now_s:
            return False
        return self.given_up is None or self.given_up.is_set()

    def refuse(self, why: str, stamp: Stamp | None, now_s: float) -> bool:
        """Note a refusal; whether it says something new."""
        is_news = why != self.why
        self.why, self.stamp = why, stamp
        if stamp is not None:
            self.refused[stamp] = why
        self.wait(now_s)
        return is_news

    def wait(self, now_s: float) -> None:
        """Look again later, and later each time."""
        self.due_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)

    def ask_again(self) -> None:
        """Somebody has announced it again: it is tried at once, whatever is known of it."""
        if self.stamp is not None:
            self.refused.pop(self.stamp, None)
        self.stamp, self.pause_s, self.due_s = None, FIRST_PAUSE_S, 0.0


class Attempts:
    """The attempts of one worker. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._attempts: dict[Place, Attempt] = {}
        self._wanted: dict[Place, Attempt] = {}
        self._refused: dict[Content, dict[Stamp, str]] = {}

    def announce(self, update: ModelUpdate) -> None:
        """An update has come for a version that shall score."""
        attempt = self._attempts.get(place_of(update))
        if attempt is not None:
            attempt.ask_again()

    def want(self, updates: Iterable[ModelUpdate]) -> None:
        """Want the versions of these updates from now on, and no others; each counts once, where it comes last."""
        self._wanted = {}
        for update in updates:
            place = place_of(update)
            attempt = self._attempts.get(place)
            if attempt is None:
                refused = self._refused.setdefault(content_of(update), {})
                attempt = self._attempts[place] = Attempt(update, refused)
            self._wanted.pop(place, None)
            self._wanted[place] = attempt

    def due(self, loaded: Container[Content], now_s: float) -> list[Attempt]:
        """The attempts to make now: all that were never tried, in the order wanted, and some of the others again."""
        due = [
            attempt
            for attempt in self._wanted.values()
            if attempt.is_due(now_s) and content_of(attempt.update) not in loaded
        ]
        again = heapq.nsmallest(
            MOST_AGAIN, (attempt for attempt in due if attempt.why), key=lambda attempt: attempt.due_s
        )
        return [*(attempt for attempt in due if not attempt.why), *again]

    @property
    def is_running(self) -> bool:
        return any(attempt.is_running for attempt in self._attempts.values())

    @property
    def has_untried(self) -> bool:
        """Whether something is being tried for the first time, so that nothing is known of it yet."""
        return any(attempt.is_running and not attempt.why for attempt in self._attempts.values())
