"""Small mistakes that a person could make, one at a time, as changes of a syntax tree.

No change makes a program that cannot run at all: messages, annotations, decorators and asserts stay as they are.
Nor is there one that changes nothing by its nature:

- ``strict`` of zip is an assert.
- The -1 of reshape may be any number below nothing.
- A module's constant of more than ten is a size as a rule: one more or less is as good. It is halved instead.
- What is the same text again, as two equal arguments that change places.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_Swaps = dict[type[ast.AST], type[ast.AST]]
_COMPARISONS: _Swaps = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: _Swaps = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_PAIRS = (
    *(("min", "max"), ("minimum", "maximum"), ("fmin", "fmax"), ("argmin", "argmax"), ("any", "all")),
    *(("floor", "ceil"), ("left", "right"), ("isinf", "isnan"), ("append", "extend"), ("union", "intersection")),
)
_NAMES = {old: new for pair in _PAIRS for old, new in (pair, pair[::-1])}
#: A call of one argument that may be forgotten.
_WRAPPERS = {"abs", "sorted", "reversed", "round", "unique", "sort", "cumsum", "sqrt", "floor", "ceil", "fabs"}
#: What gives the same for its arguments in either order.
_SYMMETRIC = {"min", "max", "minimum", "maximum", "fmin", "fmax", "zip", "isinstance", "array_equal", "hypot"}
#: A whole number of a module's constant that is no larger is exact, as a rule; a larger one is a size.
_LARGEST_EXACT = 10
_LEFT_ALONE = (ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr)


@dataclass(frozen=True, slots=True)
class Change:
    """One place of a file and what stands there instead."""

    file: str
    scope: str  # the function or class, as __qualname__ has it; "" for the module itself
    line: int
    text: str  # the line of the file, so that a change is known again when lines above it come and go
    old: str
    new: str
    place: int  # among all changes of the file, in their order

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.file, self.scope, self.text, f"{self.old} → {self.new}"


def find_changes(file: str, source: str) -> list[Change]:
    lines = source.splitlines()
    return [
        Change(file, scope, at, lines[at - 1].strip(), _to_text(old), _to_text(new), place)
        for place, (scope, at, old, new, _) in enumerate(_walk(ast.parse(source)))
    ]


def make_changed(source: str, place: int) -> str:
    """The file with its ``place``-th change, without its comments."""
    tree = ast.parse(source)
    for number, (_, _, old, new, (parent, field)) in enumerate(_walk(tree)):
        if number == place:
            inside = getattr(parent, field)
            if isinstance(inside, list):
                inside[next(i for i, node in enumerate(inside) if node is old)] = new
            else:
                setattr(parent, field, new)
            return ast.unparse(ast.fix_missing_locations(tree))
    raise IndexError(place)


def _to_text(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


def _walk(
    parent: ast.AST, scope: str = "", line: int = 1, *, in_constant: bool = False
) -> Iterator[tuple[str, int, ast.AST, ast.AST, tuple[ast.AST, str]]]:
    for field, value in ast.iter_fields(parent):
        if field in {"annotation", "returns", "decorator_list", "bases", "type_params"}:
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, _LEFT_ALONE) or _is_for_types(node):
                continue
            if _is_strict_of_zip(parent, node):
                continue
            at = getattr(node, "lineno", line)
            for new in [_halve(node)] if in_constant and _is_size(node) else _vary(node):
                if ast.dump(new) != ast.dump(node):
                    yield scope, at, node, new, (parent, field)
            if isinstance(node, ast.Raise) or _is_rest_of_reshape(parent, node):
                continue
            inner = scope
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                is_local = isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef)
                inner = f"{scope}{'.<locals>.' if is_local else '.'}{node.name}" if scope else node.name
            is_constant = in_constant or (isinstance(parent, ast.Module) and _is_constant(node))
            yield from _walk(node, inner, at, in_constant=is_constant)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _name_called(node: ast.AST) -> str:
    called = node.func if isinstance(node, ast.Call) else None
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _is_strict_of_zip(parent: ast.AST, node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "strict" and _name_called(parent) == "zip"


def _is_rest_of_reshape(parent: ast.AST, node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _name_called(parent) == "reshape"


def _is_constant(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id.isupper() for target in targets)


def _is_size(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > _LARGEST_EXACT


def _halve(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int)
    return ast.Constant(node.value // 2)


def _has_opposite(test: ast.expr) -> bool:
    """Whether a change of the test itself turns it round already."""
    turned = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
    return isinstance(test, ast.UnaryOp) or (isinstance(test, ast.Compare) and isinstance(test.ops[0], turned))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _compare(node: ast.Compare) -> Iterator[ast.AST]:
    for i, op in enumerate(node.ops):
        yield _with(node, ops=[*node.ops[:i], _COMPARISONS[type(op)](), *node.ops[i + 1 :]])


def _binary(node: ast.BinOp) -> Iterator[ast.AST]:
    if type(node.op) in _ARITHMETIC and not isinstance(node.left, ast.JoinedStr):
        yield _with(node, op=_ARITHMETIC[type(node.op)]())
        yield node.left
        if isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Mult | ast.Add):
            yield node.right


def _boolean(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for i in range(len(node.values)):
        rest = [*node.values[:i], *node.values[i + 1 :]]
        yield rest[0] if len(rest) == 1 else _with(node, values=rest)


def _unary(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if not isinstance(node.op, ast.UAdd):
        yield node.operand


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        if value:
            yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)
        if value:
            yield ast.Constant(value / 2)
    elif value in {"left", "right"}:
        yield ast.Constant(_NAMES[value])


def _call(node: ast.Call) -> Iterator[ast.AST]:
    called, name = node.func, _name_called(node)
    if name in _NAMES:
        field = "attr" if isinstance(called, ast.Attribute) else "id"
        yield _with(node, func=_with(called, **{field: _NAMES[name]}))
    if name in _WRAPPERS and len(node.args) == 1:
        yield node.args[0]
    if len(node.args) == 2 and name not in _SYMMETRIC and not any(isinstance(a, ast.Starred) for a in node.args):
        yield _with(node, args=node.args[::-1])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _is_strict_of_zip(node, keyword):
            yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])


def _slice(node: ast.Slice) -> Iterator[ast.AST]:
    for name in ("lower", "upper", "step"):
        if getattr(node, name) is not None:
            yield _with(node, **{name: None})


def _comprehension(node: ast.comprehension) -> Iterator[ast.AST]:
    for i in range(len(node.ifs)):
        yield _with(node, ifs=[*node.ifs[:i], *node.ifs[i + 1 :]])


def _condition(node: ast.If | ast.IfExp) -> Iterator[ast.AST]:
    if not _has_opposite(node.test):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _loop(node: ast.While) -> Iterator[ast.AST]:
    if not isinstance(node.test, ast.Constant):
        yield _with(node, test=ast.Constant(value=False))


def _increment(node: ast.AugAssign) -> Iterator[ast.AST]:
    if type(node.op) in _ARITHMETIC:
        yield _with(node, op=_ARITHMETIC[type(node.op)]())
    yield ast.Pass()


def _statement(node: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
        return
    if isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        return
    yield ast.Pass()


_VARY: dict[type[ast.AST], Callable[[Any], Iterator[ast.AST]]] = {
    ast.Compare: _compare,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.UnaryOp: _unary,
    ast.Call: _call,
    ast.Constant: _constant,
    ast.Slice: _slice,
    ast.comprehension: _comprehension,
    ast.AugAssign: _increment,
    ast.If: _condition,
    ast.IfExp: _condition,
    ast.While: _loop,
    **dict.fromkeys((ast.Expr, ast.Assign, ast.Raise, ast.Continue, ast.Break, ast.Delete), _statement),
}


def _vary(node: ast.AST) -> Iterator[ast.AST]:
    yield from _VARY[type(node)](node) if type(node) in _VARY else ()
