"""The course of one alert rule over the windows of one version: when it is raised, silent and cleared.

It is a function of what the windows say, in the order of event time, whenever and in whatever order that became known.
A rule is raised after ``for`` windows beyond its limit in a row, and cleared after ``clears_after`` windows in a row
that are back within the milder limit; of windows that overlap, those count that do not overlap each other, as the
others tell of the same events again (`Streak`). So among n windows it is raised at most
(n + clears_after) // (for + clears_after) times, whatever the values do. A window without a value counts for nothing;
one in which the version scored nothing while others did is one back, for an alert that is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from app.core.drift_calendar import Window

if TYPE_CHECKING:
    from schemas.pipeline import AlertRule, Silence

#: Measures of performance of which less is better; of all others more is.
LOWER_IS_BETTER = frozenset({"log_loss"})


class Limit(NamedTuple):
    """A value that must not be passed, on which side, where a value is back within it, and where it comes from."""

    value: float
    side: Literal["below", "above"]
    clears: float
    why: str = ""


class Reading(NamedTuple):
    """What a window says to a rule: a measured value, and in words what there is beside it."""

    value: float
    text: str = ""


#: A window in which other versions scored and this one did not: it cannot be beyond a limit any more.
ABSENT = Reading(math.nan, "absent")


class Episode(NamedTuple):
    """One time that a rule was due.

    Parameters
    ----------
    since, opened
        The first window beyond the limit, and the one with which it had been beyond for long enough.
    reading, limit
        What the latter said, and which limit that is beyond.
    silence
        Why it was noted and not raised; "" when it was raised.
    cleared, last
        The window that cleared it and what that said; None while it is open.
    """

    since: Window
    opened: Window
    reading: Reading
    limit: Limit
    silence: str = ""
    cleared: Window | None = None
    last: Reading | None = None


def limits(rule: AlertRule, training_value: float) -> list[Limit]:
    """Work out the limits of a rule.

    ``falls_by`` is a difference to the training value, in the measure's own unit and towards the worse: an AUC that
    falls by 0.05 goes from 0.80 to 0.75, a log loss "falls" by going up. It gives no limit when the training value is
    NaN. A verdict or a detection counts as 1, its absence as 0.

    Examples
    --------
    >>> from schemas.pipeline import AlertRule
    >>> limits(AlertRule("a", "performance", "auc", falls_by=0.25, clears_at=0.125), 0.75)
    [Limit(value=0.5, side='below', clears=0.625, why='0.75 in training - 0.25')]
    """
    if rule.on in {"verdict", "error", "entities"}:
        return [Limit(0.0, "above", 0.0)]
    milder = rule.clears_at
    found = []
    if rule.below is not None:
        found.append(Limit(rule.below, "below", rule.below if milder is None else milder))
    if rule.above is not None:
        found.append(Limit(rule.above, "above", rule.above if milder is None else milder))
    if rule.falls_by is not None and not math.isnan(training_value):
        is_up = rule.on == "drift" or rule.measure in LOWER_IS_BETTER
        sign = 1 if is_up else -1
        back = rule.falls_by if milder is None else milder
        why = f"{training_value:.4g} in training {'+' if is_up else '-'} {rule.falls_by:g}"
        at, clears = (training_value + sign * each for each in (rule.falls_by, back))
        found.append(Limit(at, "above" if is_up else "below", clears, why))
    return found


def passed(value: float, rule_limits: Iterable[Limit]) -> Limit | None:
    """Find the first limit that a value is beyond; a value on the limit is within it."""
    return next((limit for limit in rule_limits if _is_beyond(value, limit.side, limit.value)), None)


def is_back(value: float, rule_limits: Iterable[Limit]) -> bool:
    """Whether a value is within the milder limits, too."""
    return not any(_is_beyond(value, limit.side, limit.clears) for limit in rule_limits)


def _is_beyond(value: float, side: str, bound: float) -> bool:
    return value < bound if side == "below" else value > bound


def silence_of(window: Window, silences: Iterable[Silence]) -> str:
    """Why alerts of a window are not raised: the words of the first silence that it overlaps; "" when there is none.

    Examples
    --------
    >>> from schemas.pipeline import Silence
    >>> nightly = Silence(22, 26, "load", every_ms=24)
    >>> [silence_of(Window(start, start + 2), [nightly]) for start in (0, 2, 20, 21, 44, 46)]
    ['load', '', '', 'load', '', 'load']
    """
    for silence in silences:
        start = window.start_ms
        if silence.every_ms is None:
            overlaps = start < silence.to_ms and window.end_ms > silence.from_ms
        else:
            since = (start - silence.from_ms) % silence.every_ms
            overlaps = since < silence.to_ms - silence.from_ms or since + window.end_ms - start > silence.every_ms
        if overlaps:
            return silence.why
    return ""


class Streak(NamedTuple):
    """Windows in a row of which the same is true: how many that do not overlap each other, the first and last of them.

    Examples
    --------
    Of windows of 3 days that end each day, two count when the fourth has come.

    >>> from itertools import accumulate
    >>> days = [Window(day, day + 3) for day in range(5)]
    >>> [streak.n for streak in accumulate(days, Streak.add, initial=Streak())]
    [0, 1, 1, 1, 2, 2]
    """

    n: int = 0
    first: Window | None = None
    last: Window | None = None

    def add(self, window: Window) -> Streak:
        """Take the next window in the order of time."""
        if self.last is not None and window.start_ms < self.last.end_ms:
            return self
        return Streak(self.n + 1, self.first or window, window)

    def to_state(self) -> list[Any]:
        """Give what `from_state` needs: JSON values."""
        return [self.n, _span(self.first), _span(self.last)]

    @classmethod
    def from_state(cls, state: list[Any]) -> Streak:
        n, first, last = state
        return cls(n, _window(first), _window(last))


class Course(NamedTuple):
    """Where a rule is after some windows.

    ``beyond`` and ``back``: windows in a row beyond the limit, within the milder one. ``cleared_ms``: end of the window
    that cleared it last.
    """

    beyond: Streak = Streak()
    back: Streak = Streak()
    cleared_ms: int | None = None
    open: Episode | None = None

    def step(
        self, rule: AlertRule, rule_limits: list[Limit], window: Window, reading: Reading
    ) -> tuple[Course, Episode | None]:
        """Take the next window: where the rule is then, and the episode that has ended with it."""
        is_absent = reading.text == ABSENT.text
        value = to_value(rule, reading)
        if math.isnan(value) and (self.open is None or not is_absent):
            return self, None
        limit = passed(value, rule_limits)
        if limit is None:
            back = self.back.add(window) if is_back(value, rule_limits) else Streak()
            if self.open is None or back.n < rule.clears_after:
                return Course(Streak(), back, self.cleared_ms, self.open), None
            cleared_ms = self.cleared_ms if self.open.silence else window.end_ms
            return Course(cleared_ms=cleared_ms), self.open._replace(cleared=window, last=reading)
        beyond = self.beyond.add(window)
        after = Course(beyond, Streak(), self.cleared_ms, self.open)
        is_due = beyond.n >= rule.for_windows and not self._is_cooling(rule, window)
        if not is_due or (self.open is not None and not self.open.silence):
            return after, None
        silence = silence_of(window, rule.silences)
        if silence and self.open is not None:
            return after, None
        return after._replace(open=Episode(beyond.first or window, window, reading, limit, silence)), self.open

    def _is_cooling(self, rule: AlertRule, window: Window) -> bool:
        return self.cleared_ms is not None and window.end_ms < self.cleared_ms + rule.cooldown_ms

    def to_state(self) -> list[Any]:
        """Give what `from_state` needs: JSON values."""
        episode = None if self.open is None else _pack(self.open)
        return [self.beyond.to_state(), self.back.to_state(), self.cleared_ms, episode]

    @classmethod
    def from_state(cls, state: list[Any]) -> Course:
        beyond, back, cleared_ms, episode = state
        open_ = _unpack(episode) if episode else None
        return cls(Streak.from_state(beyond), Streak.from_state(back), cleared_ms, open_)


def _pack(episode: Episode) -> list[Any]:
    since, opened, reading, limit, silence, cleared, last = episode
    return [_span(since), _span(opened), [*reading], [*limit], silence, _span(cleared), [*last] if last else None]


def _unpack(state: list[Any]) -> Episode:
    since, opened, reading, limit, silence, cleared, last = state
    return Episode(
        Window(*since),
        Window(*opened),
        Reading(*reading),
        Limit(*limit),
        silence,
        _window(cleared),
        Reading(*last) if last else None,
    )


def _span(window: Window | None) -> list[int] | None:
    return None if window is None else [window.start_ms, window.end_ms]


def _window(span: list[int] | None) -> Window | None:
    return None if span is None else Window(*span)


def to_value(rule: AlertRule, reading: Reading) -> float:
    """The number that is held against the limits; NaN: the window says nothing."""
    if rule.on == "verdict" and reading.text != ABSENT.text:
        return float(reading.text in rule.kinds) if reading.text else math.nan
    return reading.value


@dataclass(eq=False)
class Watch:
    """One rule on one version: what its windows said, but for those so old that they cannot change, which are a course.

    ``readings``: NaN and "" where a window was seen that says nothing. ``ended``: episodes that ended before the oldest
    of them, as long as a group has one for the same window that did not.
    """

    rule: AlertRule
    limits: list[Limit]
    readings: dict[Window, Reading] = field(default_factory=dict)
    base: Course = field(default_factory=Course)
    ended: list[Episode] = field(default_factory=list)

    def episodes(self) -> list[Episode]:
        """Each time that the rule was due, oldest first, without those that ended before the oldest reading."""
        return [*self.ended, *self.living()]

    def living(self) -> list[Episode]:
        """Those that had not ended before the oldest reading."""
        course, found = self.base, []
        for window, reading in sorted(self.readings.items()):
            course, ended = course.step(self.rule, self.limits, window, reading)
            if ended is not None:
                found.append(ended)
        return found if course.open is None else [*found, course.open]

    def is_quiet_since(self, time_ms: int) -> bool:
        """Whether all that is known is of windows after a time, and the newest ones are back within the limits."""
        back = Streak()
        for window, reading in sorted(self.readings.items()):
            value = to_value(self.rule, reading)
            if not math.isnan(value):
                back = back.add(window) if is_back(value, self.limits) else Streak()
        return all(window.start_ms > time_ms for window in self.readings) and back.n >= self.rule.clears_after

    def forget(self, before_ms: int) -> None:
        """Windows that start before this will not be seen again."""
        for window in sorted(window for window in self.readings if window.start_ms < before_ms):
            self.base, ended = self.base.step(self.rule, self.limits, window, self.readings.pop(window))
            if ended is not None and self.rule.group and not ended.silence:
                self.ended.append(ended)

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs beside the rule: JSON values."""
        readings = [[window.start_ms, window.end_ms, *reading] for window, reading in sorted(self.readings.items())]
        return {"readings": readings, "base": self.base.to_state(), "ended": [_pack(each) for each in self.ended]}

    def from_state(self, state: Mapping[str, Any]) -> None:
        self.readings = {Window(start, end): Reading(*reading) for start, end, *reading in state["readings"]}
        self.base = Course.from_state(state["base"])
        self.ended = [_unpack(each) for each in state["ended"]]
