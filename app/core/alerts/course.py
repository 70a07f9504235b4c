"""The course of one alert rule over the windows of one version: when it is raised, silent and cleared.

It is a function of what the windows say, in the order of event time, whenever and in whatever order that became known.
A rule is raised after ``for`` windows beyond its limit in a row, and cleared after ``clears_after`` windows in a row
that are back within the milder limit; of windows that overlap, those count that do not overlap each other, as the
others tell of the same events again (`Streak`). So among n windows it is raised at most
(n + clears_after) // (for + clears_after) times, whatever the values do. A window that cannot say whether it is beyond
or back (`app.core.alerts.readings`) counts for nothing: it raises and clears nothing, and interrupts no row. One in
which the version scored nothing while others did is one back, for an alert that is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from app.core.alerts.readings import ABSENT, Answer, Limit, Reading, ask
from app.core.counts.calendar import Window
from app.core.performance.measures import LOWER_IS_BETTER

if TYPE_CHECKING:
    from schemas.pipeline.spec import AlertRule, Silence


class News(NamedTuple):
    """What a window says that is beyond a rule's limit, too, and is about something else than those before it."""

    window: Window
    text: str
    says: tuple[tuple[str, str], ...]


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
    news
        What verdicts of later windows say that those before did not.
    cleared, last
        The window that cleared it and what that said; None while it is open.
    """

    since: Window
    opened: Window
    reading: Reading
    limit: Limit
    silence: str = ""
    news: tuple[News, ...] = ()
    cleared: Window | None = None
    last: Reading | None = None

    def and_then(self, rule: AlertRule, window: Window, reading: Reading) -> Episode:
        """Take what a later window beyond the limit says."""
        named = {*self.reading.says, *(said for before in self.news for said in before.says)}
        new = tuple(said for said in reading.says if said[0] in rule.kinds and said not in named)
        return self._replace(news=(*self.news, News(window, reading.text, new))) if new else self


def limits(rule: AlertRule, training_value: float) -> list[Limit]:
    """Work out the limits of a rule.

    ``falls_by`` is a difference to the training value, in the measure's own unit and towards the worse: an AUC that
    falls by 0.05 goes from 0.80 to 0.75, a log loss "falls" by going up. It gives no limit when the training value is
    NaN. A verdict or a detection counts as 1, its absence as 0. What the scores promise is each window's own, and no
    limit of the rule.

    Examples
    --------
    >>> from schemas.pipeline.spec import AlertRule
    >>> limits(AlertRule("a", "performance", "auc", falls_by=0.25, clears_at=0.125), 0.75)
    [Limit(value=0.5, side='below', clears=0.625, why='0.75 in training - 0.25')]
    """
    if rule.on in {"verdict", "error", "entities"}:
        return [Limit(0.0, "above", 0.0)]
    milder = rule.clears_at
    bounds = []
    if rule.below is not None:
        bounds.append(Limit(rule.below, "below", rule.below if milder is None else milder))
    if rule.above is not None:
        bounds.append(Limit(rule.above, "above", rule.above if milder is None else milder))
    if rule.falls_by is not None and not math.isnan(training_value):
        is_up = rule.on == "drift" or rule.measure in LOWER_IS_BETTER
        sign = 1 if is_up else -1
        back = rule.falls_by if milder is None else milder
        why = f"{training_value:.4g} in training {'+' if is_up else '-'} {rule.falls_by:g}"
        at, clears = (training_value + sign * size for size in (rule.falls_by, back))
        bounds.append(Limit(at, "above" if is_up else "below", clears, why))
    return bounds


def strictest(asked: Iterable[Limit]) -> float:
    """The highest of the values that a measure must not fall below; NaN where no limit has such a value.

    Examples
    --------
    >>> strictest([Limit(0.6, "below", 0.6), Limit(0.65, "below", 0.7), Limit(0.9, "above", 0.9)])
    0.65
    >>> strictest([Limit(0.9, "above", 0.9)])
    nan
    """
    return max((limit.value for limit in asked if limit.side == "below"), default=math.nan)


def silence_of(window: Window, silences: Iterable[Silence]) -> str:
    """Why alerts of a window are not raised: the words of the first silence that it overlaps; "" when there is none.

    Examples
    --------
    >>> from schemas.pipeline.spec import Silence
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

    ``beyond`` and ``back``: windows in a row beyond the limit, within the milder one. ``loss``: of what the scores
    promise, in the first window beyond. ``cleared_ms``: end of the window that cleared it last.
    """

    beyond: Streak = Streak()
    back: Streak = Streak()
    loss: float = math.nan
    cleared_ms: int | None = None
    open: Episode | None = None

    def step(
        self, rule: AlertRule, rule_limits: list[Limit], window: Window, reading: Reading
    ) -> tuple[Course, Episode | None]:
        """Take the next window: where the rule is then, and the episode that has ended with it."""
        answer = ask(rule, rule_limits, reading, self.loss)
        if reading.text == ABSENT.text and self.open is not None:
            answer = Answer(False, True)
        after = self._count(window, answer)
        if answer.back and self.open is not None and after.back.n >= rule.clears_after:
            cleared_ms = self.cleared_ms if self.open.silence else window.end_ms
            return Course(cleared_ms=cleared_ms), self.open._replace(cleared=window, last=reading)
        if not answer.beyond or answer.limit is None:
            return after, None
        if self.open is not None and not self.open.silence:
            return after._replace(open=self.open.and_then(rule, window, reading)), None
        silence = silence_of(window, rule.silences)
        is_due = after.beyond.n >= rule.for_windows and not self._is_cooling(rule, window)
        if not is_due or (silence and self.open is not None):
            return after, None
        since = after.beyond.first or window
        return after._replace(open=Episode(since, window, reading, answer.limit, silence)), self.open

    def _count(self, window: Window, answer: Answer) -> Course:
        """Go on with the rows of windows that an answer belongs to, and end those that it does not belong to."""
        beyond = self.beyond if answer.beyond is None else self.beyond.add(window) if answer.beyond else Streak()
        back = self.back if answer.back is None else self.back.add(window) if answer.back else Streak()
        loss = self.loss
        if self.open is None and (answer.beyond is False or (answer.beyond and not self.beyond.n)):
            loss = answer.loss
        return Course(beyond, back, loss, self.cleared_ms, self.open)

    def _is_cooling(self, rule: AlertRule, window: Window) -> bool:
        return self.cleared_ms is not None and window.end_ms < self.cleared_ms + rule.cooldown_ms

    def to_state(self) -> list[Any]:
        """Give what `from_state` needs: JSON values."""
        episode = None if self.open is None else _pack(self.open)
        return [self.beyond.to_state(), self.back.to_state(), self.loss, self.cleared_ms, episode]

    @classmethod
    def from_state(cls, state: list[Any]) -> Course:
        beyond, back, loss, cleared_ms, episode = state
        open_ = _unpack(episode) if episode else None
        return cls(Streak.from_state(beyond), Streak.from_state(back), loss, cleared_ms, open_)


def _pack(episode: Episode) -> list[Any]:
    since, opened, reading, limit, silence, news, cleared, last = episode
    said = [[_span(window), text, says] for window, text, says in news]
    ended = [*last] if last else None
    return [_span(since), _span(opened), [*reading], [*limit], silence, said, _span(cleared), ended]


def _unpack(state: list[Any]) -> Episode:
    since, opened, reading, limit, silence, said, cleared, last = state
    return Episode(
        Window(*since),
        Window(*opened),
        Reading.from_state(reading),
        Limit(*limit),
        silence,
        tuple(News(Window(*span), text, tuple(map(tuple, says))) for span, text, says in said),
        _window(cleared),
        Reading.from_state(last) if last else None,
    )


def _span(window: Window | None) -> list[int] | None:
    return None if window is None else [window.start_ms, window.end_ms]


def _window(span: list[int] | None) -> Window | None:
    return None if span is None else Window(*span)


@dataclass(eq=False)
class RuleHistory:
    """One rule on one version: what its windows said, but for those so old that they cannot change, which are a course.

    ``readings``: shared with all rules on the same. ``ended``: episodes that ended before the oldest of them, as long
    as a group has one for the same window that did not.
    """

    rule: AlertRule
    limits: list[Limit]
    readings: dict[Window, Reading] = field(default_factory=dict)
    base: Course = field(default_factory=Course)
    ended: list[Episode] = field(default_factory=list)

    def ask(self, reading: Reading, past_loss: float = math.nan) -> Answer:
        """What a window says to this rule."""
        return ask(self.rule, self.limits, reading, past_loss)

    def counting(self) -> list[tuple[Window, Reading]]:
        """The windows that count for it, in their order."""
        since_ms = self.rule.since_ms
        counted = [reading for reading in self.readings if since_ms is None or reading.start_ms >= since_ms]
        return [(window, self.readings[window]) for window in sorted(counted)]

    def episodes(self) -> list[Episode]:
        """Each time that the rule was due, oldest first, without those that ended before the oldest reading."""
        return [*self.ended, *self.living()]

    def living(self) -> list[Episode]:
        """Those that had not ended before the oldest reading."""
        course, episodes = self.base, []
        for window, reading in self.counting():
            course, ended = course.step(self.rule, self.limits, window, reading)
            if ended is not None:
                episodes.append(ended)
        return episodes if course.open is None else [*episodes, course.open]

    def is_quiet_since(self, time_ms: int, past_loss: float) -> bool:
        """Whether all that is known is of windows after a time, and the newest ones are back within the limits."""
        back = Streak()
        for window, reading in self.counting():
            is_back = self.ask(reading, past_loss).back
            if is_back is not None:
                back = back.add(window) if is_back else Streak()
        return all(window.start_ms > time_ms for window in self.readings) and back.n >= self.rule.clears_after

    def forget(self, before_ms: int) -> None:
        """Windows that start before this will not be seen again; whoever holds the readings lets go of them then."""
        for window, reading in self.counting():
            if window.start_ms >= before_ms:
                break
            self.base, ended = self.base.step(self.rule, self.limits, window, reading)
            if ended is not None and self.rule.group and not ended.silence:
                self.ended.append(ended)

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs beside the rule and the readings: JSON values."""
        return {"base": self.base.to_state(), "ended": [_pack(episode) for episode in self.ended]}

    def from_state(self, state: Mapping[str, Any]) -> None:
        self.base = Course.from_state(state["base"])
        self.ended = [_unpack(packed) for packed in state["ended"]]
