"""An alert as its rules want it: which of them are raised for one window of one version, and how it reads.

Rules of one group that are raised for the same window of the same version are one alert: the most severe one speaks
and names the others; it is cleared when all of them are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from app.core.alerts.words import is_said, say_cleared, say_raised
from schemas.wire import Alert, AlertState

if TYPE_CHECKING:
    from app.core.alerts.course import Episode, RuleHistory
    from schemas.pipeline.spec import AlertRule

_SEVERITIES = ("critical", "warning", "info")


class About(NamedTuple):
    """Whose alerts these are."""

    pipeline: str
    model: str


class Acknowledgement(NamedTuple):
    """Who took an alert on, in which words, and when (processing time)."""

    by: str
    why: str
    at_ms: int


class AcknowledgeError(ValueError):
    """Why an alert cannot be acknowledged, in one sentence."""

    def __init__(self, sentence: str, *, is_unknown: bool = False) -> None:
        super().__init__(sentence)
        self.is_unknown = is_unknown


class LastAnnounced(NamedTuple):
    """The last that was told of an alert, and the start of the window that it is of."""

    alert: Alert
    opened_ms: int


@dataclass(frozen=True)
class Case:
    """An alert as the windows want it: the rules that are raised for one window, the most severe one first."""

    alert_id: str
    about: About
    version: str
    members: tuple[tuple[AlertRule, Episode], ...]

    @property
    def rule(self) -> AlertRule:
        return self.members[0][0]

    @property
    def episode(self) -> Episode:
        return self.members[0][1]

    @property
    def names(self) -> set[str]:
        return {rule.name for rule, _ in self.members}

    @property
    def group(self) -> str:
        return "" if self.episode.silence else self.rule.group

    @cached_property
    def last(self) -> tuple[AlertRule, Episode] | None:
        """The member that was cleared last; None while any is open."""
        if any(episode.cleared is None for _, episode in self.members):
            return None
        return max(self.members, key=lambda member: (member[1].cleared, member[0].name))

    def has_news(self, message: str) -> bool:
        """Whether it is about something by now that a message about it does not name."""
        return not all(is_said(news, message) for _, episode in self.members for news in episode.news)

    def covers(self, told: LastAnnounced) -> bool:
        """Whether an alert that was told is of the same trouble, though late data may have moved its beginning."""
        alert = told.alert
        is_same = alert.group == self.group and (bool(self.group) or alert.rule == self.rule.name)
        if alert.version != self.version or not is_same:
            return False
        cleared = self.last[1].cleared if self.last is not None else None
        end_ms = math.inf if cleared is None else cleared.start_ms
        return self.episode.opened.start_ms <= told.opened_ms < end_ms

    def to_alert(self, state: AlertState, acknowledgement: Acknowledgement | None) -> Alert:
        """Give its record in a state; what is told when, and for which time, is another's."""
        rule, episode = self.members[0]
        speaker, spoken = rule, episode
        window, reading = episode.opened, episode.reading
        others = [member.name for member, _ in self.members[1:]]
        subject = f"{self.about.model} {self.version}".strip()
        if state == "cleared" and self.last is not None:
            speaker, spoken = self.last  # it says since when all are over
            window, reading = spoken.cleared or window, spoken.last or reading
            message = say_cleared(speaker, subject, spoken)
        else:
            message = say_raised(rule, subject, episode) + (f" (with {', '.join(others)})" if others else "")
        is_number = speaker.on != "verdict"
        asks = next((member.action for member, _ in self.members if member.action), "")
        answer = acknowledgement if state != "raised" else None
        return Alert(
            alert_id=self.alert_id,
            pipeline=self.about.pipeline,
            rule=rule.name,
            severity=rule.severity,
            state=state,
            model=self.about.model,
            version=self.version,
            at_ms=0,
            window_start_ms=window.start_ms,
            window_end_ms=window.end_ms,
            measure=speaker.measure,
            value=reading.value if is_number else None,
            limit=spoken.limit.value if is_number else None,
            message=message,
            action=asks if state == "raised" else "",
            since_ms=min(member.since.start_ms for _, member in self.members),
            group=self.group,
            others=others,
            owner=rule.owner,
            runbook=rule.runbook,
            by=answer.by if answer else "",
            why=answer.why if answer else episode.silence,
        )


def find_cases(about: About, version: str, watches: Iterable[RuleHistory]) -> list[Case]:
    """List the alerts of a version, in the order of the windows that raised them."""
    episodes: dict[str, list[tuple[AlertRule, Episode]]] = {}
    for watch in watches:
        for episode in watch.episodes():
            alert_id = _identify(about, watch.rule, version, episode)
            episodes.setdefault(alert_id, []).append((watch.rule, episode))
    cases = [
        Case(alert_id, about, version, tuple(sorted(members, key=lambda each: _SEVERITIES.index(each[0].severity))))
        for alert_id, members in episodes.items()
    ]
    return sorted(cases, key=lambda case: case.episode.opened)


def _identify(about: About, rule: AlertRule, version: str, episode: Episode) -> str:
    words = [about.pipeline, rule.name, about.model, version, str(episode.opened.start_ms)]
    if episode.silence:
        words.append("silenced")
    elif rule.group:
        words = [about.pipeline, "group", rule.group, *words[2:]]
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:20]
