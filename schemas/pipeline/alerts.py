"""Reads the alert rules of a pipeline file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from schemas.pipeline.spec import (
    LEAST_OF_DECISIONS,
    PERFORMANCE_MEASURES,
    AlertRule,
    Drift,
    Performance,
    Severity,
    Silence,
    VerdictKind,
)
from schemas.pipeline.toml_table import TomlTable, parse_duration

_MEASURES = {"performance": (*PERFORMANCE_MEASURES, "labels_missing"), "drift": ("share",)}
_LIMITS = ("below", "above", "falls_by")
_BELOW_EXPECTED = "below_expected"
#: Verdicts that only labels can bring.
_OF_LABELS = ("label_prior_drift", "concept_drift")
_DAY_MS = 86_400_000
#: In the order of 1970: its first day was a Thursday.
_WEEK = ("thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday")
_LINK = re.compile(r"https?://[^\s/]\S*\Z")

#: Where a file has no alerts of its own: what always needs somebody to act, whatever its size.
_FAULT = AlertRule("pipeline-fault", "verdict", "verdict", "critical", kinds=("pipeline_fault",))
#: With labels: that the model has become worse, told once, first in numbers.
_WORSE = (
    AlertRule("worse-than-promised", "performance", "auc", "warning", below_expected=True, group="model-worse"),
    AlertRule("concept-drift", "verdict", "verdict", "warning", kinds=("concept_drift",), group="model-worse"),
)
#: That labels of one kind, or all, do not come any more: the value is 1 where that is so, otherwise 0.
_MISSING = AlertRule("labels-missing", "performance", "labels_missing", "warning", above=0.5)
#: With detectors of wrong decisions.
_ERRORS = AlertRule("errors-changed", "error", "error", "warning")
#: Of the stream itself: unless the file has rules on the same, or ``alerts = []``.
_LABELS = AlertRule("labels-without-event", "labels", "without_event", "warning", above=0.05)
_ENTITIES = AlertRule("entity-in-two-partitions", "entities", "entities", "critical")


def read_alerts(
    top: TomlTable, drift: Drift, performance: Performance, *, with_labels: bool, watches_entities: bool
) -> tuple[AlertRule, ...]:
    """The rules of ``[[alerts]]``, or the default ones of a file without it, and those of the stream itself."""
    measures = [name for name in _MEASURES["performance"] if name != "cost" or performance.costs is not None]
    rules = _read_rules(top, drift, measures, with_labels=with_labels, watches_entities=watches_entities)
    least = {**LEAST_OF_DECISIONS, **performance.minimum_effects}
    return tuple(replace(rule, minimum_effect=least[rule.measure]) if rule.below_expected else rule for rule in rules)


def _read_rules(
    top: TomlTable, drift: Drift, measures: Sequence[str], *, with_labels: bool, watches_entities: bool
) -> tuple[AlertRule, ...]:
    of_stream = [*([_LABELS] if with_labels else []), *([_ENTITIES] if watches_entities else [])]
    if "alerts" not in top:
        of_model = [*((*_WORSE, _MISSING) if with_labels else ()), *([_ERRORS] if drift.detectors else [])]
        return (_FAULT, *of_model, *of_stream)
    rules: list[AlertRule] = []
    for table in top.tables("alerts"):
        name = table.text("name", fix='for example name = "auc-fell"')
        if any(rule.name == name for rule in rules):
            table.fail("name", f'"{name}" is used by two alerts; rename one')
        rules.append(_read_rule(table, name, drift.window, measures, with_labels=with_labels))
    missing = [rule for rule in of_stream if all(rule.name != given.name and rule.on != given.on for given in rules)]
    return tuple(rules + missing) if rules else ()


def _read_rule(table: TomlTable, name: str, window: str, measures: Sequence[str], *, with_labels: bool) -> AlertRule:
    on = table.word("on", ("performance", "drift", "verdict", "error", "labels", "entities"))
    common = ("name", "on", "severity", "for", "clears_after", "cooldown", "since", "group", "silence", "owner")
    of_kind = {"verdict": ("kinds",), "error": (), "entities": (), "labels": ("above", "clears_at")}
    own = of_kind.get(on, ("measure", *_LIMITS, *([_BELOW_EXPECTED] if on == "performance" else []), "clears_at"))
    table.allow(*common, "runbook", "action", *own)
    if on in {"performance", "error", "labels"} and not with_labels:
        table.fail("on", f'{on} needs labels; add [labels] or use on = "drift"')
    measure = table.word("measure", _MEASURES[on]) if on in _MEASURES else {"labels": _LABELS.measure}.get(on, on)
    if on == "performance" and measure not in measures:
        table.fail("measure", f'"{measure}" needs what errors cost; add [performance.costs], or use {measures[0]}')
    limits = _read_limits(table, on)
    if measure == _MISSING.measure and limits["above"] is None:
        table.fail(_BELOW_EXPECTED if limits[_BELOW_EXPECTED] else "", f'"{measure}" is 1 or 0; give above = 0.5')
    return AlertRule(
        name=name,
        on=on,
        measure=measure,
        severity=table.word("severity", get_args(Severity), "warning"),
        **limits,
        action=table.word("action", ("", "retrain"), ""),
        kinds=_read_kinds(table, with_labels=with_labels) if on == "verdict" else (),
        for_windows=table.integer("for", 1, low=1, high=1000),
        clears_after=table.integer("clears_after", 2 if limits["clears_at"] is None else 1, low=1, high=1000),
        cooldown_ms=table.duration("cooldown", "0s"),
        since_ms=table.time_ms("since") if "since" in table else None,
        group=table.text("group", ""),
        silences=tuple(_read_silence(silence, window) for silence in table.tables("silence", "")),
        owner=table.text("owner", ""),
        runbook=_read_runbook(table),
    )


def _read_limits(table: TomlTable, on: str) -> dict[str, Any]:
    limits = {key: table.number(key) if key in table else None for key in (*_LIMITS, "clears_at")}
    given = [key for key in _LIMITS if limits[key] is not None]
    limits[_BELOW_EXPECTED] = on == "performance" and table.flag(_BELOW_EXPECTED, default=False)
    others = [*given, *(["clears_at"] if "clears_at" in table else [])]
    if limits[_BELOW_EXPECTED] and others:
        table.fail(_BELOW_EXPECTED, f"is a limit by itself, and there is {others[0]}; make a rule of each")
    if on in _MEASURES and not given and not limits[_BELOW_EXPECTED]:
        choices = "below, above, falls_by or below_expected = true" if on == "performance" else "below or above"
        table.fail("", f"has no limit; give {choices}")
    if on == "labels" and not given:
        table.fail("", "has no limit; give above, for example above = 0.05")
    if on == "drift" and "falls_by" in given:
        table.fail("falls_by", "needs a training value, which drift has not; use below or above")
    milder = limits["clears_at"]
    if milder is not None:
        if len(given) > 1:
            table.fail("clears_at", f"belongs to one limit, and there are {' and '.join(given)}; make a rule of each")
        limit = limits[given[0]]
        if limit is not None and (milder < limit if given[0] == "below" else milder > limit):
            side = "at or above" if given[0] == "below" else "at or below"
            table.fail("clears_at", f"{milder:g} is no milder than {given[0]} = {limit:g}; use a number {side} it")
    return limits


def _read_kinds(table: TomlTable, *, with_labels: bool) -> tuple[str, ...]:
    known = [kind for kind in get_args(VerdictKind) if kind != "none"]
    kinds = table.texts("kinds")
    for kind in kinds:
        if kind not in known:
            table.fail("kinds", f'"{kind}" is no verdict to be alerted by; use some of {", ".join(known)}')
        if kind in _OF_LABELS and not with_labels:
            table.fail("kinds", f'"{kind}" is never said without labels; add [labels] or leave it out')
    if not kinds:
        table.fail("kinds", f"names no verdict; use some of {', '.join(known)}")
    return kinds


def _read_runbook(table: TomlTable) -> str:
    link = table.text("runbook", "")
    if link and not _LINK.match(link):
        table.fail("runbook", f'"{link}" is no link; write for example "https://wiki.example.com/auc-fell"')
    return link


def _read_silence(table: TomlTable, window: str) -> Silence:
    table.allow("from", "to", "every", "why")
    why = table.text("why", fix='for example why = "nightly load"')
    if "every" not in table:
        from_ms, to_ms = table.time_ms("from"), table.time_ms("to")
        if to_ms <= from_ms:
            table.fail("to", "must be after from; swap them")
        return Silence(from_ms, to_ms, why)
    every = table.word("every", ("day", *_WEEK[4:], *_WEEK[:4]))
    every_ms, first_ms = (_DAY_MS, 0) if every == "day" else (7 * _DAY_MS, _WEEK.index(every) * _DAY_MS)
    from_ms, to_ms = table.time_of_day_ms("from"), table.time_of_day_ms("to")
    if to_ms <= from_ms:
        to_ms += _DAY_MS  # over midnight
    window_ms = parse_duration(window)
    if window_ms is None or window_ms > every_ms - (to_ms - from_ms):
        table.fail("every", f'a window of "{window}" is never outside of it; use from and to with dates')
    return Silence(first_ms + from_ms, first_ms + to_ms, why, every_ms)
