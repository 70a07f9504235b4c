"""Another unit: the window's values are those of training times a factor, perhaps plus an offset."""

from __future__ import annotations

import math
from typing import NamedTuple

from app.core.faults.fault import Fault
from app.core.faults.law import FEWEST, Law, distance, gap

#: The window's shares are at least so far from training's, for a small factor and for a large one, ...
_CHANGED = 0.5
_CHANGED_IF_FAR = 0.1
#: ... and so near to them in the other unit. Beside a factor or an offset that no drift is, some drift is allowed.
_NEAR = 0.02
_NEAR_IF_FAR = 0.2
#: But what is left is at most this part of what was.
_LEFT = 0.5
_FAR_FACTOR = 20.0
_FAR_OFFSET = 3.0
_SAME_FACTOR = 0.1
_REACH = 20.0


class Conversion(NamedTuple):
    """New value = ``factor`` * old value + ``offset``."""

    words: str
    factor: float
    offset: float = 0.0


def _pair(old: str, new: str, factor: float) -> tuple[Conversion, Conversion]:
    return Conversion(f"{old} to {new}", factor), Conversion(f"{new} to {old}", 1 / factor)


#: A factor has several names; one of the commonest is said.
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


def find_unit(name: str, training: Law, window: Law) -> Fault | None:
    """Name the conversion that makes training's values of the window's; None where none does.

    Parameters
    ----------
    training, window
        Of one metric.

    Returns
    -------
    None, too, where the two are near anyway, or where the factor is small (miles to kilometres) and the values are
    spread so widely that a change of demand looks the same: that is drift until somebody says otherwise.
    """
    if min(training.n, window.n) < FEWEST:
        return None
    now = gap(window, training)
    if now < _CHANGED_IF_FAR:
        return None
    noise = 1.0 / math.sqrt(window.n)
    _, deviation = training.moments(math.inf)
    allowed = {each: _allowed(each, now, deviation) + noise for each in CONVERSIONS}
    converted = [(training.scaled(each.factor, each.offset), each) for each in CONVERSIONS]
    fits = [(distance(window, law), each) for law, each in converted if _reach_alike(window, law)]
    near = sorted(
        ((apart, each) for apart, each in fits if apart <= min(allowed[each], _LEFT * now)), key=lambda fit: fit[0]
    )
    free = _free_factor(training, window)
    if free is not None and not any(_is_factor(each, free) for _, each in near):
        apart = distance(window, training.scaled(free, 0.0))
        allowed_free = _NEAR_IF_FAR if now >= _CHANGED else _NEAR  # a few far values change the mean, too
        if apart <= min([allowed_free, *(fit - noise for fit, _ in near)]) + noise:
            near = [(apart, Conversion("", free))]
    if not near:
        return None
    apart, best = near[0]
    rivals = [each for fit, each in near[1:] if fit <= apart + noise / 2]
    return Fault("unit_changed", (name,), _sentence(name, best, rivals), min(1.0, max(now - apart, 0.01)))


def _reach_alike(window: Law, converted: Law) -> bool:
    """Whether the largest values are of one order: shares beyond the window's last cell cannot say that."""
    return converted.reach / _REACH <= window.reach <= converted.reach * _REACH


def _allowed(conversion: Conversion, now: float, deviation: float) -> float:
    """How far from the converted training a window may be, besides noise, that is ``now`` so far from training."""
    size, offset = abs(conversion.factor), abs(conversion.offset)
    if max(size, 1 / size) >= _FAR_FACTOR or offset >= _FAR_OFFSET * deviation > 0:
        return _NEAR_IF_FAR
    is_mere_factor = 0 < offset < deviation / 2  # 1.8 times without the 32 is no Fahrenheit
    return _NEAR if now >= _CHANGED and not is_mere_factor else -1.0


def _is_factor(conversion: Conversion, factor: float) -> bool:
    """Whether an estimated factor may be the known one: means of a few hundred values are off by some percent."""
    return not conversion.offset and abs(factor / conversion.factor - 1) <= _SAME_FACTOR


def _free_factor(training: Law, window: Law) -> float | None:
    """The factor between the means, if it is no matter of drift; None where sums are saturated."""
    if not training.mean or not math.isfinite(window.mean) or abs(window.mean) >= window.cap / 4:
        return None
    factor = window.mean / training.mean
    return factor if factor and max(abs(factor), 1 / abs(factor)) >= _FAR_FACTOR else None


def _sentence(name: str, best: Conversion, rivals: list[Conversion]) -> str:
    start = f"`{name}` seems to be in another unit"
    if rivals:
        words = [f"{_how(each)} ({each.words})" for each in (best, *rivals)]
        return f"{start}; which one cannot be told: {', or '.join(words)}."
    return f"{start}: its values are {_how(best)}{f' ({best.words})' if best.words else ''}."


def _how(conversion: Conversion) -> str:
    size, sign = abs(conversion.factor), "minus " if conversion.factor < 0 else ""
    times = f"{size:.4g} times " if size > 1 else f"1/{1 / size:.4g} of " if size < 0.2 else f"{size:.3g} times "
    if size == 1:
        times = ""
    offset = (
        f" {'plus' if conversion.offset > 0 else 'minus'} {abs(conversion.offset):.4g}" if conversion.offset else ""
    )
    return f"{sign}{times}those of training{offset}"
