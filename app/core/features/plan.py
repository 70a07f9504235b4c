"""From events to feature vectors, by one definition for stream, training, batch and REST.

In three steps. `FeaturePlan.compute` is stateless: expressions, lookups, Python; a row depends on its event alone.
`FeaturePlan.apply` fills the window columns in the order in which events and labels are merged, and advances the
state. `FeaturePlan.derive` then fills what is made of windows, when all of these are known; again a row by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from app.core.batches import Column, EventBatch, Floats, Ints, LabelRows, Rejection
from app.core.features.expressions import Columns, compile_expression
from app.core.features.lookups import LookupTable
from app.core.features.windows import FeatureState, WindowPlan
from app.core.shared.plan import SharedPlan
from app.core.tiles.row_cache import RowCache
from schemas.pipeline.expression import EVENT_TIME, Expression, ExpressionError, Kind, parse
from schemas.pipeline.feature_order import order_features
from schemas.pipeline.spec import Feature, FeatureType, Pipeline, PipelineError

#: Columns and number of rows in; a column, and why rows have none (position -> detail).
_Run = Callable[[Columns, int], tuple[Column, dict[int, str]]]


@dataclass(frozen=True, slots=True)
class _Step:
    """A feature that is no window: its column of the matrix, the names it reads, and how it is made of them."""

    column: int
    feature: Feature
    reads: frozenset[str]
    run: _Run


@dataclass(frozen=True, slots=True)
class _Passed:
    """What later stages read of features, and how it gets there.

    ``numbers``: what derived features read in the matrix, by name and column. ``texts``: what goes with the events for
    them, by its place there and name: texts, and columns of lookups. ``for_windows``: the features that windows are
    keyed by or made of, by name and column; they go with the events, too, a category as its code.
    """

    derived_reads: tuple[str, ...]
    numbers: list[tuple[str, int]]
    texts: dict[str, str]
    for_windows: list[tuple[str, int]]

    @classmethod
    def of(cls, pipeline: Pipeline, derived: Sequence[_Step]) -> _Passed:
        fields = {field.name for field in pipeline.events.fields}
        features = {
            feature.name: (column, feature)
            for column, feature in enumerate(pipeline.features)
            if feature.name not in fields
        }
        made_there = {step.feature.name for step in derived} - fields
        reads = {name for step in derived for name in step.reads} - {EVENT_TIME} - made_there
        numbers = {name for name in reads & features.keys() if features[name][1].type != "category"}
        texts = {_as_text(name) if name in features else name: name for name in reads - fields - numbers}
        of_windows = {name for feature in pipeline.features if feature.window for name in feature.window.reads} - fields
        return cls(
            derived_reads=tuple(sorted({*(reads & fields), *texts})),
            numbers=[(name, features[name][0]) for name in numbers],
            texts=texts,
            for_windows=[(name, features[name][0]) for name in of_windows],
        )


class FeaturePlan:
    """The compiled features of one pipeline. It has no state of its own and may be shared.

    Attributes
    ----------
    names, kinds
        Of the columns of the feature matrix, in order.
    category_sizes
        Category feature -> how many codes it has: one per value, and the last for whatever is none of them. NaN is
        null alone.
    label_fields
        Columns that must be kept until the event's label comes (those of `LabelRows` besides "label").
    shared
        The windows that are shared between partitions; `apply` leaves their columns alone.
    derived
        Columns of the features that are made of windows.
    derived_reads
        Columns of an `EventBatch` that these are made of besides.
    can_reject_late
        Whether some of these are Python's, and so may fail when the event has been counted in windows.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stateless: list[_Step],
        derived: list[_Step],
        lookups: list[LookupTable],
        *,
        windows: WindowPlan,
        shared: SharedPlan,
    ) -> None:
        features = pipeline.features
        self.names: tuple[str, ...] = tuple(feature.name for feature in features)
        self.kinds: tuple[FeatureType, ...] = tuple(feature.type for feature in features)
        self.category_sizes: dict[str, int] = {f.name: len(f.values) + 1 for f in features if f.type == "category"}
        self.label_fields: tuple[str, ...] = tuple(sorted({*windows.label_fields, *shared.label_fields}))
        self.shared = shared
        self.derived: tuple[int, ...] = tuple(step.column for step in derived)
        self.can_reject_late = any(step.feature.python is not None for step in derived)
        self._stateless = stateless
        self._derived = derived
        self._fields = pipeline.events.fields
        self._passed = _Passed.of(pipeline, derived)
        self.derived_reads: tuple[str, ...] = self._passed.derived_reads
        self._lookups = lookups
        self._windows = windows
        self._codes: dict[str, dict[str | None, float]] = {
            feature.name: {None: np.nan, **{value: float(code) for code, value in enumerate(feature.values)}}
            for feature in features
        }

    @classmethod
    def compile(
        cls,
        pipeline: Pipeline,
        lookups: Mapping[str, LookupTable],
        python_functions: Mapping[str, Callable[..., Any]],
    ) -> FeaturePlan:
        """Compile the features of a pipeline.

        Parameters
        ----------
        pipeline
            The pipeline.
        lookups
            The data of its lookups, by name.
        python_functions
            The functions of its Python features, by reference.

        Raises
        ------
        PipelineError
            When a feature does not fit the data of its lookup, text for number or the other way about.
        """
        fields: dict[str, Kind] = {f.name: "text" if f.type == "string" else "number" for f in pipeline.events.fields}
        kinds: dict[str, Kind] = {EVENT_TIME: "number"}
        for lookup in pipeline.lookups:
            kinds |= {f"{lookup.name}.{column}": kind for column, kind in lookups[lookup.name].kinds.items()}
        kinds |= {feature.name: "text" if feature.type == "category" else "number" for feature in pipeline.features}
        kinds |= fields  # a field goes before a feature of its name
        steps: dict[str, _Step] = {}
        for column, feature in enumerate(pipeline.features):
            if feature.expression is not None:
                expression = _parse(pipeline, feature, kinds)
                run = _expression_run(compile_expression(expression))
                steps[feature.name] = _Step(column, feature, expression.names, run)
            elif feature.python is not None:
                run = _python_run(feature, python_functions[feature.python])
                steps[feature.name] = _Step(column, feature, frozenset(feature.arguments), run)
        windowed = {feature.name for feature in pipeline.features if feature.window is not None}
        order = order_features({name: step.reads.difference(fields) for name, step in steps.items()}, windowed)
        used = {name for step in steps.values() for name in step.reads}
        tables = [
            lookups[lookup.name]
            for lookup in pipeline.lookups
            if any(name.startswith(f"{lookup.name}.") for name in used)
        ]
        windows = WindowPlan.compile(replace(pipeline, features=tuple(map(_without_shared, pipeline.features))))
        stateless, derived = ([steps[name] for name in names] for names in (order.stateless, order.derived))
        return cls(pipeline, stateless, derived, tables, windows=windows, shared=SharedPlan.compile(pipeline))

    def compute(self, events: EventBatch) -> tuple[Floats, list[Rejection]]:
        """The stateless features.

        Returns
        -------
        Matrix of n events x features, NaN where a value is missing and in window columns (float64 throughout: int and
        bool as numbers, categories as codes); and a rejection, by its position, of each event for which a Python
        feature failed. What windows and derived features read besides is added to the columns of ``events``.
        """
        rows = len(events)
        matrix = np.full((rows, len(self.names)), np.nan)
        columns: Columns = {EVENT_TIME: events.event_time_ms.astype(np.float64), **events.columns}
        for table in self._lookups:
            joined = table.join([events.columns[field] for field in table.spec.keys.values()], events.event_time_ms)
            columns |= {f"{table.spec.name}.{name}": column for name, column in joined.items()}
        failed = self._fill(self._stateless, matrix, columns)
        for place, name in self._passed.texts.items():
            events.columns[place] = columns[name]
        for name, column in self._passed.for_windows:
            events.columns[name] = matrix[:, column] + 0.0  # two keys are one if they are equal: no -0.0
        return matrix, _rejections(failed, "python_feature")

    def no_events(self) -> EventBatch:
        """A batch of none, with all columns."""
        none = np.zeros(0, dtype=np.int64)
        columns: Columns = {f.name: np.zeros(0, object if f.type == "string" else np.float64) for f in self._fields}
        columns |= {name: np.zeros(0) for name, _ in self._passed.for_windows}
        return EventBatch(none, none, [], [], columns)

    def new_state(self, *, with_changelog: bool = True, rows: RowCache | None = None) -> FeatureState:
        """An empty state for one partition; without a changelog nothing is to be drained from it."""
        return FeatureState(self._windows, with_changelog=with_changelog, cache=rows)

    def apply(self, matrix: Floats, events: EventBatch, labels: LabelRows, state: FeatureState) -> None:
        """Fill the window columns of ``matrix`` (rows as ``events``), and advance ``state``.

        Each event reads its windows, then counts itself; label j counts before event ``labels.before[j]`` reads.
        """
        state.apply(matrix, events, labels)

    def peek(self, matrix: Floats, events: EventBatch, labels: LabelRows, seen: Ints, state: FeatureState) -> None:
        """As `apply`, as if each event came next by itself, after the first ``seen`` of the labels; nothing changes."""
        state.peek(matrix, events, labels, seen)

    def derive(self, matrix: Floats, event_time_ms: Ints, columns: Mapping[str, Column]) -> list[Rejection]:
        """Fill the columns of what is made of windows, of rows whose windows are all filled.

        Parameters
        ----------
        columns
            Those of `derived_reads`, others left alone.

        Returns
        -------
        A rejection, by its row, of each event for which a Python feature failed.
        """
        if not self._derived or not len(matrix):
            return []
        known: Columns = {EVENT_TIME: event_time_ms.astype(np.float64)}
        known |= {_without_text(place): columns[place] for place in self.derived_reads}
        known |= {name: np.ascontiguousarray(matrix[:, column]) for name, column in self._passed.numbers}
        return _rejections(self._fill(self._derived, matrix, known), "derived_feature")

    def _fill(self, steps: Sequence[_Step], matrix: Floats, columns: Columns) -> dict[int, str]:
        """Compute features in their order into ``matrix`` and ``columns``; why rows have none (position -> detail)."""
        failed: dict[int, str] = {}
        for step in steps:
            values, failures = step.run(columns, len(matrix))
            for position, detail in failures.items():
                failed.setdefault(position, detail)
            columns.setdefault(step.feature.name, values)  # a field of the same name goes first in other expressions
            matrix[:, step.column] = self._encode(step.feature, values)
        return failed

    def _encode(self, feature: Feature, values: Column) -> Floats:
        if feature.type != "category":
            return values
        codes = self._codes[feature.name]
        unseen = float(len(feature.values))
        return np.array(list(map(codes.get, values.tolist(), repeat(unseen))), dtype=np.float64)


def _as_text(name: str) -> str:
    """Where the texts of a category are: its codes are what windows see of it, under its name."""
    return f"{name}:text"


def _without_text(place: str) -> str:
    return place.partition(":")[0]


def _without_shared(feature: Feature) -> Feature:
    is_shared = feature.window is not None and feature.window.delay_ms is not None
    return replace(feature, window=None) if is_shared else feature


def _parse(pipeline: Pipeline, feature: Feature, kinds: Mapping[str, Kind]) -> Expression:
    try:
        expression = parse(feature.expression or "", kinds)
    except ExpressionError as error:
        raise PipelineError(f"{pipeline.path}: features.{feature.name}.expression: {error}.") from None
    if (expression.kind == "text") != (feature.type == "category"):
        raise PipelineError(
            f"{pipeline.path}: features.{feature.name}.expression: gives a {expression.kind}, but the type is"
            f" {feature.type}; only a category is made of text."
        )
    return expression


def _rejections(failed: Mapping[int, str], reason: str) -> list[Rejection]:
    return [Rejection(position, "features", reason, failed[position]) for position in sorted(failed)]


def _expression_run(evaluate: Callable[[Columns, int], Column]) -> _Run:
    return lambda columns, rows: (evaluate(columns, rows), {})


def _python_run(feature: Feature, function: Callable[..., Any]) -> _Run:
    """Call ``function`` once for all rows; when it fails, once for each row, to find those that make it fail."""

    def run(columns: Columns, rows: int) -> tuple[Column, dict[int, str]]:
        arguments = [_argument(columns, name) for name in feature.arguments]
        try:
            return _check(feature, function(*arguments), rows), {}
        except Exception:  # noqa: BLE001, S110  # the function is the user's; what it raises is told row by row below
            pass
        text = feature.type == "category"
        values = np.full(rows, None) if text else np.full(rows, np.nan)
        failures: dict[int, str] = {}
        for row in range(rows):
            try:
                values[row] = _check(feature, function(*(argument[row : row + 1] for argument in arguments)), 1)[0]
            except Exception as error:  # noqa: BLE001  # as above: the event becomes a rejection
                failures[row] = f"{feature.name}: {type(error).__name__}: {error}"
        return values, failures

    return run


def _argument(columns: Columns, name: str) -> Column:
    """A column that the function cannot write to; the event time as int64 ms."""
    column = columns[name].astype(np.int64) if name == EVENT_TIME else columns[name].view()
    column.flags.writeable = False
    return column


def _check(feature: Feature, result: Any, rows: int) -> Column:
    values = np.asarray(result)
    if values.shape != (rows,):
        raise ValueError(f"returned shape {values.shape} for {rows} events; return one value for each")
    if feature.type == "category":
        values = values.astype(object)
        if not all(value is None or isinstance(value, str) for value in values.tolist()):
            raise ValueError("returned something that is neither str nor None for a category; return its values")
        return values
    if values.dtype.kind not in "fiub":
        raise ValueError(f"returned {values.dtype} for a {feature.type}; return float64, NaN for what is missing")
    numbers = values.astype(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
