"""What an alert says to a person: one sentence for each of its states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.alerts.readings import ABSENT, LABELS_MISSING, Reading, ask
from app.core.faults.fault import listed, percent

if TYPE_CHECKING:
    from app.core.alerts.course import Episode, News
    from app.core.alerts.readings import Limit
    from app.core.counts.calendar import Window
    from schemas.pipeline.spec import AlertRule

#: Detections that are named in a sentence; of more, their number.
_MOST_NAMED = 3
#: What rules on shares of something are on: these are said in percent.
_SHARES = frozenset({"labels", "drift"})
#: Why labels find no event.
_WITHOUT_EVENT = (
    "labels that come later than the horizon find none, nor do those of another entity or id than their event"
)
#: What to do about wrong decisions.
_OF_ERRORS = "look for what changed then, and train again on labels from after it if it stays so"


class Detected(NamedTuple):
    """When a detector of wrong decisions fired (by its labels), its name, and what it found in words."""

    time_ms: int
    detector: str
    words: str


def say_detections(detections: Sequence[Detected]) -> str:
    """Say what the first one found, and name the detectors and the times at which they fired; without any, nothing.

    Those after the first compare with what has changed already.

    Examples
    --------
    >>> say_detections([Detected(86_400_000, "cusum", "half are wrong"), Detected(86_460_000, "adwin", "")])
    'half are wrong (noticed by cusum at 1970-01-02T00:00:00, adwin at 1970-01-02T00:01:00)'
    """
    named = [
        f"{name} at {np.datetime64(time_ms, 'ms').astype('M8[s]')}" for time_ms, name, _ in detections[:_MOST_NAMED]
    ]
    more = len(detections) - len(named)
    rest = f" and {more} more" if more else ""
    return f"{detections[0].words} (noticed by {', '.join(named)}{rest})" if detections else ""


def say_raised(rule: AlertRule, subject: str, episode: Episode) -> str:
    """What was found in the window that raised it, and since when."""
    reading, window = episode.reading, episode.opened
    if rule.on == "verdict":
        words = f"the verdict on {subject} is {_said(rule, reading.says)} in {window}"
        words += _headline(rule, reading.says, reading.text)
    elif rule.on == "error":
        words = f"{subject} errs more often: {reading.text}; {_OF_ERRORS}"
    elif rule.on == "entities":
        examples = f" ({reading.text})" if reading.text else ""
        words = f"{_strays(reading)} in {window}{examples}: their windows are wrong"
    elif rule.measure == LABELS_MISSING:
        words = f"{_measured(rule, subject, reading)} in {window}: {reading.text}"
    elif rule.below_expected:
        promised = f"where its scores promise {reading.expected:.4g}"
        words = f"{_measured(rule, subject, reading)} in {window}, {promised}"
    else:
        value, side, _, why = episode.limit
        origin = f" ({why})" if why else ""
        words = f"{_measured(rule, subject, reading)} in {window}, {side} {_limit(rule, value)}{origin}"
        words += f"; {_WITHOUT_EVENT}" if rule.on == "labels" else ""
    if episode.since != window:
        words += f"; so since {str(episode.since).split(' to ')[0]}"
    return words + "".join(f"; {_new(rule, news)}" for news in episode.news)


def is_said(news: News, message: str) -> bool:
    """Whether a message names all that is new already, be it with other numbers."""
    return all((f"`{name}`" if name else _plain(kind)) in message for kind, name in news.says)


def say_cleared(rule: AlertRule, subject: str, episode: Episode) -> str:
    """What was found in the window that cleared it."""
    window, reading = episode.cleared, episode.last or Reading(0.0)
    if reading.text == ABSENT.text:
        return f"{subject} scored nothing in {window}, and others did: {rule.name} is over"
    if rule.on == "verdict":
        return f"the verdict on {subject} is {_found(reading)} in {window}: {rule.name} is over"
    if rule.on == "error":
        return f"the errors of {subject} are steady in {window}: {rule.name} is over"
    if rule.on == "entities":
        return f"each entity is in one partition in {window}, as far as is remembered: {rule.name} is over"
    if rule.below_expected or rule.measure == LABELS_MISSING:
        promised = f", where its scores promise {reading.expected:.4g}" if rule.below_expected else ""
        return f"{_measured(rule, subject, reading)} in {window}{promised}: {rule.name} is over"
    limit = episode.limit
    origin = f" ({limit.why})" if limit.why else ""
    milder = f", and at or {_other(limit)} {_value(rule, limit.clears)}" if limit.clears != limit.value else ""
    measured = _measured(rule, subject, reading)
    return f"{measured} in {window}, back within {_limit(rule, limit.value)}{origin}{milder}"


def say_withdrawn(rule: AlertRule, subject: str, window: Window, reading: Reading, limits: list[Limit]) -> str:
    """Why an alert that was raised for a window is not there any more."""
    answer = ask(rule, limits, reading)
    if answer.beyond:
        return f"after late data {rule.name} of {subject} is raised by another window than {window}"
    if answer.beyond is None:
        return f"after late data {window} cannot say whether {rule.name} of {subject} is so: it is withdrawn"
    if rule.on == "verdict":
        now = f"the verdict on {subject} is {_found(reading)}"
    elif rule.on == "error":
        now = f"the errors of {subject} are steady"
    elif rule.on == "entities":
        now = _strays(reading)
    else:
        now = _measured(rule, subject, reading)
    return f"{now} in {window} after late data: {rule.name} is withdrawn"


def _strays(reading: Reading) -> str:
    return (
        "an entity is in several partitions"
        if reading.value == 1
        else f"{reading.value:.0f} entities are in several partitions"
    )


def _measured(rule: AlertRule, subject: str, reading: Reading) -> str:
    if rule.on == "labels":
        return f"{percent(reading.value)} of the labels found no event ({reading.text})"
    if rule.measure == LABELS_MISSING:
        return f"labels of {subject} {'do not come' if reading.value else 'come'}"
    low, high = reading.range
    if rule.on == "drift":
        at_most = f" (up to {percent(high)}, as not all could be judged)" if low < high else ""
        return f"{percent(reading.value)} of the metrics of {subject} drift{at_most}"
    surely = f" ({low:.4g} to {high:.4g})" if low < high else ""
    return f"{rule.measure} of {subject} is {reading.value:.4g}{surely}"


def _limit(rule: AlertRule, value: float) -> str:
    return f"{'the limit of' if rule.on in _SHARES else 'its limit'} {_value(rule, value)}"


def _value(rule: AlertRule, value: float) -> str:
    return percent(value) if rule.on in _SHARES else f"{value:.4g}"


def _other(limit: Limit) -> str:
    return "above" if limit.side == "below" else "below"


def _said(rule: AlertRule, says: Iterable[tuple[str, str]]) -> str:
    """The kinds of a verdict that a rule is on, and what they concern."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in says:
        if kind in rule.kinds:
            by_kind.setdefault(kind, []).extend([name] if name else [])
    words = [_plain(kind) + (f" of {listed(names)}" if names else "") for kind, names in by_kind.items()]
    return " and ".join(words)


def _found(reading: Reading) -> str:
    """The kind of a verdict, whatever a rule is on."""
    return _plain(reading.says[0][0]) if reading.says else "none"


def _plain(kind: str) -> str:
    return kind.replace("_", " ")


def _headline(rule: AlertRule, says: Sequence[tuple[str, str]], headline: str) -> str:
    """The verdict's own words, where they are about what a rule is on."""
    return f": {headline.rstrip('.')}" if headline and says[0][0] in rule.kinds else ""


def _new(rule: AlertRule, news: News) -> str:
    return f"new in {news.window}: {_said(rule, news.says)}{_headline(rule, news.says, news.text)}"
