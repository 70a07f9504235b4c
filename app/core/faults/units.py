"""Another unit: the window's values are those of training times a factor, perhaps plus an offset.

It is a field of the events that may have another unit. A feature may be a known function of a field
(`app.core.features.paths`). Then that function is undone for the values of training, they are converted, and it is
applied again: a change of unit shifts a logarithm, for example. Where the function is no multiple, only factors are
looked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.core.faults.conversions import CONVERSIONS, Conversion, how, in_brackets
from app.core.faults.fault import Fault
from app.core.faults.law import FEWEST_FOR_A_SHAPE, distance, distance_within, gap
from app.core.faults.scale import ITSELF, Scale, largest

if TYPE_CHECKING:
    from app.core.faults.law import Law
    from app.core.features.paths import Path

#: The window's shares are at least this far from training's, for a small factor and for a large one, ...
_CHANGED = 0.5
_CHANGED_IF_FAR = 0.1
#: ... and this near to them in the other unit. Beside a factor or an offset that cannot be drift, some is allowed.
_NEAR = 0.02
_NEAR_IF_FAR = 0.2
#: But what is left is at most this part of what was.
_LEFT = 0.5
_FAR_FACTOR = 20.0
_FAR_OFFSET = 3.0
_SAME_FACTOR = 0.1
_REACH = 20.0
#: How far, and how closely, a factor without a name is looked for.
_FARTHEST_FACTOR = 1e9
_HALVINGS = 30


def find_unit(
    name: str, training: Law, window: Law, path: Path = ITSELF, *, takes_offsets: bool = True
) -> Fault | None:
    """Name the conversion that turns training's values into the window's; None where none does.

    Parameters
    ----------
    training, window
        Of one metric.
    path
        How it follows from the field whose unit may have changed.
    takes_offsets
        Whether what is added to the field is added to the metric, before the path.

    Returns
    -------
    Also None where the two are near anyway, or where the factor is small (miles to kilometres) and the values are
    spread so widely that a change of demand looks the same: that is drift until somebody says otherwise.
    """
    if min(training.n, window.n) < FEWEST_FOR_A_SHAPE:
        return None
    moved = gap(window, training)
    if moved < _CHANGED_IF_FAR:
        return None
    scale = Scale(training, window, path, takes_offsets)
    noise = 1.0 / math.sqrt(window.n)
    deviation = scale.deviation
    allowed = {
        conversion: _allowed(conversion, moved, deviation) + noise
        for conversion in CONVERSIONS
        if scale.is_possible(conversion)
    }
    limits = {
        conversion: min(most, _LEFT * moved)
        for conversion, most in allowed.items()
        if most >= 0 and _reach_alike(scale, conversion)
    }
    fits = [(_fit(scale, conversion, most), conversion) for conversion, most in limits.items()]
    near = sorted(((apart, conversion) for apart, conversion in fits if apart is not None), key=lambda fit: fit[0])
    free = _free_factor(scale)
    if free is not None and not any(_is_factor(conversion, free) for _, conversion in near):
        apart = distance(window, scale.convert(Conversion("", free)))
        allowed_free = _NEAR_IF_FAR if moved >= _CHANGED else _NEAR  # a few far values change the mean, too
        if apart <= min([allowed_free, *(fit - noise for fit, _ in near)]) + noise:
            near = [(apart, Conversion("", free))]
    if not near:
        return None
    apart, best = near[0]
    rivals = [conversion for fit, conversion in near[1:] if fit <= apart + noise / 2]
    return Fault("unit_changed", (name,), _sentence(name, scale, best, rivals), min(1.0, max(moved - apart, 0.01)))


def _fit(scale: Scale, conversion: Conversion, most: float) -> float | None:
    """How far the window is from the converted training; None where that is more than ``most``."""
    law = scale.convert(conversion)
    return distance_within(scale.window, law, most) if law.n else None


def _reach_alike(scale: Scale, conversion: Conversion) -> bool:
    """Whether the largest values are of one order of magnitude.

    The shares in the window's outer cells cannot show that. A few values that are as large as in training may be those
    that have not changed.
    """
    reach = largest(scale.field * conversion.factor + conversion.offset)
    return reach / _REACH <= scale.reach <= max(reach * _REACH, largest(scale.field))


def _allowed(conversion: Conversion, moved: float, deviation: float) -> float:
    """How far a window that is at distance ``moved`` from training may be from converted training, besides noise."""
    size, offset = abs(conversion.factor), abs(conversion.offset)
    if max(size, 1 / size) >= _FAR_FACTOR or offset >= _FAR_OFFSET * deviation > 0:
        return _NEAR_IF_FAR
    is_mere_factor = 0 < offset < deviation / 2  # 1.8 times without the 32 is no Fahrenheit
    return _NEAR if moved >= _CHANGED and not is_mere_factor else -1.0


def _is_factor(conversion: Conversion, factor: float) -> bool:
    """Whether an estimated factor may be the known one: means of a few hundred values are off by some percent."""
    return not conversion.offset and abs(factor / conversion.factor - 1) <= _SAME_FACTOR


def _free_factor(scale: Scale) -> float | None:
    """The factor that makes the means alike, if it cannot be drift; None where sums are saturated."""
    training, window = scale.training, scale.window
    if not math.isfinite(window.mean) or abs(window.mean) >= window.cap / 4:
        return None
    if scale.path.steps:
        return _factor_by_halving(scale)
    if not training.mean:
        return None
    factor = window.mean / training.mean
    return factor if factor and max(abs(factor), 1 / abs(factor)) >= _FAR_FACTOR else None


def _factor_by_halving(scale: Scale) -> float | None:
    """A factor of at least `_FAR_FACTOR`, or at most its reciprocal, with which the mean is the window's."""
    sign = 1 if scale.path.is_rising else -1

    def is_too_large(factor: float) -> bool:
        return not sign * scale.convert(Conversion("", factor)).mean <= sign * scale.window.mean

    for least, most in ((_FAR_FACTOR, _FARTHEST_FACTOR), (1 / _FARTHEST_FACTOR, 1 / _FAR_FACTOR)):
        if is_too_large(least) or not is_too_large(most):
            continue
        low, high = least, most
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if is_too_large(middle) else (middle, high)
        return math.sqrt(low * high)
    return None


def _sentence(name: str, scale: Scale, best: Conversion, rivals: list[Conversion]) -> str:
    words = [
        f"{how(conversion, 'those of training')}{in_brackets(conversion, *scale.extremes)}"
        for conversion in (best, *rivals)
    ]
    start = f"`{name}` looks as if in another unit"
    if rivals:
        return f"{start}; which one cannot be told: {', or '.join(words)}."
    return f"{start}: its values are about {words[0]}."
