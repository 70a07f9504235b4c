"""How a feature follows from one field: a monotone function that can be undone, read from the feature's expression.

A change of unit multiplies a field. Of ``log(amount)`` it is then a shift, of ``sqrt(amount)`` another factor, and of
``log1p(amount)`` neither; but undone, converted and done again, all of them are known.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from app.core.batches import Floats

Operation = Literal["+", "*", "log", "log1p", "exp", "sqrt", "square"]

_FORWARD = {"log": np.log, "log1p": np.log1p, "exp": np.exp, "sqrt": np.sqrt, "square": np.square}
_BACKWARD = {"log": np.exp, "log1p": np.expm1, "exp": np.log, "sqrt": np.square, "square": np.sqrt}
_FUNCTIONS: dict[str, Operation] = {"log": "log", "log1p": "log1p", "exp": "exp", "sqrt": "sqrt"}


@dataclass(frozen=True)
class Path:
    """Steps from the value of a field to that of a feature, each with its constant.

    Examples
    --------
    >>> path = Path((("*", 2.0), ("log1p", 0.0)))
    >>> path.forward(np.array([0.0, 1.0])).round(3).tolist()
    [0.0, 1.099]
    >>> path.backward(path.forward(np.array([0.0, 1.0]))).round(9).tolist()
    [0.0, 1.0]
    """

    steps: tuple[tuple[Operation, float], ...] = ()

    @property
    def is_linear(self) -> bool:
        return all(operation in {"+", "*"} for operation, _ in self.steps)

    @property
    def is_rising(self) -> bool:
        return sum(operation == "*" and constant < 0 for operation, constant in self.steps) % 2 == 0

    def then(self, operation: Operation, constant: float = 0.0) -> Path:
        return Path((*self.steps, (operation, constant)))

    def after(self, first: Path) -> Path:
        """Both: the other path, and this one on what it gives."""
        return Path((*first.steps, *self.steps))

    def forward(self, values: Floats) -> Floats:
        """NaN where there is no value."""
        with np.errstate(all="ignore"):
            for operation, constant in self.steps:
                if operation == "+":
                    values = values + constant
                elif operation == "*":
                    values = values * constant
                else:
                    values = _FORWARD[operation](values)
        return values

    def backward(self, values: Floats) -> Floats:
        """NaN where there is no value."""
        with np.errstate(all="ignore"):
            for operation, constant in reversed(self.steps):
                if operation == "+":
                    values = values - constant
                elif operation == "*":
                    values = values / constant
                else:
                    values = _BACKWARD[operation](values)
        return values


def path_in(node: ast.expr) -> tuple[str, Path] | None:  # noqa: PLR0911  # one return per kind of node
    """The one name that an expression is a known monotone function of, and which; None where there is no such.

    Examples
    --------
    >>> path_in(ast.parse("log1p(amount / 100) + 1", mode="eval").body)
    ('amount', Path(steps=(('*', 0.01), ('log1p', 0.0), ('+', 1.0))))
    >>> path_in(ast.parse("amount / weight", mode="eval").body)
    """
    match node:
        case ast.Name(id=name):
            return name, Path()
        case ast.Attribute(value=ast.Name(id=lookup), attr=column):
            return f"{lookup}.{column}", Path()
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _then(operand, "*", -1.0)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return path_in(operand)
        case ast.BinOp():
            return _of_two(node)
        case ast.Call(func=ast.Name(id=function), args=[argument]) if function in _FUNCTIONS:
            return _then(argument, _FUNCTIONS[function])
        case ast.Call(func=ast.Name(id="coalesce"), args=[argument, ast.Constant(value=0)]):
            return path_in(argument)  # nought is nought in any unit
    return None


def _of_two(node: ast.BinOp) -> tuple[str, Path] | None:  # noqa: PLR0911  # one return per operator
    left, right = _constant(node.left), _constant(node.right)
    if (left is None) == (right is None):
        return None
    match node.op:
        case ast.Add():
            return _then(node.left if left is None else node.right, "+", right if left is None else left)
        case ast.Mult():
            return _then(node.left if left is None else node.right, "*", right if left is None else left)
        case ast.Sub() if right is not None:
            return _then(node.left, "+", -right)
        case ast.Sub():
            return _then_both(_then(node.right, "*", -1.0), left)
        case ast.Div() if right:
            return _then(node.left, "*", 1.0 / right)
    return None


def _then(node: ast.expr, operation: Operation, constant: float | None = 0.0) -> tuple[str, Path] | None:
    inner = path_in(node)
    is_none = operation == "*" and not constant
    return None if inner is None or is_none else (inner[0], inner[1].then(operation, constant or 0.0))


def _then_both(found: tuple[str, Path] | None, offset: float | None) -> tuple[str, Path] | None:
    return None if found is None else (found[0], found[1].then("+", offset or 0.0))


def _constant(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return float(value) if math.isfinite(value) else None
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -float(value)
    return None
