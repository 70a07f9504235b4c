"""All pipeline faults of one window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.core.faults.column import Column
from app.core.faults.displaced import find_displaced
from app.core.faults.law import Law
from app.core.faults.mixed_columns import find_mixed_swap
from app.core.faults.mixed_units import find_mixed_unit
from app.core.faults.naming import name_fields
from app.core.faults.scale import ITSELF, Scale
from app.core.faults.traffic import find_in_traffic
from app.core.faults.units import find_unit
from app.core.faults.values import find_in_values
from app.core.features.origins import Origins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.core.faults.fault import Fault, FaultKind
    from app.core.faults.traffic import Traffic
    from models.reference.reference import Counts, MetricCells

#: Faults that say all there is to say of a metric; the others may only be what a displaced column looks like.
_CERTAIN: frozenset[FaultKind] = frozenset({"constant", "infinite_values"})


def find_faults(
    cells: Sequence[MetricCells],
    training: Counts,
    window: Counts,
    signalled: AbstractSet[str],
    *,
    design_effects: Sequence[float] = (),
    values: Mapping[str, Sequence[str]] | None = None,
    traffic: Traffic | None = None,
    recent: Counts | None = None,
    suspected: AbstractSet[str] = frozenset(),
    silent: AbstractSet[str] = frozenset(),
    events: str = "events",
    origins: Origins | None = None,
) -> tuple[Fault, ...]:
    """Find what seems to be wrong upstream of the model, the strongest first.

    Parameters
    ----------
    cells
        Of all metrics, in the order of the counts.
    training, window
        Counts of both in these cells.
    signalled
        Names of the metrics that have moved. Only features among them are looked at. Always looked at are the traffic,
        and whether a feature holds only one value: a flag that was rarely set moves by little when it no longer is.
    design_effects
        Per metric; 1 where it is not given.
    values
        Names of the codes of each category, for the sentences.
    traffic
        Numbers of events, of this window and of past ones.
    recent
        The last window of this version in which no fault was found, for columns that have drifted slowly since
        training and only then been displaced.
    suspected
        Metrics that differ much, though not for certain: where one has signalled, they may have been displaced with it.
    silent
        Metrics about which nothing is to be said.
    events
        What events are called, in the plural.
    origins
        What the features are made of; None: each is a field of its own.

    Returns
    -------
    Nothing on ordinary drift: each rule asks for a shape that shifts, spreads and seasons do not have.
    """
    origins = origins or Origins()
    traffic_faults = find_in_traffic(traffic, events) if traffic is not None else []
    faults: list[Fault] = []
    rows = [row for row, each in enumerate(cells) if each.kind in {"numeric", "category"}]
    by_values: dict[str, list[Fault]] = {}
    for row in rows:
        is_signalled = cells[row].name in signalled
        if is_signalled or (cells[row].name not in silent and window.minima[row] == window.maxima[row]):
            effect = design_effects[row] if len(design_effects) else 1.0
            names = (values or {}).get(cells[row].name, ())
            column = _column(cells[row], training, window, row, effect, names, events)
            # What no test has signalled: a flag that is no longer set. But a month without a holiday is no fault.
            found = [
                each
                for each in find_in_values(column)
                if is_signalled or (each.kind == "constant" and column.is_often_seen)
            ]
            by_values |= {cells[row].name: found} if found else {}
    numeric = [row for row in rows if cells[row].kind == "numeric"]
    effects = {cells[row].name: design_effects[row] if len(design_effects) else 1.0 for row in numeric}
    moved = (signalled, suspected)
    faults += _of_scale(cells, (training, recent), window, numeric, moved, by_values, origins, effects, events)
    explained = {name for fault in faults for name in fault.metrics}
    faults += [fault for name, found in by_values.items() if name not in explained for fault in found]
    named = name_fields(faults, origins, signalled, [cells[row].name for row in rows])
    return tuple(sorted([*traffic_faults, *named], key=lambda fault: -fault.strength))


def _of_scale(  # noqa: PLR0917  # what `find_faults` has worked out
    cells: Sequence[MetricCells],
    pasts: tuple[Counts, Counts | None],
    window: Counts,
    numeric: Sequence[int],
    moved: tuple[AbstractSet[str], AbstractSet[str]],
    by_values: Mapping[str, Sequence[Fault]],
    origins: Origins,
    effects: Mapping[str, float],
    events: str,
) -> Iterator[Fault]:
    """Columns displaced, and the units of those that are not."""
    signalled, suspected = moved
    if not any(cells[row].name in signalled for row in numeric):
        return
    if sum(cells[row].name in signalled | suspected for row in numeric) < 2:  # nothing has taken its place
        numeric = [row for row in numeric if cells[row].name in signalled]
    stood_in = {name for name, found in by_values.items() if any(fault.kind == "stand_in_value" for fault in found)}
    certain = {name for name, found in by_values.items() if any(fault.kind in _CERTAIN for fault in found)}
    laws = [{cells[row].name: _law(cells[row], past, row) for row in numeric} for past in pasts if past is not None]
    names = [cells[row].name for row in numeric]
    now = {cells[row].name: _law(cells[row], window, row) for row in numeric if cells[row].name not in certain}
    elsewhere: tuple[str, ...] = ()
    for columns in _columns(names, origins):
        paths = [origins[name].path or ITSELF for name in columns]
        in_columns = [[past[name] for name in columns] for past in laws]
        fault = find_displaced(columns, in_columns, now, signalled | suspected, paths).fault
        if fault is None or fault.kind == "columns_swapped":  # where nearly all have, their share is said, too
            at_moved = [at for at, name in enumerate(columns) if name in (fault.metrics if fault else signalled)]
            moved_columns = [(columns[at], in_columns[0][at], paths[at]) for at in at_moved]
            fault = find_mixed_swap(moved_columns, now, effects, events) or fault
        if fault is not None:
            elsewhere = fault.metrics
            yield fault
            break
    for name, law in laws[0].items():
        origin = origins[name]
        if name in now and name in signalled and name not in elsewhere and origin.has_unit:
            path = origin.path or ITSELF
            scale = Scale(law, now[name], path, origin.takes_offsets)
            unit = find_mixed_unit(name, scale, effects[name], events)
            if unit is None and name not in stood_in:  # nearly all noughts are nearly all values in a small unit
                unit = find_unit(name, law, now[name], path, takes_offsets=origin.takes_offsets)
            if unit is not None:
                yield unit


def _columns(names: Sequence[str], origins: Origins) -> Iterator[list[str]]:
    """What may have changed places: fields, each by the feature that is nearest to it; and windows over them."""
    nearest = sorted(names, key=lambda name: origins[name].distance)
    first = {origins[name].fields: name for name in reversed(nearest) if origins[name].distance < 2}
    yield [name for name in names if name in first.values() or origins[name].distance == 3]
    if any(origins[name].distance == 2 for name in names):
        yield [name for name in names if origins[name].distance == 2]


def _law(cells: MetricCells, counts: Counts, row: int) -> Law:
    low, high = float(counts.minima[row]), float(counts.maxima[row])
    return Law.of(cells, counts.counts[row], int(counts.sums[row]), low, high)


def _column(  # noqa: PLR0917  # one row of everything
    cells: MetricCells, training: Counts, window: Counts, row: int, effect: float, values: Sequence[str], events: str
) -> Column:
    return Column(
        cells,
        training.counts[row],
        window.counts[row],
        (float(training.minima[row]), float(training.maxima[row])),
        (float(window.minima[row]), float(window.maxima[row])),
        _mean(cells, window, row),
        effect,
        values,
        events,
        _mean(cells, training, row),
    )


def _mean(cells: MetricCells, window: Counts, row: int) -> float:
    law = _law(cells, window, row)
    extremes = (float(window.minima[row]), float(window.maxima[row]))
    return law.mean if law.n and max(map(abs, extremes)) < law.cap else math.nan
