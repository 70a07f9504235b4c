"""What features are made of: the fields of an event, and the columns of lookups, as whoever sends them knows them."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.core.features.paths import Path, path_in
from schemas.pipeline.expression import EVENT_TIME
from schemas.pipeline.feature_reads import names_read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.pipeline.spec import Feature, Pipeline

#: Aggregates that are in the unit of their field, and those that are in none of it.
_IN_UNIT = frozenset({"mean", "min", "max", "last"})
_WITHOUT_UNIT = frozenset({"count", "rate", "distinct", "share", "time_since_last"})
#: Functions of the calendar and of angles, whose results have no unit that could change.
_NO_UNIT = frozenset({"hour", "minute", "weekday", "day", "month", "year", "sin", "cos", "isnull"})


@dataclass(frozen=True)
class Origin:
    """Where a feature comes from.

    Parameters
    ----------
    fields
        The fields and lookup columns that its value is made of, in the order of their mention; the keys of a window
        and the time of the event are none of them.
    path
        How it follows from the only field; None where that is not known. Of a window, how its value follows from what
        the window would hold of the field itself.
    is_window
        Whether it is made of past events as well.
    has_unit
        Whether another unit of a field could change it by more than a drift would.
    takes_offsets
        Whether what is added to the field is added to the feature, before the path.
    keys
        The fields by which windows and lookups find what it is made of.
    """

    fields: tuple[str, ...] = ()
    path: Path | None = None
    is_window: bool = False
    has_unit: bool = True
    takes_offsets: bool = True
    keys: frozenset[str] = frozenset()

    @property
    def distance(self) -> int:
        """How far it is from a field: 0 for the field itself."""
        if len(self.fields) != 1 or self.path is None:
            return 3
        if self.is_window:
            return 2
        return 0 if self.path == Path() else 1


class Origins:
    """Where each feature of a pipeline comes from; of a name that is none, from a field of that name."""

    def __init__(self, pipeline: Pipeline | None = None) -> None:
        self._origins: dict[str, Origin] = {}
        if pipeline is not None:
            fields = {field.name for field in pipeline.events.fields}
            self._features = {feature.name: feature for feature in pipeline.features}
            self._fields = fields | {EVENT_TIME, "label"}
            self._lookups = {lookup.name: lookup for lookup in pipeline.lookups}
            for feature in pipeline.features:
                self._add(feature)

    def __getitem__(self, metric: str) -> Origin:
        return self._origins.get(metric) or Origin((metric,), Path())

    def _add(self, feature: Feature) -> Origin:
        """Of a feature, and before of all that it reads; the pipeline file has no circles."""
        if feature.name not in self._origins:
            self._origins[feature.name] = self._find(feature)
        return self._origins[feature.name]

    def _of(self, name: str) -> Origin:
        if name in {EVENT_TIME, "label"}:
            return Origin(has_unit=False)
        lookup = self._lookups.get(name.split(".", maxsplit=1)[0]) if "." in name else None
        if lookup is not None:
            return Origin((name,), Path(), keys=self._keys(lookup.keys.values()))
        if name in self._fields or name not in self._features:
            return Origin((name,), Path())
        return self._add(self._features[name])

    def _keys(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(field for name in names for field in self._of(name).fields)

    def _find(self, feature: Feature) -> Origin:
        if feature.window is not None:
            origin = self._of_window(feature.window.field, feature.window.aggregate)
            return replace(origin, keys=origin.keys | self._keys(feature.window.key))
        origin = self._of_function(feature)
        return replace(origin, keys=frozenset().union(*(self._of(name).keys for name in names_read(feature))))

    def _of_function(self, feature: Feature) -> Origin:
        read = [self._of(name) for name in names_read(feature)]
        fields = tuple(dict.fromkeys(field for origin in read for field in origin.fields))
        is_window = any(origin.is_window for origin in read)
        is_number = feature.type in {"float", "int"} and bool(fields)
        if feature.expression is None:
            return Origin(fields, None, is_window, is_number)
        tree = ast.parse(feature.expression.strip(), mode="eval").body
        place = path_in(tree)
        if place is None:
            return Origin(fields, None, is_window, is_number and _has_unit(tree))
        name, path = place
        inner = self._of(name)
        whole = path.after(inner.path) if inner.path is not None else None
        return replace(inner, path=whole, has_unit=inner.has_unit and is_number)

    def _of_window(self, field: str | None, aggregate: str) -> Origin:
        inner = self._of(field) if field is not None else Origin(has_unit=False)
        if aggregate in _WITHOUT_UNIT or not inner.fields:
            return Origin(inner.fields, None, is_window=True, has_unit=False)
        if aggregate in _IN_UNIT:
            return replace(inner, is_window=True)
        is_linear = inner.path is not None and inner.path.is_linear
        path = inner.path if aggregate == "sum" else inner.path.then("square") if inner.path is not None else None
        return Origin(inner.fields, path if is_linear else None, True, inner.has_unit, takes_offsets=False)


def _has_unit(tree: ast.expr) -> bool:
    match tree:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not() | ast.Invert()):
            return False
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            return False
        case ast.Call(func=ast.Name(id=name)):
            return name not in _NO_UNIT
    return True
