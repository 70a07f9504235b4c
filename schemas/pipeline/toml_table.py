"""Typed reading of a TOML table. Whatever is wrong with a key is one sentence that names file, key and the fix."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from schemas.pipeline.expression import suggest
from schemas.pipeline.spec import PipelineError

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)\Z")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_MISSING: Any = object()


def parse_duration(text: str) -> int | None:
    """Milliseconds of "100ms", "5s", "5m", "3h" or "1d"; None when it is none of these.

    Examples
    --------
    >>> parse_duration("90s")
    90000
    """
    match = _DURATION.match(text)
    return int(match[1]) * _UNIT_MS[match[2]] if match else None


class TomlTable:
    """One table of a file: each method takes a key's value and checks its type.

    Parameters
    ----------
    file
        What errors call the file.
    path
        Dotted place of the table in the file; "" for the top.
    values
        The parsed table.
    """

    def __init__(self, file: str, path: str, values: dict[str, Any]) -> None:
        self.file = file
        self.path = path
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def keys(self) -> list[str]:
        return list(self._values)

    def fail(self, key: str, sentence: str) -> NoReturn:
        """Raise the error about ``key`` ("" for the table itself)."""
        place = ".".join(part for part in (self.path, key) if part)
        end = "" if sentence.endswith("?") else "."
        raise PipelineError(f"{self.file}: {place + ': ' if place else ''}{sentence}{end}")

    def allow(self, *known: str) -> None:
        """Refuse any other key."""
        for key in self._values:
            if key not in known:
                self.fail(key, f"unknown key; {suggest(key, known)}")

    def text(self, key: str, default: str = _MISSING, *, fix: str = "") -> str:
        value = self._get(key, default, str, "a string", fix)
        if value == "" and default != "":
            self.fail(key, f"must not be empty{'; ' + fix if fix else ''}")
        return str(value)

    def word(self, key: str, words: Sequence[str], default: str = _MISSING) -> Any:
        """One of ``words``, which the caller's Literal lists."""
        value = self._get(key, default, str, "a string", f"use {_either(words)}")
        if value not in words:
            self.fail(key, f'"{value}" is not known; use {_either(words)}')
        return value

    def integer(self, key: str, default: int, *, low: int, high: int = 2**31) -> int:
        value = self._get(key, default, int, "a whole number")
        if not low <= value <= high:
            self.fail(key, f"{value} is out of range; use a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, default: Any = _MISSING, *, low: float = -1e300, high: float = 1e300) -> float:
        value = self._get(key, default, (int, float), "a number")
        if not low <= value <= high:
            self.fail(key, f"{value} is out of range; use a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._get(key, default, bool, "true or false"))

    def duration(self, key: str, default: str = _MISSING, *, least_ms: int = 0) -> int:
        """Milliseconds of a duration."""
        value = self._get(key, default, str, "a duration", 'for example "5m"')
        milliseconds = parse_duration(value)
        if milliseconds is None:
            self.fail(key, f'"{value}" is not a duration; write a whole number and ms, s, m, h or d, for example "5m"')
        if milliseconds < least_ms:
            self.fail(key, f'"{value}" is too short; use at least {least_ms} ms')
        return milliseconds

    def time_ms(self, key: str, default: dt.datetime = _MISSING) -> int:
        """Milliseconds since 1970 UTC of a date-time with an offset."""
        value = self._get(key, default, dt.datetime, "a time", "for example 2013-01-01T00:00:00Z")
        if value.tzinfo is None:
            self.fail(key, "the time has no offset; end it with Z for UTC")
        milliseconds: int = (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
        return milliseconds

    def time_of_day_ms(self, key: str, default: dt.time = _MISSING) -> int:
        """Milliseconds since midnight of a time of day."""
        value = self._get(key, default, dt.time, "a time of day", "for example 02:00:00")
        return int(((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000)

    def texts(self, key: str, default: Any = _MISSING) -> tuple[str, ...]:
        value = self._get(key, default, (list, tuple), "a list of strings", 'for example ["a", "b"]')
        if not all(isinstance(item, str) for item in value):
            self.fail(key, 'must hold strings alone, for example ["a", "b"]')
        for item in value:
            if value.count(item) > 1:
                self.fail(key, f'"{item}" is named twice; name it once')
        return tuple(value)

    def mapping(self, key: str, fix: str) -> dict[str, str]:
        value = self._get(key, _MISSING, dict, "a table of strings", fix)
        if not value or not all(isinstance(item, str) for item in value.values()):
            self.fail(key, f"must be a table of strings; {fix}")
        return dict(value)

    def table(self, key: str, *, required: bool = False, fix: str = "") -> TomlTable:
        """The table under ``key``; an empty one when it may be missing and is."""
        value = self._get(key, _MISSING if required else {}, dict, "a table", fix)
        return TomlTable(self.file, ".".join(part for part in (self.path, key) if part), value)

    def tables(self, key: str, label: str = "name") -> list[TomlTable]:
        """The tables of an array of tables; errors call each by its ``label``."""
        value = self._get(key, [], list, f"a list of tables, [[{key}]]")
        tables = []
        for position, item in enumerate(value, start=1):
            if not isinstance(item, dict):
                self.fail(key, f"entry {position} must be a table; write it as [[{key}]]")
            name = item.get(label)
            place = f"{key}.{name}" if isinstance(name, str) and name else f"{key}[{position}]"
            tables.append(TomlTable(self.file, ".".join(part for part in (self.path, place) if part), item))
        return tables

    def _get(self, key: str, default: Any, types: Any, called: str, fix: str = "") -> Any:
        if key not in self._values:
            if default is _MISSING:
                self.fail(key, f"is missing; give {called}{', ' + fix if fix else ''}")
            return default
        value = self._values[key]
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            self.fail(key, f"must be {called}, not {_say(value)}{'; ' + fix if fix else ''}")
        return value


def _say(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def _either(words: Iterable[str]) -> str:
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
