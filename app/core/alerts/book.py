"""The alerts of one pipeline: what its rules say of the windows, what people answered, and what was told of both.

What is open and what is over follows from what all windows say in their order, and from the acknowledgements, so an
amended window can add an alert or withdraw one, and reading the same topics again gives the same alerts under the same
ids. What is told is the difference between that and what was told before.

What a window said is kept whichever rules there are, so that a rule which comes later, or is edited, is worked out from
all windows that are kept.

Over 350 lines: all that changes what is told is in one class: readings, answers of people, what was told before, and
what a checkpoint holds of these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from app.core.alerts.cases import About, AcknowledgeError, Acknowledgement, Case, LastAnnounced, find_cases
from app.core.alerts.course import RuleHistory, limits
from app.core.alerts.readings import ABSENT, LABELS_MISSING, NOTHING, Reading, is_awaited
from app.core.alerts.words import Detected, say_detections, say_withdrawn
from app.core.counts.calendar import Window
from schemas.pipeline.spec import PERFORMANCE_MEASURES
from schemas.wire import Alert, AlertState

if TYPE_CHECKING:
    from schemas.pipeline.spec import AlertRule

#: What rules of the stream itself are on, and the version that their alerts name.
OF_STREAM = frozenset({"labels", "entities"})
NO_VERSION = ""
#: What rules on windows are on, by whether labels have to be there first: the measure, of performance.
_THINGS = {True: (*PERFORMANCE_MEASURES, LABELS_MISSING), False: ("drift", "verdict", "error")}

#: What may be edited in the pipeline file without the rule being another one.
_PRESENTATION = ("severity", "action", "owner", "runbook")


class AlertBook:
    """The alerts of one pipeline.

    Parameters
    ----------
    pipeline, model
        Names.
    rules
        The alert rules of the pipeline file.
    """

    def __init__(self, pipeline: str, model: str, rules: Sequence[AlertRule]) -> None:
        self._about = About(pipeline, model)
        self._rules = tuple(rule for rule in rules if rule.on not in OF_STREAM)
        #: By version, what rules are on, and window; those of the stream itself are of no version.
        self._said: dict[str, dict[str, dict[Window, Reading]]] = {}
        self._watches: dict[str, list[RuleHistory]] = {}
        self._watch(NO_VERSION, [rule for rule in rules if rule.on in OF_STREAM], {})
        self._told: dict[str, LastAnnounced] = {}
        #: Of those the ones that are not cleared, by version.
        self._open: dict[str, set[str]] = {}
        self._acknowledged: dict[str, Acknowledgement] = {}
        #: Open alerts of rules that are not those of the pipeline file any more, and what is to be said of them: of
        #: what was noted in a silence, nothing.
        self._closing: dict[str, str | None] = {}
        #: Alerts that were recalled and do not stand so by what has been read since.
        self._recalled: set[str] = set()
        self._changed: set[str] = set()
        #: Windows that start before this are not kept.
        self._settled_ms = 0

    def add_version(self, version: str, training: Mapping[str, float]) -> None:
        """Watch a version; ``training``: what ``falls_by`` compares with, by measure."""
        self._watch(version, self._rules, training)
        self._changed.add(version)

    def _watch(self, version: str, rules: Iterable[AlertRule], training: Mapping[str, float]) -> None:
        said = self._said.setdefault(version, {})
        self._watches[version] = [
            RuleHistory(rule, limits(rule, training.get(rule.measure, math.nan)), said.setdefault(_thing(rule), {}))
            for rule in rules
        ]

    def see_performance(self, version: str, window: Window, readings: Mapping[str, Reading]) -> None:
        """Take the measures of a window whose labels are mature, or its new ones; of the others it says nothing."""
        for name in _THINGS[True]:
            self._read(version, name, window, readings.get(name, NOTHING))

    def see_drift(self, version: str, window: Window, share: Reading) -> None:
        """Take the share of metrics that drift in a closed window, or its new one."""
        self._read(version, "drift", window, share)

    def see_stream(self, on: Literal["labels", "entities"], readings: Iterable[tuple[Window, Reading]]) -> None:
        """Take what slices of the stream say."""
        for window, reading in readings:
            if window.start_ms >= self._settled_ms:
                self._read(NO_VERSION, on, window, reading)

    def see_verdict(self, version: str, window: Window, verdict: Reading) -> None:
        """Take the verdict on a closed window, or its new one."""
        self._read(version, "verdict", window, verdict)

    def see_detections(
        self, version: str, window: Window, detections: Sequence[Detected], *, is_steady: bool = True
    ) -> None:
        """Take all detections so far in a window, closed or not.

        ``is_steady``: without any, the errors were steady; otherwise there were too few labels to say so, or the window
        is under way.
        """
        reading = Reading(float(len(detections)), say_detections(sorted(detections)))
        self._read(version, "error", window, reading if detections or is_steady else NOTHING)

    def see_absence(self, version: str, window: Window, *, of_labels: bool) -> None:
        """Take that a version scored nothing in a closed window in which others did (``of_labels``: a mature one)."""
        for thing in _THINGS[of_labels]:
            if window.start_ms >= self._settled_ms and window not in self._said[version].get(thing, {}):
                self._read(version, thing, window, ABSENT)

    def acknowledge(self, alert_id: str, by: str, why: str, now_ms: int) -> None:
        """Note that a person has taken an open alert on; the next `announce` tells.

        The same words again by the same person change nothing, so that anyone who got no answer may ask again.

        Raises
        ------
        AcknowledgeError
            When there is no such alert, or it is not open and waiting for somebody.
        """
        told, known = self._told.get(alert_id), self._acknowledged.get(alert_id)
        if told is None:
            raise AcknowledgeError(f"There is no alert {alert_id} of {self._about.pipeline}.", is_unknown=True)
        if known is not None and known[:2] == (by, why):
            return
        alert = told.alert
        name = f"The alert {alert_id} ({alert.rule} of {f'{alert.model} {alert.version}'.strip()})"
        if alert.state == "cleared":
            raise AcknowledgeError(f"{name} was cleared at {_time(alert.at_ms)}: there is nothing to acknowledge.")
        if alert.state == "silenced":
            raise AcknowledgeError(f'{name} is silenced ("{alert.why}"): there is nothing to acknowledge.')
        if known is not None:
            said = f'{known.by} at {_time(known.at_ms)}: "{known.why}"'
            raise AcknowledgeError(f"{name} was acknowledged by {said}.")
        if alert.state == "acknowledged":
            raise AcknowledgeError(f'{name} was acknowledged by {alert.by}: "{alert.why}".')
        self._acknowledged[alert_id] = Acknowledgement(by, why, now_ms)
        self._changed.add(alert.version)

    def recall(self, alerts: Iterable[Alert]) -> None:
        """Take what was told before, in any order, as far as it is not known."""
        by_id: dict[str, list[Alert]] = {}
        for alert in alerts:
            by_id.setdefault(alert.alert_id, []).append(alert)
        for alert_id, steps in sorted(by_id.items()):
            newest = max(steps, key=lambda alert: (alert.revision, alert.at_ms, alert.state == "cleared"))
            known = self._told.get(alert_id)
            if known is None:
                # A cleared alert has the window that cleared it.
                opening = min(steps, key=lambda alert: (alert.state == "cleared", alert.window_start_ms or 0))
                self._remember(newest, opening.window_start_ms or 0)
                self._recalled.add(alert_id)
            elif known.alert.revision < newest.revision:
                raised = msgspec.structs.replace(known.alert, revision=newest.revision)
                self._told[alert_id] = known._replace(alert=raised)
            for alert in steps:
                if alert.state == "acknowledged":
                    words = Acknowledgement(alert.by, alert.why, alert.at_ms)
                    self._acknowledged.setdefault(alert_id, words)
            self._changed.add(newest.version)

    def forget(self, before_ms: int) -> None:
        """Windows that start before this will not be seen again: their readings are not kept."""
        self._settled_ms = max(self._settled_ms, before_ms)
        for watches in self._watches.values():
            for watch in watches:
                watch.forget(before_ms)
        for said in self._said.values():
            for readings in said.values():
                for window in [each for each in readings if each.start_ms < before_ms]:
                    del readings[window]
        for watches in self._watches.values():
            for watch in [each for each in watches if each.ended]:
                mates = [each for each in watches if each.rule.group == watch.rule.group]
                living = {episode.opened for mate in mates for episode in mate.living()}
                watch.ended = [episode for episode in watch.ended if episode.opened in living]

    def _read(self, version: str, thing: str, window: Window, reading: Reading) -> None:
        """Take a reading; one that is known asks for no other look at the version's alerts."""
        readings = self._said[version].setdefault(thing, {})
        if readings.get(window) != reading:
            readings[window] = reading
            self._changed.add(version)

    def announce(self, now_ms: int) -> list[Alert]:
        """Give what is new since the last call, in a fixed order."""
        alerts: list[Alert] = []
        for version in sorted(self._changed & self._watches.keys()):
            cases = find_cases(self._about, version, self._watches[version])
            wanted = {case.alert_id for case in cases}
            alerts += self._withdraw(version, wanted, now_ms)
            self._closing = {alert_id: words for alert_id, words in self._closing.items() if alert_id not in wanted}
            for case in cases:
                alerts += self._tell(case, now_ms)
        self._changed.clear()
        return alerts

    def _tell(self, case: Case, now_ms: int) -> list[Alert]:
        told = self._told.get(case.alert_id)
        acknowledgement = self._acknowledgement_of(case)
        opening: AlertState = "acknowledged" if acknowledgement else "silenced" if case.episode.silence else "raised"
        is_over = case.last is not None and opening != "silenced"
        is_news = told is None or self._has_other_members(case, told)
        states: list[AlertState] = [opening] if is_news or not is_over else []
        states += ["cleared"] if is_over else []
        if told is not None and told.alert.state == states[-1]:
            self._recalled.discard(case.alert_id)
        if told is not None and not is_news and (told.alert.state == states[-1] or self._is_ahead(case, told)):
            is_open = not is_over and told.alert.state == opening != "silenced"
            if not is_open or not case.has_news(told.alert.message):
                return []
        alerts = []
        for state in states:
            alert = case.to_alert(state, acknowledgement)
            alerts.append(self._note(alert, case.episode.opened.start_ms, now_ms))
        return alerts

    def _has_other_members(self, case: Case, told: LastAnnounced) -> bool:
        """Whether rules have joined an alert or left it; one whose window is forgotten has not left."""
        named = {told.alert.rule, *told.alert.others}
        left = named - case.names
        return not case.names <= named or any(
            case.episode.opened in watch.readings for watch in self._watches[case.version] if watch.rule.name in left
        )

    def _is_ahead(self, case: Case, told: LastAnnounced) -> bool:
        """Whether an alert was cleared by a window that is to be read again, or before its labels are here."""
        at_ms = told.alert.window_start_ms or 0
        if told.alert.state != "cleared" or at_ms < self._settled_ms:
            return False
        awaited = [
            is_awaited(watch.rule, reading)
            for watch in self._watches[case.version]
            if watch.rule.name in {told.alert.rule, *told.alert.others} and watch.rule.measure == told.alert.measure
            for window, reading in watch.readings.items()
            if window.start_ms == at_ms
        ]
        return not awaited or (case.alert_id in self._recalled and any(awaited))

    def _acknowledgement_of(self, case: Case) -> Acknowledgement | None:
        if case.alert_id in self._acknowledged:
            return self._acknowledged[case.alert_id]
        if case.episode.silence:
            return None
        told = sorted((self._told[alert_id].opened_ms, alert_id) for alert_id in self._acknowledged)
        return next((self._acknowledged[told_id] for _, told_id in told if case.covers(self._told[told_id])), None)

    def _withdraw(self, version: str, wanted: set[str], now_ms: int) -> list[Alert]:
        """Clear what was told and is not so any more. Of a window that was not seen yet nothing is known.

        Nor is it of one whose labels are not here yet, though they were when its alert was told that is recalled.
        """
        alerts = []
        gone = self._open.get(version, set()) - wanted
        for opened_ms, alert_id in sorted((self._told[gone_id].opened_ms, gone_id) for gone_id in gone):
            alert = self._told[alert_id].alert
            is_closing = alert_id in self._closing
            words = self._closing[alert_id] if is_closing else self._why_withdrawn(alert, opened_ms)
            if words is not None:
                cleared = msgspec.structs.replace(alert, state="cleared", message=words, action="")
                alerts.append(self._note(cleared, opened_ms, now_ms))
        return alerts

    def _why_withdrawn(self, alert: Alert, opened_ms: int) -> str | None:
        watches = {watch.rule.name: watch for watch in self._watches[alert.version] if _is_owner(watch.rule, alert)}
        reasons = []
        for name in (alert.rule, *alert.others):
            watch = watches.get(name)
            window = next((each for each in watch.readings if each.start_ms == opened_ms), None) if watch else None
            if watch is not None and window is None:
                is_over = alert.state != "silenced" and watch.is_quiet_since(opened_ms, _loss_of(alert))
                return f"{name} is over; the windows that raised it are not there any more" if is_over else None
            if watch is not None and window is not None:
                reasons.append((watch, window))
        if not reasons:
            return None if alert.state == "silenced" else f"{alert.rule} is not in the pipeline file any more"
        if alert.alert_id in self._recalled and any(is_awaited(each.rule, each.readings[at]) for each, at in reasons):
            return None
        watch, window = reasons[0]
        subject = f"{self._about.model} {alert.version}".strip()
        return say_withdrawn(watch.rule, subject, window, watch.readings[window], watch.limits)

    def _note(self, alert: Alert, opened_ms: int, now_ms: int) -> Alert:
        """Remember an alert as the last that was told; times of one alert never go back."""
        before = self._told.get(alert.alert_id)
        at_ms = max(now_ms, before.alert.at_ms if before is not None else now_ms)
        revision = (before.alert.revision if before is not None else 0) + 1
        told = msgspec.structs.replace(alert, at_ms=at_ms, revision=revision)
        self._remember(told, opened_ms)
        self._closing.pop(alert.alert_id, None)
        self._recalled.discard(alert.alert_id)
        return told

    def _remember(self, alert: Alert, opened_ms: int) -> None:
        self._told[alert.alert_id] = LastAnnounced(alert, opened_ms)
        of_version = self._open.setdefault(alert.version, set())
        (of_version.discard if alert.state == "cleared" else of_version.add)(alert.alert_id)

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs beside rules and versions: JSON values."""
        return {
            "said": {
                version: {
                    thing: [[*window, *reading] for window, reading in sorted(readings.items())]
                    for thing, readings in sorted(said.items())
                    if readings
                }
                for version, said in self._said.items()
            },
            "watches": {
                version: {watch.rule.name: [_digest(watch.rule), watch.to_state()] for watch in watches}
                for version, watches in self._watches.items()
            },
            "told": {alert_id: [msgspec.to_builtins(alert), at] for alert_id, (alert, at) in self._told.items()},
            "acknowledged": {alert_id: [*words] for alert_id, words in self._acknowledged.items()},
            "closing": dict(self._closing),
            "recalled": sorted(self._recalled),
            "settled_ms": self._settled_ms,
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Take a state for the versions that were added.

        A rule that is new or was changed in the pipeline file is worked out from the windows that are kept; what it has
        raised and would not raise now is cleared.
        """
        self._told, self._open = {}, {}
        for alert, opened_ms in state["told"].values():
            self._remember(msgspec.convert(alert, Alert), opened_ms)
        self._acknowledged = {key: Acknowledgement(*words) for key, words in state["acknowledged"].items()}
        self._closing, self._recalled = dict(state["closing"]), set(state["recalled"])
        self._settled_ms = state["settled_ms"]
        for version, watches in self._watches.items():
            for thing, readings in state["said"].get(version, {}).items():
                kept = {Window(start_ms, end_ms): Reading.from_state(said) for start_ms, end_ms, *said in readings}
                self._said[version].setdefault(thing, {}).update(kept)
            saved = state["watches"].get(version, {})
            for watch in watches:
                digest, past = saved.get(watch.rule.name, ("", None))
                if digest == _digest(watch.rule):
                    watch.from_state(past)
                    continue
                self._changed.add(version)
                if past is not None:
                    self._close(version, watch.rule.name)

    def _close(self, version: str, name: str) -> None:
        for alert_id in self._open.get(version, set()):
            alert = self._told[alert_id].alert
            if name in {alert.rule, *alert.others}:
                words = f"{name} was changed in the pipeline file and is judged anew"
                self._closing[alert_id] = words if alert.state != "silenced" else None


def _thing(rule: AlertRule) -> str:
    return rule.measure if rule.on == "performance" else rule.on


def _loss_of(alert: Alert) -> float:
    """About how much worse than promised an alert was raised for, where that is its limit."""
    return math.nan if alert.value is None or alert.limit is None else abs(alert.value - alert.limit)


def _is_owner(rule: AlertRule, alert: Alert) -> bool:
    return rule.group == alert.group if alert.group else rule.name == alert.rule


def _digest(rule: AlertRule) -> str:
    form = {key: value for key, value in dataclasses.asdict(rule).items() if key not in _PRESENTATION}
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:12]


def _time(time_ms: int) -> str:
    return f"{np.datetime64(time_ms, 'ms').astype('M8[s]')} UTC"
