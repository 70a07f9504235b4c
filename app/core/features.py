"""From events to feature vectors, by one definition for stream, training, batch and REST.

In two steps. `FeaturePlan.compute` is stateless: expressions, lookups, Python; a row depends on its event alone.
`FeaturePlan.apply` then fills the window columns in the order in which events and outcomes are merged, and advances the
state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from app.core.batches import Column, EventBatch, Floats, Outcomes, Rejection
from app.core.expressions import Columns, compile_expression
from app.core.lookups import LookupTable
from app.core.row_cache import RowCache
from app.core.shared_plan import SharedPlan
from app.core.windows import FeatureState, WindowPlan
from schemas.expression import EVENT_TIME, ExpressionError, Kind, parse
from schemas.pipeline import Feature, FeatureType, Pipeline, PipelineError

#: Columns and number of rows in; a column, and why rows have none (position -> detail).
_Step = Callable[[Columns, int], tuple[Column, dict[int, str]]]


class FeaturePlan:
    """The compiled features of one pipeline. It has no state of its own and may be shared.

    Attributes
    ----------
    names, kinds
        Of the columns of the feature matrix, in order.
    category_sizes
        Category feature -> how many codes it has: one per value, and the last for whatever is none of them. NaN is
        null alone.
    outcome_fields
        Event fields that must be kept until the event's label comes (columns of `Outcomes` besides "label").
    shared
        The windows that are shared between partitions; `apply` leaves their columns alone.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        steps: list[tuple[int, Feature, _Step]],
        lookups: list[LookupTable],
        windows: WindowPlan,
        shared: SharedPlan,
    ) -> None:
        features = pipeline.features
        self.names: tuple[str, ...] = tuple(feature.name for feature in features)
        self.kinds: tuple[FeatureType, ...] = tuple(feature.type for feature in features)
        self.category_sizes: dict[str, int] = {f.name: len(f.values) + 1 for f in features if f.type == "category"}
        self.outcome_fields: tuple[str, ...] = tuple(sorted({*windows.outcome_fields, *shared.outcome_fields}))
        self.shared = shared
        self._steps = steps
        self._lookups = lookups
        self._windows = windows
        self._codes: dict[str, dict[str | None, float]] = {
            feature.name: {None: np.nan, **{value: float(code) for code, value in enumerate(feature.values)}}
            for feature in features
            if feature.type == "category"
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
        steps: list[tuple[int, Feature, _Step]] = []
        used: set[str] = set()
        for column, feature in enumerate(pipeline.features):
            if feature.window is not None:
                continue
            if feature.expression is not None:
                try:
                    expression = parse(feature.expression, kinds | fields)
                except ExpressionError as error:
                    raise PipelineError(f"{pipeline.path}: features.{feature.name}.expression: {error}.") from None
                if (expression.kind == "text") != (feature.type == "category"):
                    raise PipelineError(
                        f"{pipeline.path}: features.{feature.name}.expression: gives a {expression.kind}, but the type "
                        f"is {feature.type}; only a category is made of text."
                    )
                used |= expression.names
                steps.append((column, feature, _expression_step(compile_expression(expression))))
            else:
                assert feature.python is not None
                used |= set(feature.arguments)
                steps.append((column, feature, _python_step(feature, python_functions[feature.python])))
            kinds[feature.name] = "text" if feature.type == "category" else "number"
        tables = [
            lookups[lookup.name]
            for lookup in pipeline.lookups
            if any(name.startswith(f"{lookup.name}.") for name in used)
        ]
        windows = WindowPlan.compile(replace(pipeline, features=tuple(map(_without_shared, pipeline.features))))
        return cls(pipeline, steps, tables, windows, SharedPlan.compile(pipeline))

    def compute(self, events: EventBatch) -> tuple[Floats, list[Rejection]]:
        """The stateless features.

        Returns
        -------
        Matrix of n events x features, NaN where a value is missing and in window columns (float64 throughout: int and
        bool as numbers, categories as codes); and a rejection, by its position, of each event for which a Python
        feature failed.
        """
        rows = len(events)
        matrix = np.full((rows, len(self.names)), np.nan)
        columns: Columns = {EVENT_TIME: events.event_time_ms.astype(np.float64), **events.columns}
        for table in self._lookups:
            joined = table.join([events.columns[field] for field in table.spec.keys.values()], events.event_time_ms)
            columns |= {f"{table.spec.name}.{name}": column for name, column in joined.items()}
        failed: dict[int, str] = {}
        for column, feature, step in self._steps:
            values, failures = step(columns, rows)
            for position, detail in failures.items():
                failed.setdefault(position, detail)
            if feature.name not in events.columns:  # a field of the same name goes first in later expressions
                columns[feature.name] = values
            matrix[:, column] = self._encode(feature, values)
        rejections = [
            Rejection(position, "features", "python_feature", failed[position]) for position in sorted(failed)
        ]
        return matrix, rejections

    def new_state(self, *, with_changelog: bool = True, rows: RowCache | None = None) -> FeatureState:
        """An empty state for one partition; without a changelog nothing is to be drained from it."""
        return FeatureState(self._windows, with_changelog=with_changelog, cache=rows)

    def apply(self, matrix: Floats, events: EventBatch, outcomes: Outcomes, state: FeatureState) -> None:
        """Fill the window columns of ``matrix`` (rows as ``events``), and advance ``state``.

        Each event reads its windows, then counts itself; outcome j counts before event ``outcomes.before[j]`` reads.
        """
        state.apply(matrix, events, outcomes)

    def _encode(self, feature: Feature, values: Column) -> Floats:
        if feature.type != "category":
            return values
        codes = self._codes[feature.name]
        unseen = float(len(feature.values))
        return np.array(list(map(codes.get, values.tolist(), repeat(unseen))), dtype=np.float64)


def _without_shared(feature: Feature) -> Feature:
    is_shared = feature.window is not None and feature.window.delay_ms is not None
    return replace(feature, window=None) if is_shared else feature


def _expression_step(evaluate: Callable[[Columns, int], Column]) -> _Step:
    return lambda columns, rows: (evaluate(columns, rows), {})


def _python_step(feature: Feature, function: Callable[..., Any]) -> _Step:
    """Call ``function`` once for all rows; when it fails, once for each row, to find those that make it fail."""

    def run(columns: Columns, rows: int) -> tuple[Column, dict[int, str]]:
        arguments = [_argument(columns, name) for name in feature.arguments]
        try:
            return _check(feature, function(*arguments), rows), {}
        except Exception:  # noqa: BLE001, S110  # the function is the user's; what it raises is told row by row below
            pass
        text = feature.type == "category"
        values = np.full(rows, None, dtype=object) if text else np.full(rows, np.nan)
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
    if values.dtype == object or values.dtype.kind not in "fiub":
        raise ValueError(f"returned {values.dtype} for a {feature.type}; return float64, NaN for what is missing")
    numbers = values.astype(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
