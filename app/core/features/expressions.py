"""Evaluates the expressions of features over whole columns. `schemas.pipeline.expression` defines the language.

A number is a float64 column, NaN where it is missing; a text is an object column of ``str | None``. What is missing
stays missing: arithmetic, comparisons and functions of it are NaN (``coalesce``, ``isnull`` aside); ``and`` and ``or``
know what they can (0 and NaN is 0, 1 or NaN is 1). What has no finite value, as 1 / 0, log(-1) or exp(1000), is missing
too. Truth is 1.0, and anything but 0 is true.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from app.core.batches import Column, Floats
from app.core.features.calendar_time import to_local_ms, to_part
from schemas.pipeline.expression import EVENT_TIME, Expression

#: Columns by name. The evaluator adds the local times that it has worked out, so that "hour" and "weekday" share them.
Columns = dict[str, Column]

#: A column, or one value for all rows.
Value = Any
Evaluate = Callable[[Columns], Value]

_NAN = np.float64("nan")
_NO_TEXT = np.array(None, dtype=object)


def compile_expression(expression: Expression) -> Callable[[Columns, int], Column]:
    """The function that evaluates a checked expression.

    Returns
    -------
    Takes the columns by name and their length; returns float64, or for a text object, of that length. The result may
    be one of the columns itself: it is not to be written to.
    """
    evaluate = _compile(expression.tree)
    if isinstance(expression.tree, ast.Name | ast.Attribute):  # a column as it is
        return lambda columns, _: _as_it_is(evaluate(columns))

    def run(columns: Columns, rows: int) -> Column:
        with np.errstate(all="ignore"):
            value = evaluate(columns)
            column: Column = value if _is_text(value) else _finite(value)
            return np.full(rows, column, object if _is_text(value) else np.float64) if np.ndim(value) == 0 else column

    return run


def is_missing(value: Value) -> Value:
    """Where a text is None or a number is NaN."""
    if isinstance(value, str):
        return False
    if _is_text(value):
        missing = np.fromiter((item is None for item in value.ravel().tolist()), dtype=bool, count=value.size)
        return missing.reshape(value.shape)
    return np.isnan(value)


def _as_it_is(column: Column) -> Column:
    return column if column.dtype == object else _finite(column)


def _finite(value: Value) -> Value:
    finite = np.isfinite(value)
    return value if finite.all() else np.where(finite, value, _NAN)


def _compile(node: ast.expr) -> Evaluate:  # noqa: C901, PLR0911  # one case per kind of node
    match node:
        case ast.Constant(value=str(text)):
            return lambda _: text
        case ast.Constant(value=value):
            number = np.float64(value)  # type: ignore[arg-type]  # a number, as the checker has seen
            return lambda _: number
        case ast.Name(id=name):
            return lambda columns: columns[name]
        case ast.Attribute(value=ast.Name(id=lookup), attr=column):
            place = f"{lookup}.{column}"
            return lambda columns: columns[place]
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(_OPERATORS[type(op)], left, right)
        case ast.UnaryOp(op=op, operand=operand):
            return _apply(_OPERATORS[type(op)], operand)
        case ast.BoolOp(op=op, values=values):
            return _fold(_OPERATORS[type(op)], values)
        case ast.Compare():
            return _compile_compare(node)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _apply(_where, test, body, orelse)
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _compile_call(function, arguments)
    raise AssertionError(f"{type(node).__name__} has passed the checker")


def _apply(function: Callable[..., Value], *nodes: ast.expr) -> Evaluate:
    parts = [_compile(node) for node in nodes]
    return lambda columns: function(*(part(columns) for part in parts))


def _fold(function: Callable[[Value, Value], Value], nodes: list[ast.expr]) -> Evaluate:
    first, *others = (_compile(node) for node in nodes)

    def evaluate(columns: Columns) -> Value:
        value = first(columns)
        for other in others:
            value = function(value, other(columns))
        return value

    return evaluate


def _compile_compare(node: ast.Compare) -> Evaluate:
    if isinstance(node.ops[0], (ast.In, ast.NotIn)):
        choices = node.comparators[0]
        assert isinstance(choices, (ast.Tuple, ast.List, ast.Set))
        tests = [_apply(_equal, node.left, choice) for choice in choices.elts]
        negate = isinstance(node.ops[0], ast.NotIn)

        def contains(columns: Columns) -> Value:
            is_in: Value = np.float64(0)
            for test in tests:
                is_in = _or(is_in, test(columns))
            return _not(is_in) if negate else is_in

        return contains
    sides = [node.left, *node.comparators]
    links = [_apply(_OPERATORS[type(op)], a, b) for a, op, b in zip(sides, node.ops, sides[1:], strict=False)]

    def evaluate(columns: Columns) -> Value:
        value = links[0](columns)
        for link in links[1:]:
            value = _and(value, link(columns))
        return value

    return evaluate


def _compile_call(function: str, arguments: list[ast.expr]) -> Evaluate:
    if function in _CALENDAR:
        zone = arguments[1]
        assert isinstance(zone, ast.Constant)
        return _compile_calendar(function, arguments[0], str(zone.value))
    if function in _FOLDED:
        return _fold(_FOLDED[function], arguments)
    return _apply(_FUNCTIONS[function], *arguments)


def _compile_calendar(part: str, argument: ast.expr, zone: str) -> Evaluate:
    time = _compile(argument)
    of_event = isinstance(argument, ast.Name) and argument.id == EVENT_TIME
    memo = f"{EVENT_TIME}@{zone}"

    def evaluate(columns: Columns) -> Value:
        if of_event and memo in columns:
            return to_part(columns[memo], part)
        times = np.atleast_1d(time(columns))
        known = np.isfinite(times) & (np.abs(times) < 1e15)
        local = to_local_ms(np.where(known, times, 0).astype(np.int64), zone)
        if of_event:
            columns[memo] = local
        parts = to_part(local, part)
        return parts if known.all() else np.where(known, parts, _NAN)

    return evaluate


def _finite_of(function: Callable[..., Value]) -> Callable[..., Value]:
    """``function`` with NaN in place of infinity, so that 1 / exp(1000) is missing and not 0."""

    def run(*values: Value) -> Value:
        value = function(*values)
        infinite = np.isinf(value)
        return np.where(infinite, _NAN, value) if infinite.any() else value

    return run


def _power(a: Value, b: Value) -> Value:
    return np.where(np.isnan(a) | np.isnan(b), _NAN, np.power(a, b))  # for numpy, NaN ** 0 and 1 ** NaN are 1


def _and(a: Value, b: Value) -> Value:
    false = (a == 0) | (b == 0)
    return np.where(false, 0.0, np.where(np.isnan(a) | np.isnan(b), _NAN, 1.0))


def _or(a: Value, b: Value) -> Value:
    return _not(_and(_not(a), _not(b)))


def _not(a: Value) -> Value:
    return np.where(np.isnan(a), _NAN, (a == 0).astype(np.float64))


def _compared(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), _NAN, function(a, b).astype(np.float64))


def _equal(a: Value, b: Value) -> Value:
    missing = is_missing(a) | is_missing(b)
    same = np.asarray(a == b, dtype=bool)
    return np.where(missing, _NAN, same.astype(np.float64))


def _where(test: Value, a: Value, b: Value) -> Value:
    unknown = np.isnan(test)
    if _is_text(a) or _is_text(b):
        return np.where(unknown, _NO_TEXT, np.where(test != 0, _as_object(a), _as_object(b)))
    return np.where(unknown, _NAN, np.where(test != 0, a, b))


def _coalesce(a: Value, b: Value) -> Value:
    if _is_text(a) or _is_text(b):
        return np.where(is_missing(a), _as_object(b), _as_object(a))
    return np.where(np.isnan(a), b, a)


def _is_text(value: Value) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")


def _as_object(value: Value) -> Column:
    """A text as something that ``np.where`` does not turn into fixed-width strings."""
    return np.array(value, dtype=object) if isinstance(value, str) else value


def _clip(value: Value, low: Value, high: Value) -> Floats:
    clipped: Floats = np.minimum(np.maximum(value, low), high)
    return clipped


_OPERATORS: dict[type[ast.AST], Callable[..., Value]] = {
    ast.Add: _finite_of(np.add),
    ast.Sub: _finite_of(np.subtract),
    ast.Mult: _finite_of(np.multiply),
    ast.Div: _finite_of(np.divide),
    ast.FloorDiv: _finite_of(np.floor_divide),
    ast.Mod: np.mod,
    ast.Pow: _finite_of(_power),
    ast.BitAnd: _and,
    ast.BitOr: _or,
    ast.And: _and,
    ast.Or: _or,
    ast.Not: _not,
    ast.Invert: _not,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Eq: _equal,
    ast.NotEq: lambda a, b: _not(_equal(a, b)),
    ast.Lt: _compared(np.less),
    ast.LtE: _compared(np.less_equal),
    ast.Gt: _compared(np.greater),
    ast.GtE: _compared(np.greater_equal),
}

_CALENDAR = frozenset({"hour", "minute", "weekday", "day", "month", "year"})

_FOLDED: dict[str, Callable[[Value, Value], Value]] = {
    "minimum": np.minimum,
    "maximum": np.maximum,
    "coalesce": _coalesce,
}

_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "log": _finite_of(np.log),
    "log1p": _finite_of(np.log1p),
    "exp": _finite_of(np.exp),
    "sqrt": np.sqrt,
    "abs": np.abs,
    "floor": np.floor,
    "sin": np.sin,
    "cos": np.cos,
    "clip": _clip,
    "isnull": lambda value: np.asarray(is_missing(value)).astype(np.float64),
    "where": _where,
}
