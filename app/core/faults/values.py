"""Faults of one metric's values: missing, constant, infinite, out of range, a stand-in, clipped, another vocabulary.

Each compares a window with training by a rule that a shift, a change of spread or a season do not meet. n' is the
number of the window's values divided by the metric's design effect; d = 0.05 + 1 / sqrt(n').

======================= =============================================================================================
kind                    rule
======================= =============================================================================================
missing_values          missing in at least 5 % more of all events than in training, at three times the odds, beyond
                        chance (p < 1e-6 for n'); or in all, and in less than 5 % in training
missing_values_filled   at most a twentieth of training's share is missing, where that was at least 5 %
constant                one value alone, at most 98 % of training; its share to the power n' is < 1e-6, and n' >= 100
                        where no test has signalled
infinite_values         infinite, never so in training, and at least 1 % of the values are in that outer cell
out_of_range            all values are beyond the range of training, by more than its width
stand_in_value          at least 5 % in one narrow cell that had at most 2 %, and a fifth of that, in training, while no
                        share of the other values below any point has moved by more than d; or at least 5 % of one value
                        that is farther from training's range than a quarter of its width; or as much
                        of nought, or of one value on the other side of it, where training had none: as the mean says,
                        or because training begins near nought
clipped                 the last used cell at either end holds at least 5 %, had 2 % at most and a fifth of that; it
                        holds what training had beyond it, and up to there no share has moved by more than d
vocabulary_changed      at least 5 % of the values are none of the signature's
category_vanished       none of a value of the signature that had 5 % in training, with (1 - its share) to the power
                        n' < 1e-6; that none is unseen any more is good news
======================= =============================================================================================

The shapes "stand-in" and "clipped" are only looked for with n' >= 100 and ten cells in use: of few values, a share that
changes is drift. The design effects matter: of a day's events, the weekday is one value and the weather a few dozen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from app.core.drift.statistics.shares import change_of_share
from app.core.faults.column import CERTAIN, Column
from app.core.faults.fault import Fault, percent
from app.core.faults.law import FEWEST_FOR_A_SHAPE

if TYPE_CHECKING:
    from collections.abc import Iterator


_SHARE = 0.05
_ODDS = 3.0
_FILLED = 1 / 20
_INFINITE = 0.01
_MOST = 0.9
_USUAL = 0.98
_ALMOST_ALL = 0.98
_HALF = 0.5
_RARE = 0.02
_TIMES = 5.0
#: A cell is narrow if it is no wider than this part of the range that the middle eight tenths of training are in.
_NARROW = 0.015
_FAR = 0.25
#: The mean of what is in an outer cell is this near to the extreme, in the same measure, if it holds nothing else.
_BESIDE = 0.05
_STANDS = ": it may stand for a missing value."


def find_in_values(column: Column) -> Iterator[Fault]:
    """Find what is wrong with a metric's values: missing values, and the first of the other kinds that applies."""
    yield from _missing(column)
    if column.n_training == 0 or column.n < FEWEST_FOR_A_SHAPE:
        return
    checks = (_vocabulary, _constant, _vanished) if column.cells.is_coded else _NUMERIC_CHECKS
    yield from (fault for fault in [next(filter(None, (check(column) for check in checks)), None)] if fault)


def _missing(column: Column) -> Iterator[Fault]:
    size = column.cells.size
    some, n = int(column.training[size]), int(column.training.sum())
    some_now, m = int(column.window[size]), int(column.window.sum())
    if n == 0 or m < FEWEST_FOR_A_SHAPE:
        return
    reference, detection, effect = some / n, some_now / m, max(column.design_effect, 1.0)
    is_gone = some_now == m and reference < _SHARE  # a source that fails, fails for all that depends on it
    change = change_of_share(some, n, round(some_now / effect), max(round(m / effect), 1))
    if not is_gone and float(change.p_value) >= CERTAIN:
        return
    odds, odds_now = (some + 0.5) / (n - some + 0.5), (some_now + 0.5) / (m - some_now + 0.5)
    if detection - reference >= _SHARE and odds_now >= _ODDS * odds:
        words = f"in all {column.events}" if some_now == m else f"in {percent(detection)} of {column.events}"
        sentence = f"`{column.name}` is missing {words}, {percent(reference)} in training."
        yield Fault("missing_values", (column.name,), sentence, detection - reference)
    elif reference >= _SHARE and detection <= reference * _FILLED:
        words = f"in {percent(detection)} of {column.events}, {percent(reference)} in training: something fills it in"
        yield Fault(
            "missing_values_filled", (column.name,), f"`{column.name}` is missing {words}.", reference - detection
        )


def _constant(column: Column) -> Fault | None:
    if column.extremes[0] != column.extremes[1] or column.training_extremes[0] == column.training_extremes[1]:
        return None
    cell = int(np.argmax(column.window[: column.cells.size]))
    share = float(column.shares[0][cell])
    if share > _USUAL or column.chance(share) >= CERTAIN:
        return None
    value = _category(column, cell) if column.cells.is_coded else f"{column.extremes[0]:.6g}"
    sentence = f"`{column.name}` is {value} in all {column.events}; in training it varied."
    return Fault("constant", (column.name,), sentence, 1.0 - share)


def _infinite(column: Column) -> Fault | None:
    window = column.shares[1]
    for trained, extreme, share in zip(column.training_extremes, column.extremes, (window[0], window[-1]), strict=True):
        if math.isinf(extreme) and not math.isinf(trained) and share >= _INFINITE:
            words = f"infinite values, in up to {percent(float(share))} of {column.events}; none in training."
            return Fault("infinite_values", (column.name,), f"`{column.name}` has {words}", float(share))
    return None


def _range(column: Column) -> Fault | None:
    (least, most), (low, high) = column.training_extremes, column.extremes
    width = most - least
    side = "above" if low > most + width else "below" if high < least - width else ""
    if not side or not math.isfinite(width):
        return None
    words = f"between {low:.4g} and {high:.4g}; in training between {least:.4g} and {most:.4g}"
    return Fault("out_of_range", (column.name,), f"`{column.name}` is far {side} all that training had: {words}.", 1.0)


def _stand_in(column: Column) -> Fault | None:
    reference, detection = column.shares
    far = _far_value(column)
    if far is not None:
        value, q = far
        sentence = f"`{column.name}` is {value:.6g} in {percent(q)} of {column.events}, far from all that training had"
        return Fault("stand_in_value", (column.name,), f"{sentence}{_STANDS}", q)
    edge = _edge_value(column)
    if edge is not None:
        value, p, q = edge
        start = f"`{column.name}` is {value:.6g} in {percent(q)} of {column.events}, {percent(p)} in training"
        start += f"; the others are as they were{_STANDS}"
        return Fault("stand_in_value", (column.name,), start, q - p)
    cell = int(np.argmax(detection - reference))
    p, q = float(reference[cell]), float(detection[cell])
    others = np.arange(len(detection)) != cell
    if not column.is_shaped or not _stands_out(p, q) or q > _MOST or not column.is_more(cell):
        return None
    if not _is_narrow(column, cell) or not column.is_unchanged(
        reference[others] / (1 - p), detection[others] / (1 - q)
    ):
        return None
    words = f"`{column.name}` is {_place(column, cell)} in {percent(q)} of {column.events}, {percent(p)} in training"
    sentence = f"{words}; the others are as they were{_STANDS}"
    return Fault("stand_in_value", (column.name,), sentence, q - p)


def _far_value(column: Column) -> tuple[float, float] | None:
    """A value far beyond the range of training, if an outer cell holds nothing else; and its share."""
    width = column.training_extremes[1] - column.training_extremes[0]
    if width <= 0:
        return None  # nothing is far from what never varied; of an infinite width or an unknown mean, no value is
    shares = column.shares[1]
    middles = np.concatenate(
        [
            [column.training_extremes[0]],
            (column.cells.edges[:-1] + column.cells.edges[1:]) / 2,
            [column.training_extremes[1]],
        ]
    )
    for cell, value, end in (
        (0, column.extremes[0], column.training_extremes[0]),
        (len(shares) - 1, column.extremes[1], column.training_extremes[1]),
    ):
        q = float(shares[cell])
        others = np.arange(len(shares)) != cell
        if not _SHARE <= q <= _MOST or not width * _FAR < abs(value - end) < math.inf:
            continue
        outer = (column.mean - float(shares[others] @ middles[others])) / q
        if abs(outer - value) <= abs(value - end) / 5:
            return value, q
    return None


def _edge_value(column: Column) -> tuple[float, float, float] | None:
    """Nought, or a value on its other side, if an outer cell beyond training holds nothing else; and its shares."""
    reference, detection = column.shares
    (least, most), edges = column.training_extremes, column.cells.edges
    if not column.is_shaped or not math.isfinite(most - least) or math.isnan(column.mean + column.training_mean):
        return None
    middles = np.concatenate([[least], (edges[:-1] + edges[1:]) / 2, [most]])
    below = np.cumsum(reference)[:-1]
    middle = edges[(below >= 0.1) & (below <= 0.9)]
    off = column.training_mean - float(reference @ middles)  # of the middles of the cells
    deviation = math.sqrt(float(reference @ (middles - column.training_mean) ** 2))
    for cell, value in ((0, column.extremes[0]), (len(detection) - 1, column.extremes[1])):
        p, q = float(reference[cell]), float(detection[cell])
        others = np.arange(len(detection)) != cell
        if not _stands_out(p, q) or q > _ALMOST_ALL or not column.is_more(cell) or not len(middle):
            continue
        spread = float(middle[-1] - middle[0])
        end = (least, most)[cell > 0]
        if value * end > 0:  # on the same side of nought it may be another unit
            continue
        is_narrow = value == 0 and abs(end) <= _NARROW * spread
        outer = (column.mean - float(detection[others] @ middles[others]) - (1 - q) * off) / q
        error = deviation * math.sqrt((1 - q) / column.n_effective) / q
        is_one = abs(outer - value) <= _BESIDE * spread and error <= _BESIDE * spread / 2
        if (is_narrow or is_one) and column.is_unchanged(reference[others] / (1 - p), detection[others] / (1 - q)):
            return value, p, q
    return None


def _stands_out(reference: float, detection: float) -> bool:
    return reference <= _RARE and detection >= max(_SHARE, _TIMES * reference)


def _is_narrow(column: Column, cell: int) -> bool:
    edges = column.cells.edges
    below = np.cumsum(column.shares[0])[:-1]
    middle = edges[(below >= 0.1) & (below <= 0.9)]
    if not 0 < cell < len(edges) or not len(middle):
        return False
    return bool(edges[cell] - edges[cell - 1] <= _NARROW * (middle[-1] - middle[0]))


def _clipped(column: Column) -> Fault | None:
    reference, detection = column.shares
    used = np.flatnonzero(detection)
    for end, ordered_reference, ordered_detection, cell, extreme in (
        ("above", reference, detection, int(used[-1]), column.extremes[1]),
        ("below", reference[::-1], detection[::-1], len(detection) - 1 - int(used[0]), column.extremes[0]),
    ):
        beyond = float(ordered_reference[cell + 1 :].sum())
        p, q = float(ordered_reference[cell]), float(ordered_detection[cell])
        if not column.is_shaped or not _stands_out(p, q) or not _SHARE <= beyond <= _HALF:
            continue
        expected = ordered_reference[: cell + 1].copy()
        expected[cell] += beyond
        if column.is_unchanged(expected, ordered_detection[: cell + 1]):
            start = f"`{column.name}` ends at {extreme:.4g}, in {percent(q)} of {column.events}; "
            start += f"in training {percent(beyond)} were"
            return Fault("clipped", (column.name,), f"{start} {end} that. Something cuts it off.", q - p)
    return None


def _vocabulary(column: Column) -> Fault | None:
    if column.cells.kind != "category":
        return None
    reference, detection = (float(shares[-1]) for shares in column.shares)
    if detection < _SHARE or detection < _TIMES * reference:
        return None
    gone = _vanished(column)
    words = f"in all {column.events}" if detection == 1 else f"in {percent(detection)} of {column.events}"
    sentence = f"`{column.name}` has values {words} that are none of the model's; {percent(reference)} in training"
    reason = ": they may be written in another way" if detection == 1 else ""
    if gone is not None and detection < 1:
        reason = f", and {gone.sentence[0].lower()}{gone.sentence[1:-1]}: perhaps renamed"
    return Fault("vocabulary_changed", (column.name,), f"{sentence}{reason}.", detection - reference)


def _vanished(column: Column) -> Fault | None:
    reference, detection = column.shares
    gone = np.flatnonzero((detection == 0) & (reference >= _SHARE))
    gone = gone[gone < len(detection) - 1]  # the last are values that are none of the signature's
    gone = gone[[column.chance(1 - float(reference[cell])) < CERTAIN for cell in gone.tolist()]] if len(gone) else gone
    if not len(gone) or column.cells.kind != "category":
        return None
    largest = gone[np.argsort(-reference[gone], kind="stable")].tolist()
    named = " and ".join(
        f"{_category(column, cell)} ({percent(float(reference[cell]))} in training)" for cell in largest[:3]
    )
    return Fault(
        "category_vanished",
        (column.name,),
        f"None of the {column.events} has `{column.name}` {named}.",
        float(reference[gone].sum()),
    )


_NUMERIC_CHECKS = (_constant, _infinite, _stand_in, _range, _clipped)


def _category(column: Column, code: int) -> str:
    return f"'{column.values[code]}'" if code < len(column.values) else f"of code {code}"


def _place(column: Column, cell: int) -> str:
    low, high = column.cells.edges[cell - 1 : cell + 1].tolist()
    return f"{low:.6g}" if high <= math.nextafter(low, math.inf) else f"between {low:.4g} and {high:.4g}"
