"""Refuse SQL that does more than read our tables, before it reaches the engine; quote what goes into our own.

The engine's ``readonly`` refuses writing, but in process it still lets through ``file('/path')``, ``INTO OUTFILE``,
``USE``, ``KILL QUERY`` and a second statement. So a user's SQL passes both: this gate and a read-only session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.ports import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Collection

#: Table functions that make up their rows or read only what the session may read anyway.
HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        "format",  # also a function on strings
        "generate_series",
        "generaterandom",
        "generateseries",
        "merge",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "values",
        "view",
        "zeros",
        "zeros_mt",
    }
)

_FIRST_WORDS = frozenset({"select", "with", "from", "show", "describe", "desc", "explain", "exists"})

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|\#[\ !][^\n]*|/\*(?:(?!/\*|\*/).)*\*/)
  | (?P<string>'(?:[^'\\]|\\.|'')*')
  | (?P<quoted>`(?:[^`\\]|``)*`|"(?:[^"\\]|"")*")
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<sign>(?!/\*)[-+*/%<>=!?:.,;()\[\]{}|^@])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    name: str


def quote(text: str) -> str:
    """Text as an SQL string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def check_reads_only(sql: str, table_functions: Collection[str]) -> str:
    """Check a user's SQL.

    Parameters
    ----------
    sql
        What the user typed.
    table_functions
        Every table function that the engine knows (``system.table_functions``).

    Returns
    -------
    str
        The one statement, without what follows its semicolon.

    Raises
    ------
    WarehouseError
        When it is not one statement that only reads the warehouse's own tables.
    """
    tokens, end = _tokens(sql)
    if not tokens:
        msg = "The SQL is empty."
        raise WarehouseError(msg)
    first = next((token for token in tokens if token.text != "("), tokens[0])
    if first.kind != "word" or first.name not in _FIRST_WORDS:
        msg = f"Only reading is allowed: start with SELECT, WITH, SHOW, DESCRIBE or EXPLAIN, not {first.text!r}."
        raise WarehouseError(msg)
    refused = {name.lower() for name in table_functions} - HARMLESS_TABLE_FUNCTIONS
    for token, after in zip(tokens, [*tokens[1:], _Token("sign", "", "")], strict=True):
        if token.name == "into" and after.name == "outfile":
            msg = "INTO OUTFILE is not allowed: use --csv or --json and redirect the output."
            raise WarehouseError(msg)
        # `file` also names a function that higher-order functions and APPLY take without parentheses.
        if token.name == "file" or (after.text == "(" and token.name in refused):
            msg = f"{token.name} reads outside the warehouse and is not allowed."
            raise WarehouseError(msg)
    if len(tokens) > 1 and tokens[-2].name == "format" and tokens[-2].kind == "word" and tokens[-1].kind == "word":
        msg = "Leave FORMAT out: use --csv or --json."
        raise WarehouseError(msg)
    return sql[:end]


def _tokens(sql: str) -> tuple[list[_Token], int]:
    """Tokens of the one statement, and where it ends; what this lexer cannot tell apart with certainty is refused."""
    tokens: list[_Token] = []
    position, end = 0, None
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            rest = sql[position : position + 20]
            msg = f"The SQL has an open quote or comment, or a sign that is not allowed, at {rest!r}."
            raise WarehouseError(msg)
        kind, text = str(match.lastgroup), match.group()
        if kind != "space":
            if end is not None:
                msg = "Only one statement is allowed at a time."
                raise WarehouseError(msg)
            if text == ";":
                end = position
            else:
                name = {"word": text, "quoted": text[1:-1]}.get(kind, "")
                tokens.append(_Token(kind, text, name.lower()))
        position = match.end()
    return tokens, len(sql) if end is None else end
