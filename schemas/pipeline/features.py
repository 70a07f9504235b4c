"""The ``[lookups]`` and ``[[features]]`` of a pipeline file: read, and checked against the fields of its events."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Collection
from pathlib import Path
from typing import get_args

from schemas.pipeline.expression import EVENT_TIME, IDENTIFIER, Expression, ExpressionError, Kind, parse, suggest
from schemas.pipeline.feature_order import CircleError, order_features
from schemas.pipeline.python_file import find_python_file
from schemas.pipeline.spec import (
    UNSEEN,
    Aggregate,
    EventField,
    Events,
    Feature,
    FeatureType,
    FieldType,
    Lookup,
    WindowSpec,
)
from schemas.pipeline.toml_table import TomlTable

#: Metrics that are not features; a feature of that name would be mixed up with them.
RESERVED = ("score", "outcome", "label", EVENT_TIME)
MOST_TILES = 10_000
#: Aggregates of the events or labels themselves, whatever their fields.
FIELDLESS_AGGREGATES = ("count", "rate", "time_since_last")
#: What can be added up over partitions.
SHARED_AGGREGATES = ("count", "rate", "sum", "mean")


def check_name(table: TomlTable, key: str, name: str) -> str:
    """Refuse what cannot be a name in an expression or column."""
    if not IDENTIFIER.match(name) or keyword.iskeyword(name):
        table.fail(key, f'"{name}" cannot be a name; use letters, digits and _, not beginning with a digit')
    return name


def check_python(table: TomlTable, key: str, reference: str, folder: Path) -> str:
    """Refuse a reference whose file or function is not there. The file is parsed, not run."""
    module, colon, function = reference.partition(":")
    if not colon or not module or not function.isidentifier():
        table.fail(key, f'"{reference}" is not a reference; write "file.py:function" or "package.module:function"')
    path = find_python_file(reference, folder)
    if path is None:
        what = f"there is no file {folder / module}" if module.endswith(".py") else f"there is no module {module}"
        table.fail(key, f"{what}; create it or correct the reference")
    if path.suffix != ".py":
        return reference
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two come from deep nesting
        table.fail(key, f"{path.name} is not Python ({error}); correct it")
    except OSError as error:
        table.fail(key, f"{path.name} cannot be read ({error.strerror}); check its permissions")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    if function not in names:
        table.fail(key, f'{path.name} has no function "{function}"; {suggest(function, names)}')
    return reference


def read_lookups(top: TomlTable, fields: tuple[EventField, ...]) -> tuple[Lookup, ...]:
    """The ``[lookups.NAME]`` tables. Their data are not read."""
    types = {field.name: field.type for field in fields}
    tables = top.table("lookups")
    lookups = []
    for name in tables.keys():  # noqa: SIM118  # not a dict
        table = tables.table(name)
        check_name(tables, name, name)
        table.allow("path", "keys", "columns", "time", "known_after", "max_age")
        keys = table.mapping("keys", 'for example { column = "field" }')
        for column, field in keys.items():
            if field not in types:
                table.fail("keys", f'there is no event field "{field}" for {column} to equal; {suggest(field, types)}')
        columns = table.texts("columns")
        if not columns:
            table.fail("columns", "names no column; name those that features use")
        for column in columns:
            check_name(table, "columns", column)
        for key in ("known_after", "max_age"):
            if key in table and "time" not in table:
                table.fail(key, "has no meaning without time; name the column that says when a row was true")
        lookups.append(
            Lookup(
                name=name,
                path=table.text("path", fix='a file, or "package:NAME/path"'),
                keys=keys,
                columns=columns,
                time=table.text("time") if "time" in table else None,
                known_after_ms=table.duration("known_after", "0s"),
                max_age_ms=table.duration("max_age", least_ms=1) if "max_age" in table else None,
            )
        )
    return tuple(lookups)


def read_features(
    top: TomlTable, events: Events, lookups: tuple[Lookup, ...], folder: Path, *, with_labels: bool
) -> tuple[Feature, ...]:
    """The ``[[features]]``, in order; each may read all others, windows included, but in no circle."""
    tables = {}
    known: dict[str, Kind] = {EVENT_TIME: "number"}
    known |= {f"{lookup.name}.{column}": "any" for lookup in lookups for column in lookup.columns}
    for table in top.tables("features"):
        table.allow("name", "type", "expression", "window", "python", "arguments", "values")
        name = check_name(table, "name", table.text("name", fix='for example name = "amount"'))
        if name in RESERVED:
            table.fail("name", f'"{name}" is the name of another metric; call the feature something else')
        if name in tables:
            table.fail("name", f'"{name}" is used by two features; rename one')
        tables[name] = table
        known[name] = "text" if table.word("type", get_args(FeatureType)) == "category" else "number"
    fields: dict[str, Kind] = {f.name: "text" if f.type == "string" else "number" for f in events.fields}
    known |= fields  # a field goes before a feature of its name
    columns: dict[str, FieldType | FeatureType] = {
        name: table.word("type", get_args(FeatureType)) for name, table in tables.items() if "window" not in table
    }
    columns |= {field.name: field.type for field in events.fields}
    features: list[Feature] = []
    reads: dict[str, frozenset[str]] = {}
    for name, table in tables.items():
        kind = table.word("type", get_args(FeatureType))
        given = [key for key in ("expression", "window", "python") if key in table]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            table.fail("", f"give exactly one of expression, window and python ({named} given)")
        expression = window = python = None
        arguments: tuple[str, ...] = ()
        if "expression" in table:
            parsed = _expression(table, kind, known)
            expression, reads[name] = table.text("expression"), parsed.names
        elif "python" in table:
            python = check_python(table, "python", table.text("python"), folder)
            arguments = _arguments(table, known)
            reads[name] = frozenset(arguments)
        else:
            window = _window(table.table("window"), kind, columns, events.entity, with_labels=with_labels)
        if "arguments" in table and python is None:
            table.fail("arguments", "belong to python; remove the key")
        features.append(Feature(name, kind, expression, window, python, arguments, _values(table, kind)))
    if not features:
        top.fail("features", "the pipeline has no features; add at least one [[features]] table")
    _check_order(top, tables, features, reads, fields)
    return tuple(features)


def _check_order(
    top: TomlTable,
    tables: dict[str, TomlTable],
    features: list[Feature],
    reads: dict[str, frozenset[str]],
    fields: Collection[str],
) -> None:
    """Refuse circles, windows over windows, and names that may mean a field or a window."""
    windows = tables.keys() - reads.keys()
    try:
        order = order_features({name: names.difference(fields) for name, names in reads.items()}, windows)
    except CircleError as error:
        top.fail("features", str(error))
    for name, names in reads.items():
        for both in sorted((names & windows.union(order.derived)).intersection(fields) - {name}):
            where = "expression" if "expression" in tables[name] else "arguments"
            tables[name].fail(
                where,
                f'"{both}" is an event field, and a feature that is a window or made of windows; rename the feature',
            )
    for feature in features:
        for name in feature.window.reads if feature.window else ():
            if name in order.derived and name not in fields:
                tables[feature.name].table("window").fail(
                    "key" if feature.window and name in feature.window.key else "field",
                    f'"{name}" is made of windows; name a field, or a feature that the event alone decides',
                )


def _expression(table: TomlTable, kind: FeatureType, known: dict[str, Kind]) -> Expression:
    try:
        parsed = parse(table.text("expression"), known)
    except ExpressionError as error:
        table.fail("expression", str(error))
    if parsed.kind != "any" and (parsed.kind == "text") != (kind == "category"):
        if kind == "category":
            table.fail(
                "expression", "gives a number, but a category needs text; change the type or name a string field"
            )
        table.fail("expression", f'gives text, but the type is {kind}; make it type = "category" with its values')
    return parsed


def _arguments(table: TomlTable, known: dict[str, Kind]) -> tuple[str, ...]:
    arguments = table.texts("arguments", ())
    if not arguments:
        table.fail("arguments", 'names nothing; name what the function is called with, for example ["event_time"]')
    for name in arguments:
        if name not in known:
            table.fail("arguments", f'there is no field, lookup column or feature "{name}"; {suggest(name, known)}')
    return arguments


def _values(table: TomlTable, kind: FeatureType) -> tuple[str, ...]:
    if kind != "category":
        if "values" in table:
            table.fail("values", 'only a category has values; remove the key or make it type = "category"')
        return ()
    values = table.texts("values", ())
    if not values:
        table.fail("values", 'a category needs its values, for example values = ["a", "b"]')
    if UNSEEN in values:
        table.fail("values", f'"{UNSEEN}" is what all values are called that are not listed; leave it out')
    return values


def _window(
    table: TomlTable, kind: FeatureType, types: dict[str, FieldType | FeatureType], entity: str, *, with_labels: bool
) -> WindowSpec:
    table.allow("of", "key", "size", "hop", "aggregate", "field", "delay", "repartition")
    if kind not in {"int", "float"}:
        table.fail("", f"a window gives a number, but the type is {kind}; make it int or float")
    of = table.word("of", ("events", "labels"))
    if of == "labels" and not with_labels:
        table.fail("of", 'the pipeline has no [labels]; add them or use of = "events"')
    key = table.texts("key")
    for field in key:
        if field not in types:
            table.fail("key", f'there is no event field "{field}"; {suggest(field, types)}')
        if types[field] == "float":
            table.fail("key", f'"{field}" is a float, which makes no key; use string, int or bool fields')
    size_ms = table.duration("size", least_ms=1)
    hop_ms = table.duration("hop", least_ms=1)
    if size_ms % hop_ms or size_ms // hop_ms > MOST_TILES:
        table.fail("size", f"must be a multiple of hop, at most {MOST_TILES} times it; change one of them")
    aggregate = table.word("aggregate", get_args(Aggregate))
    delay_ms = _delay(table, key, entity, aggregate)
    repartition = table.flag("repartition", default=False)
    if repartition and delay_ms is None:
        table.fail(
            "repartition",
            f'is for keys without the entity field "{entity}"; remove it, the keys of this window are divided already',
        )
    of_field = _window_field(table, of, aggregate, types)
    return WindowSpec(of, key, size_ms, hop_ms, aggregate, of_field, delay_ms, repartition)


def _delay(table: TomlTable, key: tuple[str, ...], entity: str, aggregate: Aggregate) -> int | None:
    """How far a window that is shared between partitions stays behind; None for one that is not."""
    if entity in key:
        if "delay" in table:
            table.fail("delay", f'is for keys without the entity field "{entity}"; remove it, this window has none')
        return None
    if "delay" not in table:
        table.fail(
            "key",
            f'lacks the entity field "{entity}", so the window is shared between partitions; add the field, or declare '
            'how far the window stays behind, for example delay = "1h"',
        )
    if aggregate not in SHARED_AGGREGATES:
        table.fail(
            "aggregate",
            f'"{aggregate}" cannot be added up over partitions; use {", ".join(SHARED_AGGREGATES)}, or a key with '
            f'"{entity}"',
        )
    return table.duration("delay")


def _window_field(
    table: TomlTable, of: str, aggregate: Aggregate, types: dict[str, FieldType | FeatureType]
) -> str | None:
    if aggregate in FIELDLESS_AGGREGATES:
        if "field" in table:
            table.fail("field", f'"{aggregate}" has no field; remove the key or use another aggregate, as "sum"')
        return None
    choices = [name for name, type_ in types.items() if type_ not in {"string", "category"} or aggregate == "distinct"]
    if of == "labels":
        choices.append("label")
    field = table.text("field", fix=f"what the {aggregate} is of")
    if field not in choices:
        kind = "field" if aggregate == "distinct" else "numeric field"
        table.fail("field", f'"{field}" is no {kind} of {of}; {suggest(field, choices)}')
    return field
