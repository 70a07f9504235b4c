"""Alert rules against closed windows: raised once, cleared when a later window is back within the limit.

What is raised or cleared follows from the values of all windows in their order, so an amended window can add an alert
or withdraw one (it is then cleared), and reading the same topics again gives the same alerts under the same ids.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from app.core.drift_calendar import Window
from schemas.wire import Alert

if TYPE_CHECKING:
    from schemas.pipeline import AlertRule

#: Measures of performance of which less is better; of all others more is.
LOWER_IS_BETTER = frozenset({"log_loss"})


class Limit(NamedTuple):
    """A value that must not be passed, on which side, and where it comes from."""

    value: float
    side: Literal["below", "above"]
    why: str


class Step(NamedTuple):
    """One change of an alert: at which window, in which direction; ``opened`` is the window that raised it."""

    state: Literal["raised", "cleared"]
    opened: Window
    window: Window
    value: float
    limit: Limit


def limits(rule: AlertRule, training_value: float) -> list[Limit]:
    """Work out the limits of a rule.

    ``falls_by`` is a difference to the training value, in the measure's own unit and towards the worse: an AUC that
    falls by 0.05 goes from 0.80 to 0.75, a log loss "falls" by going up. It gives no limit when the training value is
    NaN.
    """
    found = []
    if rule.below is not None:
        found.append(Limit(rule.below, "below", ""))
    if rule.above is not None:
        found.append(Limit(rule.above, "above", ""))
    if rule.falls_by is not None and not math.isnan(training_value):
        of_training = f"{training_value:.4g} in training"
        if rule.on == "drift" or rule.measure in LOWER_IS_BETTER:
            found.append(Limit(training_value + rule.falls_by, "above", f"{of_training} + {rule.falls_by:g}"))
        else:
            found.append(Limit(training_value - rule.falls_by, "below", f"{of_training} - {rule.falls_by:g}"))
    return found


def passed(value: float, rule_limits: list[Limit]) -> Limit | None:
    """Find the first limit that a value is beyond; a value on the limit is within it."""
    for limit in rule_limits:
        if value < limit.value if limit.side == "below" else value > limit.value:
            return limit
    return None


@dataclass(eq=False)
class Watch:
    """One rule on one version: the values of its windows and which steps have been announced."""

    pipeline: str
    model: str
    version: str
    rule: AlertRule
    limits: list[Limit]
    values: dict[Window, float] = field(default_factory=dict)
    #: What has been said: "raised|…" or "cleared|…" of the window that raised it -> the window it is about, its value.
    announced: dict[str, tuple[Window, float]] = field(default_factory=dict)

    def see(self, window: Window, value: float) -> None:
        """Take the value of a closed window, or its amended value. NaN says nothing about the rule."""
        if math.isnan(value):
            self.values.pop(window, None)
        else:
            self.values[window] = value

    def steps(self) -> list[Step]:
        """Follow the values in the order of the windows."""
        found: list[Step] = []
        opened: Window | None = None
        for window, value in sorted(self.values.items()):
            limit = passed(value, self.limits)
            if limit is not None and opened is None:
                opened = window
                found.append(Step("raised", window, window, value, limit))
            elif limit is None and opened is not None:
                found.append(Step("cleared", opened, window, value, found[-1].limit))
                opened = None
        return found

    def announce(self, now_ms: int) -> list[Alert]:
        """Give the alerts that are new since the last call."""
        steps = {f"{step.state}|{step.opened.start_ms}": step for step in self.steps()}
        alerts = []
        for key, step in steps.items():
            if key not in self.announced:
                self.announced[key] = (step.window, step.value)
                alerts.append(self._alert(step, now_ms, self._message(step)))
        for key, (opened, _) in list(self.announced.items()):
            state, _, start = key.partition("|")
            gone = f"cleared|{start}"
            if state == "raised" and key not in steps and gone not in self.announced:
                value = self.values.get(opened, math.nan)
                step = Step("cleared", opened, opened, value, (self.limits or [Limit(math.nan, "below", "")])[0])
                self.announced[gone] = (opened, value)
                words = f"{self._subject()} is {value:.4g} in {opened} after late data: {self.rule.name} is withdrawn"
                alerts.append(self._alert(step, now_ms, words))
        return alerts

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs beside the rule: JSON values."""
        return {
            "values": [[window.start_ms, window.end_ms, value] for window, value in sorted(self.values.items())],
            "announced": [
                [key, window.start_ms, window.end_ms, value] for key, (window, value) in sorted(self.announced.items())
            ],
        }

    def from_state(self, state: dict[str, Any]) -> None:
        self.values = {Window(start, end): value for start, end, value in state["values"]}
        self.announced = {key: (Window(start, end), value) for key, start, end, value in state["announced"]}

    def _alert(self, step: Step, now_ms: int, message: str) -> Alert:
        words = "|".join([self.pipeline, self.rule.name, self.model, self.version, str(step.opened.start_ms)])
        return Alert(
            alert_id=hashlib.sha256(words.encode()).hexdigest()[:20],
            pipeline=self.pipeline,
            rule=self.rule.name,
            severity=self.rule.severity,
            state=step.state,
            model=self.model,
            version=self.version,
            at_ms=now_ms,
            window_start_ms=step.window.start_ms,
            window_end_ms=step.window.end_ms,
            measure=self.rule.measure,
            value=step.value,
            limit=step.limit.value,
            message=message,
            action=self.rule.action if step.state == "raised" else "",
        )

    def _subject(self) -> str:
        what = "share of drifting metrics" if self.rule.on == "drift" else self.rule.measure
        return f"{what} of {self.model} {self.version}"

    def _message(self, step: Step) -> str:
        value, side, why = step.limit
        origin = f" ({why})" if why else ""
        if step.state == "raised":
            return f"{self._subject()} is {step.value:.4g} in {step.window}, {side} its limit {value:.4g}{origin}"
        return f"{self._subject()} is {step.value:.4g} in {step.window}, back within its limit {value:.4g}{origin}"
