"""Conversions from one unit to another, and how they are said."""

from __future__ import annotations

import math
from typing import NamedTuple


class Conversion(NamedTuple):
    """New value = ``factor`` * old value + ``offset``."""

    words: str
    factor: float
    offset: float = 0.0


def _pair(old: str, new: str, factor: float) -> tuple[Conversion, Conversion]:
    return Conversion(f"{old} to {new}", factor), Conversion(f"{new} to {old}", 1 / factor)


#: Several conversions have the same factor; one of the commonest is named.
CONVERSIONS = (
    *_pair("seconds", "milliseconds", 1000.0),
    *_pair("seconds", "microseconds", 1e6),
    *_pair("shares", "percentages", 100.0),
    *_pair("centimetres", "millimetres", 10.0),
    *_pair("minutes", "seconds", 60.0),
    *_pair("hours", "seconds", 3600.0),
    *_pair("days", "hours", 24.0),
    *_pair("days", "seconds", 86_400.0),
    *_pair("metres per second", "kilometres per hour", 3.6),
    *_pair("miles", "kilometres", 1.609344),
    *_pair("feet", "inches", 12.0),
    *_pair("metres", "feet", 3.28084),
    *_pair("inches", "centimetres", 2.54),
    *_pair("pounds", "kilograms", 0.45359237),
    Conversion("Celsius to Fahrenheit", 1.8, 32.0),
    Conversion("Fahrenheit to Celsius", 1 / 1.8, -32 / 1.8),
    Conversion("Celsius to Kelvin", 1.0, 273.15),
    Conversion("Kelvin to Celsius", 1.0, -273.15),
    Conversion("the other sign", -1.0),
)
_PERCENTAGES = 100.0
#: Lengths, times and weights are not negative; these may be.
_OF_ANY_SIGN = frozenset(conversion.words for conversion in CONVERSIONS if conversion.offset or conversion.factor < 0)


def how(conversion: Conversion, of: str) -> str:
    """What values are, of what they were: "1/100 of what they were", "1.8 times what they were plus 32"."""
    size, sign = abs(conversion.factor), "minus " if conversion.factor < 0 else ""
    if not conversion.words:  # it is only estimated
        size = float(f"{size:.2g}") if size > 1 else 1 / float(f"{1 / size:.2g}")
    times = f"{size:.4g} times " if size > 1 else f"1/{1 / size:.4g} of " if size < 0.2 else f"{size:.3g} times "
    if size == 1:
        times = ""
    offset = (
        f" {'plus' if conversion.offset > 0 else 'minus'} {abs(conversion.offset):.4g}" if conversion.offset else ""
    )
    return f"{sign}{times}{of}{offset}"


def in_brackets(conversion: Conversion, low: float, high: float) -> str:
    """An example of such a conversion that fits values from ``low`` to ``high``, in brackets; "" if there is none.

    Examples
    --------
    >>> to_shares = next(each for each in CONVERSIONS if each.words == "percentages to shares")
    >>> [in_brackets(to_shares, *values) for values in ((0.5, 99.0), (50.0, 182312.0), (50.2, 182312.7))]
    [' (percentages to shares)', ' (cents to a whole unit)', '']
    """
    words = conversion.words
    if words == "shares to percentages" and not 0 <= low <= high <= 1:
        words = "a whole unit to cents"
    elif words == "percentages to shares" and not 0 <= low <= high <= _PERCENTAGES:
        words = "cents to a whole unit" if _is_whole(low) and _is_whole(high) else ""
    elif low < 0 and words not in _OF_ANY_SIGN:
        words = ""
    return f" ({words})" if words else ""


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and abs(value - round(value)) <= 1e-9 * max(abs(value), 1.0)
