"""The expression language of features: what it allows, checked before anything runs.

Python's syntax, a small part of it: names, ``lookup.column``, numbers, strings, arithmetic, comparisons, ``and or not``
(or ``& | ~``), ``a if c else b``, ``x in ("a", "b")`` and the functions of `FUNCTIONS`. `app.core.features.expressions`
evaluates what `parse` returns. Nothing here calls Python's own evaluation.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: "any": a column whose kind is known only when its data are read.
Kind = Literal["number", "text", "any"]

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

#: The name under which every expression and Python feature finds the event's time, in milliseconds.
EVENT_TIME = "event_time"

LONGEST = 2000


class ExpressionError(ValueError):
    """A mistake in an expression: what is wrong, where, and the fix."""


@dataclass(frozen=True)
class Function:
    """The kinds of a function's arguments ("same": all alike), the last one repeated up to ``most`` arguments."""

    arguments: tuple[str, ...]
    result: str = "number"
    most: int = 0


_CALENDAR = Function(("number", "zone"))
_ONE = Function(("number",))

FUNCTIONS: dict[str, Function] = {
    "hour": _CALENDAR,
    "minute": _CALENDAR,
    "weekday": _CALENDAR,
    "day": _CALENDAR,
    "month": _CALENDAR,
    "year": _CALENDAR,
    "log": _ONE,
    "log1p": _ONE,
    "exp": _ONE,
    "sqrt": _ONE,
    "abs": _ONE,
    "floor": _ONE,
    "sin": _ONE,
    "cos": _ONE,
    "minimum": Function(("number", "number"), most=16),
    "maximum": Function(("number", "number"), most=16),
    "clip": Function(("number", "number", "number")),
    "coalesce": Function(("same", "same"), result="same", most=16),
    "isnull": Function(("any",)),
    "where": Function(("number", "same", "same"), result="same"),
}

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr)
_EQUALITY = (ast.Eq, ast.NotEq)
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@dataclass(frozen=True)
class Expression:
    """A checked expression: its tree, the kind of its result, the names it reads (``lookup.column`` with the dot)."""

    text: str
    tree: ast.expr
    kind: Kind
    names: frozenset[str]


def parse(text: str, kinds: Mapping[str, Kind]) -> Expression:
    """Check ``text`` against the names it may use.

    Parameters
    ----------
    text
        The expression.
    kinds
        Every name it may use and what it holds.

    Raises
    ------
    ExpressionError
        One sentence with the expression, the position (1 = its first character) and the fix.
    """
    if len(text) > LONGEST:
        raise ExpressionError(
            f"an expression of {len(text)} characters is too long; split it into features, each at most {LONGEST}"
        )
    source = text.strip()
    try:
        tree = ast.parse(source, mode="eval").body
        checker = _Checker(source, kinds)
        kind = checker.kind_of(tree)
    except SyntaxError as error:
        where = f" at position {error.offset or len(source) + 1}"  # 0: at its end
        raise ExpressionError(
            f'"{source}" is not an expression{where}: {error.msg}; write it as in Python, for example "a / b"'
        ) from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(
            f'"{source[:60]}…" is nested too deeply or not text; split it into several features'
        ) from None
    return Expression(source, tree, kind, frozenset(checker.names))


def suggest(word: str, words: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, or all of them when they are few."""
    known = sorted(words)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.65)
    if near:
        return f'did you mean "{near[0]}"?'
    if not known:
        return "there is none to name"
    shown = ", ".join(known[:12])
    return f"use one of {shown}" + (", …" if len(known) > 12 else "")


class _Checker:
    """Walks a tree and infers kinds; anything outside the language is an error."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self._text = text
        self._kinds = kinds
        self.names: set[str] = set()

    def kind_of(self, node: ast.expr) -> Kind:  # noqa: PLR0911  # one return per kind of node
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name):
                return self._name(node, f"{node.value.id}.{name}" if isinstance(node, ast.Attribute) else name)  # type: ignore[attr-defined]  # matched above
            case ast.BinOp(left=left, right=right, op=op) if isinstance(op, _ARITHMETIC):
                self._numbers(left, right)
                return "number"
            case ast.UnaryOp(operand=operand):
                self._numbers(operand)
                return "number"
            case ast.BoolOp(values=values):
                self._numbers(*values)
                return "number"
            case ast.Compare():
                return self._compare(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._numbers(test)
                return self._same(body, orelse)
            case ast.Call():
                return self._call(node)
        raise self._error(
            node, f"{type(node).__name__} is not part of the language; use names, numbers, operators and functions"
        )

    def _constant(self, node: ast.Constant) -> Kind:
        if isinstance(node.value, str):
            return "text"
        if isinstance(node.value, (bool, int, float)):
            try:
                float(node.value)
            except OverflowError:
                raise self._error(node, "the number is too large; use one below 1e308") from None
            return "number"
        raise self._error(
            node, f"{node.value!r} is not a number or a string; use isnull(x) or coalesce(x, y) for what is missing"
        )

    def _name(self, node: ast.expr, name: str) -> Kind:
        if name not in self._kinds:
            hint = suggest(name, self._kinds)
            if name in FUNCTIONS:
                hint = f"call the function with arguments, as in {name}(…)"
            raise self._error(node, f'there is no field, lookup column or feature "{name}"; {hint}')
        self.names.add(name)
        return self._kinds[name]

    def _numbers(self, *nodes: ast.expr) -> None:
        for node in nodes:
            if self.kind_of(node) == "text":
                raise self._error(node, "this is text where a number is needed; compare it (x == 'a') or use a number")

    def _same(self, *nodes: ast.expr) -> Kind:
        kinds = {self.kind_of(node) for node in nodes} - {"any"}
        if len(kinds) > 1:
            raise self._error(nodes[-1], "text and number are mixed; make both the same")
        return kinds.pop() if kinds else "any"

    def _compare(self, node: ast.Compare) -> Kind:
        if len(node.ops) == 1 and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            choices = node.comparators[0]
            if not isinstance(choices, (ast.Tuple, ast.List, ast.Set)) or not all(
                isinstance(c, ast.Constant) for c in choices.elts
            ):
                raise self._error(choices, '"in" needs a list of constants, for example x in ("a", "b")')
            self._same(node.left, *choices.elts)
            return "number"
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if isinstance(op, _ORDER):
                self._numbers(left, right)
            elif isinstance(op, _EQUALITY):
                self._same(left, right)
            else:
                raise self._error(node, "this comparison is not part of the language; use == != < <= > >= or in")
        return "number"

    def _call(self, node: ast.Call) -> Kind:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            name = ast.unparse(node.func)
            raise self._error(node, f'there is no function "{name}"; {suggest(name, FUNCTIONS)}')
        name, function = node.func.id, FUNCTIONS[node.func.id]
        most = max(function.most, len(function.arguments))
        least = len(function.arguments)
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args) or not least <= len(node.args) <= most:
            count = str(least) if most == least else f"{least} to {most}"
            raise self._error(node, f"{name} takes {count} argument{'s' if most > 1 else ''}, by position")
        expected = [*function.arguments, *[function.arguments[-1]] * (len(node.args) - least)]
        same = [a for a, kind in zip(node.args, expected, strict=True) if kind == "same"]
        for argument, kind in zip(node.args, expected, strict=True):
            if kind == "number":
                self._numbers(argument)
            elif kind == "any":
                self.kind_of(argument)
            elif kind == "zone":
                self._zone(argument)
        together = self._same(*same) if same else "number"
        return together if function.result == "same" else "number"

    def _zone(self, node: ast.expr) -> None:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            raise self._error(node, "the time zone must be a string, for example 'Europe/Berlin'")
        try:
            ZoneInfo(node.value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise self._error(
                node, f'"{node.value}" is not a time zone; use a name as "UTC" or "America/New_York"'
            ) from None

    def _error(self, node: ast.expr, sentence: str) -> ExpressionError:
        return ExpressionError(f'"{self._text}", position {node.col_offset + 1}: {sentence}')
