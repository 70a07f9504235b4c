"""Refuse SQL that does more than read our tables, before it runs; quote what goes into our own.

The engine's ``readonly`` refuses writing, but in process it still lets through ``file('/path')``, ``default."/path"``,
``EXISTS default."/path"``, ``INTO OUTFILE``, ``USE``, ``KILL QUERY`` and a second statement. So a user's SQL passes a
read-only session and, before it, this gate, in two steps: a lexer makes sure that it is one statement and names no
function that reads outside; then the engine parses it (``EXPLAIN AST``, which runs nothing), and what it found is held
against a list of what is allowed. What is on no list is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from app.ports import WarehouseError
from schemas.tables import DATABASE

#: Table functions that make up their rows.
HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        "format",  # also a function on strings
        "generate_series",
        "generaterandom",
        "generateseries",
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
#: Functions that read files, other servers, dictionaries or the environment; higher-order functions and APPLY take them
#: without parentheses, so that their names are refused wherever they stand.
_OUTSIDE_FUNCTIONS = frozenset(
    {
        *("file", "catboostevaluate", "evalmlmethod", "dictget", "dicthas", "dictisin", "joinget", "joingetornull"),
        *("hascolumnintable", "reversednsquery", "showcertificate", "getmacro", "getoskernelversion"),
        *("filesystemavailable", "filesystemcapacity", "filesystemunreserved", "getserversetting", "getserverport"),
        *("getclienthttpheader", "currentrequesturl"),
    }
)
#: The same by how their names begin, where they are called.
_OUTSIDE_PREFIXES = ("dict", "joinget", "ai", "llm", "filesystem")
#: Tables of the engine about itself that name nothing outside it.
_SYSTEM_TABLES = frozenset(
    {
        *("one", "numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "tables", "columns", "databases", "views"),
        *("functions", "table_functions", "table_engines", "data_type_families", "formats", "time_zones", "keywords"),
        *(
            "aggregate_function_combinators",
            "settings",
            "merge_tree_settings",
            "contributors",
            "licenses",
            "build_options",
        ),
        *(
            "parts",
            "parts_columns",
            "detached_parts",
            "mutations",
            "merges",
            "metrics",
            "events",
            "errors",
            "processes",
        ),
        *("asynchronous_metrics", "disks", "projections", "data_skipping_indices"),
    }
)
_SCHEMA_DATABASES = frozenset({"information_schema", "INFORMATION_SCHEMA"})
_FIRST_WORDS = frozenset({"select", "with", "from", "show", "describe", "desc", "explain", "exists"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Statements, as the engine's parser calls them.
_STATEMENTS = frozenset(
    {
        *("SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "DescribeQuery", "ShowTables"),
        *("ShowFunctions", "ShowEngineQuery", "ExistsTableQuery", "ExistsViewQuery", "ShowCreateTableQuery"),
        "ShowCreateViewQuery",
    }
)
_EXPLAIN = re.compile(r"EXPLAIN(?: AST| SYNTAX| QUERY TREE| PIPELINE| ESTIMATE)?")
#: Those whose identifiers are a table.
_OF_A_TABLE = frozenset({"ExistsTableQuery", "ExistsViewQuery", "ShowCreateTableQuery", "ShowCreateViewQuery"})
_PARTS = frozenset(
    {
        *("ExpressionList", "Identifier", "Literal", "Function", "Subquery", "Asterisk", "QualifiedAsterisk"),
        *("TablesInSelectQuery", "TablesInSelectQueryElement", "TableExpression", "TableIdentifier", "TableJoin"),
        *("ArrayJoin", "OrderByElement", "InterpolateElement", "WithElement", "WindowDefinition", "WindowListElement"),
        *("SampleRatio", "ColumnsRegexpMatcher", "ColumnsListMatcher", "QualifiedColumnsRegexpMatcher"),
        *("QualifiedColumnsListMatcher", "ColumnsTransformerList", "ColumnsApplyTransformer"),
        *("ColumnsExceptTransformer", "ColumnsReplaceTransformer", "ColumnsReplaceTransformer::Replacement"),
        *("DataType", "NameTypePair", "Collation", "SortColumn", "GroupingSets"),
    }
)
#: Functions whose second argument may be a table.
_IN = re.compile(r"(?:global)?(?:not)?(?:null)?in(?:ignoreset)?", re.IGNORECASE)

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|\#[\ !][^\n]*|/\*(?:(?!/\*|\*/).)*\*/)
  | (?P<string>'(?:[^'\\]|\\.|'')*')
  | (?P<quoted>`(?:[^`\\\x00-\x1f]|``)*`|"(?:[^"\\\x00-\x1f]|"")*")
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


@dataclass
class _Node:
    """A part of a statement: what the engine calls it, its name, and what it is made of."""

    kind: str
    name: str = ""
    parts: list[_Node] = field(default_factory=list)


def quote(text: str) -> str:
    """Text as an SQL string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def check_one_statement(sql: str, table_functions: Collection[str]) -> str:
    """Check a user's SQL as far as that goes without parsing it.

    Parameters
    ----------
    sql
        What the user typed.
    table_functions
        Every table function that the engine knows (``system.table_functions``), in lower case.

    Returns
    -------
    str
        The one statement, without what follows its semicolon.

    Raises
    ------
    WarehouseError
        When it is not one statement, writes a file, or names a function that reads outside.
    """
    tokens, end = _tokens(sql)
    if not tokens:
        raise WarehouseError("The SQL is empty.")
    first = next((token for token in tokens if token.text != "("), tokens[0])
    if first.kind != "word" or first.name not in _FIRST_WORDS:
        raise WarehouseError(
            f"Only reading is allowed: start with SELECT, WITH, SHOW, DESCRIBE or EXPLAIN, not {first.text[:40]!r}."
        )
    refused = set(table_functions) - HARMLESS_TABLE_FUNCTIONS
    for token, after in zip(tokens, [*tokens[1:], _Token("sign", "", "")], strict=True):
        if token.name == "into" and after.name == "outfile":
            raise WarehouseError("INTO OUTFILE is not allowed: use --csv or --json and redirect the output.")
        if token.name in _OUTSIDE_FUNCTIONS or (after.text == "(" and token.name in refused):
            raise _outside(token.name)
    if len(tokens) > 1 and tokens[-2].name == "format" and tokens[-2].kind == "word" and tokens[-1].kind == "word":
        raise WarehouseError("Leave FORMAT out: use --csv or --json.")
    return sql[:end]


def check_tree(lines: Sequence[str], table_functions: Collection[str]) -> None:
    """Check what the engine's parser made of a statement.

    Parameters
    ----------
    lines
        The answer to ``EXPLAIN AST``: a node a line, what it is made of below it and one space further in.
    table_functions
        As above.

    Raises
    ------
    WarehouseError
        When it is not a statement that only reads our tables.
    """
    root = _read_tree(lines)
    if root.kind not in _STATEMENTS and not (root.kind == "Explain" and _EXPLAIN.fullmatch(root.name)):
        raise WarehouseError(f"Only reading is allowed, and this is a statement of another kind ({root.kind}).")
    refused = set(table_functions) - HARMLESS_TABLE_FUNCTIONS
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        _check_names(node, refused)
        for part in node.parts:
            if part.kind == "Set":
                if node.kind != "Explain":  # where it says how to explain
                    raise WarehouseError("SETTINGS is not allowed: what a query may take is set here.")
            elif part.kind in _PARTS or part.kind in _STATEMENTS:
                open_nodes.append(part)
            else:
                raise WarehouseError(f"A query may not have a part of this kind ({part.kind} {part.name[:40]}).")


def _check_names(node: _Node, refused: Collection[str]) -> None:
    names = [part.name for part in node.parts if part.kind == "Identifier"]
    if node.kind == "TableIdentifier":
        _check_table(node.name)
    elif node.kind in _OF_A_TABLE:
        _check_table(".".join(names))
    elif node.kind == "ShowTables":
        for name in set(names) - {DATABASE, "system", *_SCHEMA_DATABASES}:
            raise _foreign(name)
    elif node.kind == "TableExpression":
        for part in node.parts:
            if part.kind == "Function" and part.name.lower() not in HARMLESS_TABLE_FUNCTIONS:
                raise _outside(part.name)
    elif node.kind == "Function":
        _check_function(node, refused)


def _check_function(node: _Node, refused: Collection[str]) -> None:
    name = node.name.lower()
    if name in refused or name in _OUTSIDE_FUNCTIONS or name.startswith(_OUTSIDE_PREFIXES):
        raise _outside(node.name)
    arguments = [
        part for expressions in node.parts if expressions.kind == "ExpressionList" for part in expressions.parts
    ]
    if _IN.fullmatch(name) and len(arguments) > 1 and arguments[1].kind in {"Identifier", "TableIdentifier"}:
        _check_table(arguments[1].name)


def _check_table(name: str) -> None:
    """Check a table's name, ``database.table`` or ``table``, which then is one of ours or made by the query itself."""
    parts = name.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise _foreign(name)
    if len(parts) == 1 or parts[0] in {DATABASE, *_SCHEMA_DATABASES}:
        return
    if parts[0] != "system" or parts[1] not in _SYSTEM_TABLES:
        raise _foreign(name)


def _read_tree(lines: Sequence[str]) -> _Node:
    """Nodes of ``Kind name (alias a) (children 2)``."""
    top = _Node("")
    stack = [(-1, top)]
    for line in lines:
        text = line.lstrip(" ")
        if not text:
            continue
        depth = len(line) - len(text)
        text = re.sub(r" \(children \d+\)$", "", text)
        kind, _, name = re.sub(r" \(alias .*\)$", "", text).partition(" ")
        while stack[-1][0] >= depth:
            stack.pop()
        node = _Node(kind, name.strip())
        stack[-1][1].parts.append(node)
        stack.append((depth, node))
    if len(top.parts) != 1:
        raise WarehouseError("Only one statement is allowed at a time.")
    return top.parts[0]


def _outside(name: str) -> WarehouseError:
    return WarehouseError(f"{name} reads outside the warehouse and is not allowed.")


def _foreign(name: str) -> WarehouseError:
    return WarehouseError(f"{name[:80]!r} is no table of the database {DATABASE}: only those may be read.")


def _tokens(sql: str) -> tuple[list[_Token], int]:
    """Tokens of the one statement, and where it ends; what this lexer cannot tell apart with certainty is refused."""
    tokens: list[_Token] = []
    position, end = 0, None
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            rest = sql[position : position + 20]
            raise WarehouseError(f"The SQL has an open quote or comment, or a sign that is not allowed, at {rest!r}.")
        kind, text = str(match.lastgroup), match.group()
        if kind != "space":
            if end is not None:
                raise WarehouseError("Only one statement is allowed at a time.")
            if text == ";":
                end = position
            else:
                name = {"word": text, "quoted": text[1:-1]}.get(kind, "")
                tokens.append(_Token(kind, text, name.lower()))
        position = match.end()
    return tokens, len(sql) if end is None else end
