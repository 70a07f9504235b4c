"""Reads the table [drift] of a pipeline file: windows, what they are compared with, tests, the budget."""

from __future__ import annotations

import datetime as dt

from schemas.pipeline.detectors import read_detectors
from schemas.pipeline.expression import suggest
from schemas.pipeline.spec import MISSING, Drift, DriftTest, FalseAlarms, Feature, PastWindow
from schemas.pipeline.toml_table import TomlTable, parse_duration

_DAY_MS = 86_400_000

#: The most values that a column may have if it cuts events into segments: each is counted as all events are.
MOST_SEGMENTS = 64

_EFFECT = {"minimum_effect": (0.1, 0.0, 1.0)}
#: Settings of each drift test: name -> (default, lowest, highest).
DRIFT_TESTS: dict[str, dict[str, tuple[float, float, float]]] = {
    "psi": {"minimum_effect": (0.1, 0, 100)},
    "ks": _EFFECT,
    "wasserstein": {"minimum_effect": (0.1, 0, 100)},
    "jensen_shannon": _EFFECT,
    "chi_square": _EFFECT,
    "null_rate": {"minimum_effect": (0.02, 0, 1)},
    "unseen": {"minimum_effect": (0.01, 0, 1)},
    "range": {"minimum_effect": (0.01, 0, 1)},
    "interval": {"minimum_effect": (0.5, 0, 1)},
    "trend": {"minimum_effect": (0.1, 0, 100), "minimum_history": (20, 10, 10_000)},
    "classic_ks": {"alpha": (0.05, 0, 1)},
    "classic_interval": {"low": (2.5, 0, 50), "high": (97.5, 50, 100), "minimum_history": (5, 2, 10_000)},
    "classic_trend": {"alpha": (0.05, 0, 1), "minimum_history": (5, 3, 10_000)},
}
#: What runs where a file names no tests. Those that say much the same as others are left out.
DEFAULT_TESTS = (
    *("psi", "ks", "chi_square", "null_rate", "unseen", "range", "interval", "trend"),
    *("classic_ks", "classic_interval", "classic_trend"),
)


def read_drift(top: TomlTable, features: tuple[Feature, ...], *, with_labels: bool) -> Drift:
    """The table ``[drift]``."""
    table = top.table("drift")
    table.allow(
        *("window", "every", "slice", "grace", "bins", "tests", "against", "detectors", "segments"),
        *("false_alarms", "per", "per_events"),
    )
    slice_ms = table.duration("slice", "1d", least_ms=1000)
    window = table.text("window", "month")
    window_ms = parse_duration(window)
    if window == "month":
        if _DAY_MS % slice_ms:
            table.fail("slice", 'must divide a day, as months are made of days; use for example "1d" or "1h"')
    else:
        if window_ms is None:
            table.fail("window", f'"{window}" is neither "month" nor a duration; write for example "1d"')
        if window_ms == 0 or window_ms % slice_ms:
            table.fail("window", f'"{window}" is not a multiple of the slice; change one of them')
    every_ms = None
    if "every" in table:
        every_ms = table.duration("every", least_ms=slice_ms)
        if window_ms is None:
            table.fail("every", 'months do not overlap; remove it, or use a window such as "30d"')
        if every_ms % slice_ms or window_ms % every_ms:
            table.fail("every", "must be a multiple of the slice, and the window one of it; change one of them")
    tests = tuple(_read_test(test) for test in table.tables("tests", "test")) or tuple(
        default_test(name) for name in DEFAULT_TESTS
    )
    return Drift(
        window=window,
        slice_ms=slice_ms,
        grace_ms=table.duration("grace", "1h"),
        bins=table.integer("bins", 128, low=10, high=4096),
        tests=tests,
        false_alarms=_read_false_alarms(table),
        every_ms=every_ms,
        against=_read_against(table, window_ms, every_ms or window_ms),
        detectors=read_detectors(table, with_labels=with_labels),
        segments=_read_segments(table, features),
    )


def _read_false_alarms(table: TomlTable) -> FalseAlarms:
    number = table.number("false_alarms", 1.0, low=1e-6, high=1e6)
    if "per_events" not in table:
        return FalseAlarms(number, per_ms=table.duration("per", "30d", least_ms=1000))
    if "per" in table:
        table.fail("per_events", "stands beside per; keep the one that the budget is meant by")
    return FalseAlarms(number, per_events=table.integer("per_events", 0, low=1, high=2**53))


def _read_against(drift: TomlTable, window_ms: int | None, every_ms: int | None) -> PastWindow | None:
    if "against" not in drift:
        return None
    table = drift.table("against")
    table.allow("window", "season")
    if ("window" in table) == ("season" in table):
        table.fail(
            "", 'needs a window (a time in it) or a season ("7d", "year"); without against it is the training data'
        )
    if "window" in table:
        return PastWindow(start_ms=table.time_ms("window", dt.datetime(1970, 1, 1, tzinfo=dt.UTC)))
    if window_ms is None or every_ms is None:
        table.word("season", ("year",))
        return PastWindow(months=12)
    season_ms = table.duration("season", least_ms=window_ms)
    if season_ms % every_ms:
        table.fail("season", "must be a multiple of the time from one window to the next; change one of them")
    return PastWindow(season_ms=season_ms)


def _read_segments(drift: TomlTable, features: tuple[Feature, ...]) -> tuple[str, ...]:
    by_name = {feature.name: feature for feature in features}
    choices = [feature.name for feature in features if feature.type in {"category", "bool"}]
    names = drift.texts("segments", ())
    for name in names:
        if name not in by_name:
            drift.fail("segments", f'there is no feature "{name}"; {suggest(name, choices)}')
        feature = by_name[name]
        if name not in choices:
            drift.fail(
                "segments",
                f'"{name}" is of type {feature.type}, whose values are too many to cut by; make a category or bool of '
                "it by an expression, and name that",
            )
        if len(feature.values) > MOST_SEGMENTS:
            drift.fail(
                "segments",
                f'"{name}" has {len(feature.values)} values, and a column may cut into {MOST_SEGMENTS} at most; make a '
                "category of fewer values by an expression, and name that",
            )
        if MISSING in feature.values:
            drift.fail(
                "segments",
                f'"{MISSING}" among the values of "{name}" is what events without a value are called; leave the value '
                "out, and it counts as unseen",
            )
    return names


def default_test(name: str) -> DriftTest:
    """The test of a name with the settings that it has where the file gives none."""
    settings = {key: default for key, (default, _, _) in DRIFT_TESTS[name].items()}
    return DriftTest(name, settings)  # type: ignore[arg-type]  # a name of a test


def _read_test(table: TomlTable) -> DriftTest:
    name = table.word("test", tuple(DRIFT_TESTS))
    table.allow("test", *DRIFT_TESTS[name])
    settings = {
        key: table.number(key, default, low=low, high=high) for key, (default, low, high) in DRIFT_TESTS[name].items()
    }
    return DriftTest(name, settings)
