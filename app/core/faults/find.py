"""All pipeline faults of one window."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
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


@dataclass(frozen=True, eq=False)
class FaultFinder:
    """Finds what seems to be wrong upstream of the model, in windows of one version.

    Parameters
    ----------
    cells
        Of all metrics, in the order of the counts.
    training
        Counts of training in these cells.
    design_effects
        Per metric; 1 where it is not given.
    values
        Names of the codes of each category, for the sentences.
    events
        What events are called, in the plural.
    origins
        What the features are made of; by default each is a field of its own.
    """

    cells: Sequence[MetricCells]
    training: Counts
    design_effects: Sequence[float] = ()
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    events: str = "events"
    origins: Origins = field(default_factory=Origins)

    def find(
        self,
        window: Counts,
        signalled: AbstractSet[str],
        *,
        suspected: AbstractSet[str] = frozenset(),
        silent: AbstractSet[str] = frozenset(),
        traffic: Traffic | None = None,
    ) -> tuple[Fault, ...]:
        """Find the faults of a window, the strongest first.

        Parameters
        ----------
        window
            Its counts.
        signalled
            Names of the metrics that have moved. Only features among them are looked at. Always looked at are the
            traffic, and whether a feature holds only one value: a flag that was rarely set moves by little when it no
            longer is.
        suspected
            Metrics that differ much, though not for certain: where one has signalled, they may have been displaced with
            it.
        silent
            Metrics about which nothing is to be said.
        traffic
            Numbers of events, of this window and of past ones.

        Returns
        -------
        Nothing on ordinary drift: each rule asks for a shape that shifts, spreads and seasons do not have.
        """
        of_traffic = find_in_traffic(traffic, self.events) if traffic is not None else []
        of_values = self._find_in_values(window, signalled, silent)
        faults = list(self._find_in_numbers(window, signalled, suspected, of_values))
        explained = {name for fault in faults for name in fault.metrics}
        faults += [fault for name, those in of_values.items() if name not in explained for fault in those]
        features = [cells.name for cells in self.cells if cells.kind in {"numeric", "category"}]
        named = name_fields(faults, self.origins, signalled, features)
        return tuple(sorted([*of_traffic, *named], key=lambda fault: -fault.strength))

    def _find_in_values(
        self, window: Counts, signalled: AbstractSet[str], silent: AbstractSet[str]
    ) -> dict[str, list[Fault]]:
        """The faults that features show by themselves, by name; features without any are left out."""
        faults: dict[str, list[Fault]] = {}
        for row, cells in enumerate(self.cells):
            if cells.kind not in {"numeric", "category"}:
                continue
            is_signalled = cells.name in signalled
            if is_signalled or (cells.name not in silent and window.minima[row] == window.maxima[row]):
                column = self._column(row, window)
                # What no test has signalled: a flag that is no longer set. But a month without a holiday is no fault.
                of_column = [
                    fault
                    for fault in find_in_values(column)
                    if is_signalled or (fault.kind == "constant" and column.is_often_seen)
                ]
                if of_column:
                    faults[cells.name] = of_column
        return faults

    def _find_in_numbers(
        self,
        window: Counts,
        signalled: AbstractSet[str],
        suspected: AbstractSet[str],
        of_values: Mapping[str, Sequence[Fault]],
    ) -> Iterator[Fault]:
        """Look for displaced columns, and for other units in the columns that are not displaced."""
        numeric = [row for row, cells in enumerate(self.cells) if cells.kind == "numeric"]
        moved = signalled | suspected
        if not any(self.cells[row].name in signalled for row in numeric):
            return
        if sum(self.cells[row].name in moved for row in numeric) < 2:  # nothing has taken its place
            numeric = [row for row in numeric if self.cells[row].name in signalled]
        certain = {name for name, faults in of_values.items() if any(fault.kind in _CERTAIN for fault in faults)}
        trained = {self.cells[row].name: _law(self.cells[row], self.training, row) for row in numeric}
        detected = {
            self.cells[row].name: _law(self.cells[row], window, row)
            for row in numeric
            if self.cells[row].name not in certain
        }
        displaced = self._find_displaced(trained, detected, signalled, moved)
        if displaced is not None:
            yield displaced
        for name, law in trained.items():
            if name in detected and name in signalled and (displaced is None or name not in displaced.metrics):
                stands_in = any(fault.kind == "stand_in_value" for fault in of_values.get(name, ()))
                unit = self._find_unit(name, law, detected[name], stands_in=stands_in)
                if unit is not None:
                    yield unit

    def _find_displaced(
        self,
        trained: Mapping[str, Law],
        detected: Mapping[str, Law],
        signalled: AbstractSet[str],
        moved: AbstractSet[str],
    ) -> Fault | None:
        """Look for columns that have changed places, in all events or in a share of them."""
        for columns in _columns(list(trained), self.origins):
            paths = [self.origins[name].path or ITSELF for name in columns]
            laws = [trained[name] for name in columns]
            fault = find_displaced(columns, laws, detected, moved, paths).fault
            if fault is None or fault.kind == "columns_swapped":  # where nearly all have, their share is said, too
                mixed = fault.metrics if fault else signalled
                candidates = [column for column in zip(columns, laws, paths, strict=True) if column[0] in mixed]
                fault = find_mixed_swap(candidates, detected, self._effects, self.events) or fault
            if fault is not None:
                return fault
        return None

    def _find_unit(self, name: str, trained: Law, detected: Law, *, stands_in: bool) -> Fault | None:
        """Look for another unit, in a share of the events or in all; ``stands_in``: there is a stand-in value."""
        origin = self.origins[name]
        if not origin.has_unit:
            return None
        path = origin.path or ITSELF
        scale = Scale(trained, detected, path, origin.takes_offsets)
        mixed = find_mixed_unit(name, scale, self._effects[name], self.events)
        if mixed is not None or stands_in:  # nearly all noughts are nearly all values in a small unit
            return mixed
        return find_unit(name, trained, detected, path, takes_offsets=origin.takes_offsets)

    @cached_property
    def _effects(self) -> dict[str, float]:
        effects = self.design_effects or [1.0] * len(self.cells)
        return {cells.name: effect for cells, effect in zip(self.cells, effects, strict=True)}

    def _column(self, row: int, window: Counts) -> Column:
        cells, training = self.cells[row], self.training
        return Column(
            cells,
            training.counts[row],
            window.counts[row],
            (float(training.minima[row]), float(training.maxima[row])),
            (float(window.minima[row]), float(window.maxima[row])),
            _mean(cells, window, row),
            self._effects[cells.name],
            self.values.get(cells.name, ()),
            self.events,
            _mean(cells, training, row),
        )


def _columns(names: Sequence[str], origins: Origins) -> Iterator[list[str]]:
    """Groups of features that may have changed places: one feature for each field, the nearest to it; then windows."""
    nearest = sorted(names, key=lambda name: origins[name].distance)
    first = {origins[name].fields: name for name in reversed(nearest) if origins[name].distance < 2}
    yield [name for name in names if name in first.values() or origins[name].distance == 3]
    if any(origins[name].distance == 2 for name in names):
        yield [name for name in names if origins[name].distance == 2]


def _law(cells: MetricCells, counts: Counts, row: int) -> Law:
    low, high = float(counts.minima[row]), float(counts.maxima[row])
    return Law.of(cells, counts.counts[row], int(counts.sums[row]), low, high)


def _mean(cells: MetricCells, window: Counts, row: int) -> float:
    law = _law(cells, window, row)
    extremes = (float(window.minima[row]), float(window.maxima[row]))
    return law.mean if law.n and max(map(abs, extremes)) < law.cap else math.nan
