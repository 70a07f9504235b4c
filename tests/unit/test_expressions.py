from __future__ import annotations

import ast
import datetime as dt
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.features.calendar_time import to_local_ms, to_part
from app.core.features.expressions import compile_expression
from schemas.pipeline.expression import FUNCTIONS, ExpressionError, parse

NAN = float("nan")
KINDS: dict[str, Any] = {
    "a": "number",
    "b": "number",
    "event_time": "number",
    "city": "text",
    "town": "text",
    "weather.temp": "any",
    "planes.model": "any",
}


def evaluate(text: str, **columns: list[Any]) -> list[Any]:
    arrays = {}
    for name, values in columns.items():
        dtype = object if any(isinstance(value, str) for value in values) else np.float64
        arrays[name.replace("__", ".")] = np.array(values, dtype=dtype)
    rows = len(next(iter(arrays.values()))) if arrays else 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compile_expression(parse(text, KINDS))(arrays, rows)
    assert found.shape == (rows,)
    assert found.dtype in {np.dtype(object), np.dtype(np.float64)}
    return found.tolist()


def utc_ms(*parts: int) -> int:
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]  # ints alone


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("a + 2 * b", {"a": [1], "b": [3]}, [7]),
        ("-a ** 2", {"a": [3]}, [-9]),
        ("a // b", {"a": [-7], "b": [2]}, [-4]),
        ("a % b", {"a": [-7], "b": [2]}, [1]),
        ("a / b", {"a": [1, 0, 1], "b": [0, 0, 4]}, [NAN, NAN, 0.25]),
        ("a // b", {"a": [1], "b": [0]}, [NAN]),
        ("a % b", {"a": [1], "b": [0]}, [NAN]),
        ("1 / (1 / a)", {"a": [0, 2]}, [NAN, 2]),
        ("1 / exp(a)", {"a": [1000]}, [NAN]),
        ("a * 1e308 * 10", {"a": [1]}, [NAN]),
        ("a + b", {"a": [NAN, 1], "b": [1, NAN]}, [NAN, NAN]),
        ("a ** 0.5", {"a": [-1, 4]}, [NAN, 2]),
        ("log(a)", {"a": [-1, 0, 1]}, [NAN, NAN, 0]),
        ("log1p(a)", {"a": [-1, 0]}, [NAN, 0]),
        ("sqrt(a)", {"a": [-1, 9]}, [NAN, 3]),
        ("abs(a) + floor(a)", {"a": [-1.5]}, [-0.5]),
        ("sin(a) + cos(a)", {"a": [0]}, [1]),
        ("minimum(a, b, 2)", {"a": [5, 1, NAN], "b": [3, 9, 1]}, [2, 1, NAN]),
        ("maximum(a, b)", {"a": [5, NAN], "b": [3, 1]}, [5, NAN]),
        ("clip(a, 0, 1)", {"a": [-2, 0.5, 7, NAN]}, [0, 0.5, 1, NAN]),
        ("coalesce(a, b, 9)", {"a": [1, NAN, NAN], "b": [5, 5, NAN]}, [1, 5, 9]),
        ("isnull(a)", {"a": [NAN, 0]}, [1, 0]),
        ("isnull(city)", {"city": ["x", None]}, [0, 1]),
        ("a < b", {"a": [1, 2, NAN], "b": [2, 2, 1]}, [1, 0, NAN]),
        ("1 < a <= 3", {"a": [1, 3, 4]}, [0, 1, 0]),
        ("a != b", {"a": [1, 2, NAN], "b": [2, 2, 1]}, [1, 0, NAN]),
        ("a and b", {"a": [0, NAN, NAN, 1, 2], "b": [NAN, 0, 1, NAN, 1]}, [0, 0, NAN, NAN, 1]),
        ("a or b", {"a": [1, NAN, NAN, 0, 0], "b": [NAN, 1, 0, NAN, 0]}, [1, 1, NAN, NAN, 0]),
        ("not a", {"a": [0, 2, NAN]}, [1, 0, NAN]),
        ("(a > 1) & (b > 1) | ~(a > 1)", {"a": [2, 2, 0], "b": [2, 0, 0]}, [1, 0, 1]),
        ("a if b > 0 else -a", {"a": [5, 5, 5], "b": [1, -1, NAN]}, [5, -5, NAN]),
        ("where(b > 0, a, 0)", {"a": [5, 5], "b": [1, -1]}, [5, 0]),
        ("city == 'Rome'", {"city": ["Rome", "Oslo", None]}, [1, 0, NAN]),
        ("city != town", {"city": ["Rome", "Oslo", "x"], "town": ["Rome", "x", None]}, [0, 1, NAN]),
        ("city in ('Rome', 'Oslo')", {"city": ["Rome", "Bern", None]}, [1, 0, NAN]),
        ("city not in ('Rome', 'Oslo')", {"city": ["Rome", "Bern", None]}, [0, 1, NAN]),
        ("a in (1, 2)", {"a": [1, 3, NAN]}, [1, 0, NAN]),
        ("city", {"city": ["Rome", None]}, ["Rome", None]),
        ("coalesce(city, town, 'none')", {"city": ["x", None, None], "town": ["y", "y", None]}, ["x", "y", "none"]),
        ("city if a else 'longer than any'", {"city": ["x", "x"], "a": [1, 0]}, ["x", "longer than any"]),
        ("'fix'", {"a": [1, 2]}, ["fix", "fix"]),
        ("2 > 1", {"a": [1, 2]}, [1, 1]),
        ("weather.temp - 32", {"weather__temp": [33, NAN]}, [1, NAN]),
        ("planes.model == 'A320'", {"planes__model": ["A320", None]}, [1, NAN]),
    ],
)
def test_an_expression_gives(text: str, columns: dict[str, list[Any]], expected: list[Any]) -> None:
    np.testing.assert_array_equal(evaluate(text, **columns), expected)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a +", "position"),
        ("import os", "is not an expression"),
        ("__import__('os')", 'no function "__import__"'),
        ("a.__class__", 'no field, lookup column or feature "a.__class__"'),
        ("(a).real.imag", "Attribute is not part of the language"),
        ("a[0]", "Subscript is not part of the language"),
        ("[a for a in b]", "ListComp is not part of the language"),
        ("lambda: a", "Lambda is not part of the language"),
        ("f'{a}'", "JoinedStr is not part of the language"),
        ("(a := 1)", "NamedExpr is not part of the language"),
        ("a @ b", "BinOp is not part of the language"),
        ("a is b", "this comparison is not part of the language"),
        ("a in b", '"in" needs a list of constants'),
        ("None", "None is not a number or a string"),
        ("b'x'", "is not a number or a string"),
        ("1j", "is not a number or a string"),
        ("aa + 1", 'did you mean "a"?'),
        ("a + citi", 'position 5: there is no field, lookup column or feature "citi"; did you mean "city"?'),
        ("weather.tmp", 'did you mean "weather.temp"?'),
        ("logg(a)", 'did you mean "log"?'),
        ("log", "call the function with arguments, as in log(…)"),
        ("log(a, b)", "log takes 1 argument, by position"),
        ("minimum(a)", "minimum takes 2 to 16 arguments, by position"),
        ("log(x=a)", "log takes 1 argument, by position"),
        ("minimum(*a)", "by position"),
        ("city + 1", "this is text where a number is needed"),
        ("city < 'x'", "this is text where a number is needed"),
        ("city == 1", "text and number are mixed"),
        ("city if a else 1", "text and number are mixed"),
        ("city and a", "this is text where a number is needed"),
        ("hour(event_time, 'America/Newyork')", '"America/Newyork" is not a time zone'),
        ("hour(event_time, city)", "the time zone must be a string"),
        ("hour(event_time)", "hour takes 2 arguments, by position"),
        ("1" * 400, "too large"),
        ("(" * 300 + "a" + ")" * 300, "not an expression"),
        ("+".join("a" * 1200), "too long"),
        ("-" * 1999 + "a", "deeply"),
        ("a\0", "not"),
        ("", "not an expression"),
    ],
)
def test_what_is_not_in_the_language_is_refused_with_a_sentence(text: str, part: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, KINDS)

    assert part in str(caught.value)


def test_every_function_of_the_language_is_evaluated() -> None:
    for name, function in FUNCTIONS.items():
        zone = {"zone": "'UTC'"}
        arguments = ", ".join(zone.get(kind, "a") for kind in function.arguments)
        assert len(evaluate(f"{name}({arguments})", a=[1.0, NAN])) == 2


def test_local_time_follows_daylight_saving() -> None:
    # New York went from 01:59:59 EST to 03:00 EDT at 07:00 UTC on 10 March 2013, and back at 06:00 UTC on 3 November.
    times = [utc_ms(2013, 3, 10, 6, 59), utc_ms(2013, 3, 10, 7), utc_ms(2013, 11, 3, 5, 59), utc_ms(2013, 11, 3, 6)]

    assert evaluate("hour(event_time, 'America/New_York')", event_time=times) == [1, 3, 1, 1]


def test_calendar_parts_worked_out_by_hand() -> None:
    # 2012-12-31 23:30 UTC was Tuesday 1 January 2013, 05:15 in Kathmandu (UTC+5:45).
    times = [utc_ms(2012, 12, 31, 23, 30), NAN]
    parts = [
        evaluate(f"{part}(event_time, 'Asia/Kathmandu')", event_time=times)
        for part in ("year", "month", "day", "weekday", "hour", "minute")
    ]

    assert [part[0] for part in parts] == [2013, 1, 1, 1, 5, 15]
    assert all(np.isnan(part[1]) for part in parts)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.integers(utc_ms(1970, 1, 2), utc_ms(2100, 12, 30)), min_size=1, max_size=20),
    st.sampled_from(["UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]),
)
def test_local_times_equal_those_of_zoneinfo(times: list[int], zone: str) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    expected = []
    for time in times:
        local = (epoch + dt.timedelta(milliseconds=time)).astimezone(ZoneInfo(zone))
        expected.append((local.replace(tzinfo=dt.UTC) - epoch) // dt.timedelta(milliseconds=1))

    assert to_local_ms(np.array(times), zone).tolist() == expected


@pytest.mark.parametrize("year", [2007, 2013, 2050, 2100])
def test_clocks_change_at_their_millisecond(year: int) -> None:
    """In New York since 2007: at 07:00 UTC of the second Sunday of March, and 06:00 of the first of November."""
    march = next(day for day in range(8, 15) if dt.date(year, 3, day).weekday() == 6)
    november = next(day for day in range(1, 8) if dt.date(year, 11, day).weekday() == 6)
    for at, before, after in ((utc_ms(year, 3, march, 7), -5, -4), (utc_ms(year, 11, november, 6), -4, -5)):
        local = to_local_ms(np.array([at - 1, at, at + 1]), "America/New_York")
        offsets = (local - np.array([at - 1, at, at + 1])) / 3_600_000
        assert offsets.tolist() == [before, after, after]


def test_before_1970_and_from_2101_on_clocks_have_the_nearest_known_offset() -> None:
    """Kiritimati is at +14 hours, and was at -10:40 in 1970; New York has winter on the first of January."""
    times = np.array([utc_ms(1900, 7, 1), utc_ms(1970, 1, 1), utc_ms(2101, 7, 1), utc_ms(2300, 7, 1)])
    for zone, minutes in (
        ("Pacific/Kiritimati", [-640, -640, 840, 840]),
        ("America/New_York", [-300] * 4),
        ("UTC", [0] * 4),
    ):
        assert ((to_local_ms(times, zone) - times) / 60_000).tolist() == minutes


@settings(max_examples=30)
@given(st.lists(st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 1, 1)), min_size=1, max_size=9))  # noqa: DTZ001  # made UTC below
def test_parts_of_a_clock_time_are_those_of_the_calendar(whens: list[dt.datetime]) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    times = [when.replace(tzinfo=dt.UTC) for when in whens]
    local = np.array([(time - epoch) // dt.timedelta(milliseconds=1) for time in times])
    for part in ("year", "month", "day", "hour", "minute"):
        assert to_part(local, part).tolist() == [getattr(time, part) for time in times]
    assert to_part(local, "weekday").tolist() == [time.weekday() for time in times]
    assert to_part(local, "year").dtype == np.float64


def test_rows_do_not_depend_on_their_neighbours() -> None:
    text = "hour(event_time, 'UTC') + coalesce(a, 0) * (1 if city == 'x' else 2)"
    times, numbers, cities = [utc_ms(2013, 1, 1, h) for h in range(4)], [1, NAN, 3, NAN], ["x", "y", None, "x"]
    whole = evaluate(text, event_time=times, a=numbers, city=cities)
    alone = [
        evaluate(text, event_time=[t], a=[n], city=np.array([c, "pad"], dtype=object)[:1].tolist() if c else ["z"])[0]
        for t, n, c in zip(times, numbers, cities, strict=True)
    ]

    np.testing.assert_array_equal(np.array(whole)[[0, 1, 3]], np.array(alone)[[0, 1, 3]])
    assert np.isnan(whole[2])


# -- the language by its definition, one row at a time: missing is None ------------------------------------------------

Cell = float | str | None
PLAIN: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
CALLED: dict[str, Callable[..., float]] = {
    "log": math.log,
    "log1p": math.log1p,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "abs": abs,
    "floor": math.floor,
    "sin": math.sin,
    "cos": math.cos,
    "minimum": min,
    "maximum": max,
    "clip": lambda value, low, high: min(max(value, low), high),
}


def strict(function: Callable[..., float], *cells: Any) -> float | None:
    if None in cells:
        return None
    try:
        found = float(function(*cells))
    except (ValueError, ArithmeticError):
        return None
    return found if math.isfinite(found) else None


def all_true(cells: list[Any]) -> float | None:
    return 0.0 if 0 in cells else None if None in cells else 1.0


def is_not(cell: Any) -> float | None:
    return None if cell is None else float(cell == 0)


def by_definition(node: Any, row: dict[str, Cell]) -> Cell:  # noqa: C901, PLR0911, PLR0912  # one case per kind of node
    def of(inner: Any) -> Any:
        return by_definition(inner, row)

    match node:
        case ast.Constant(value=value):
            return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return row[name]
        case ast.BinOp(op=ast.BitAnd()):
            return all_true([of(node.left), of(node.right)])
        case ast.BinOp(op=ast.BitOr()):
            return is_not(all_true([is_not(of(node.left)), is_not(of(node.right))]))
        case ast.BinOp():
            return strict(PLAIN[type(node.op)], of(node.left), of(node.right))
        case ast.UnaryOp(op=ast.USub()):
            return strict(operator.neg, of(node.operand))
        case ast.UnaryOp(op=ast.UAdd()):
            return of(node.operand)
        case ast.UnaryOp():
            return is_not(of(node.operand))
        case ast.BoolOp(op=ast.And()):
            return all_true([of(value) for value in node.values])
        case ast.BoolOp():
            return is_not(all_true([is_not(of(value)) for value in node.values]))
        case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[choices]):
            cell, negative = of(node.left), isinstance(node.ops[0], ast.NotIn)
            return None if cell is None else float((cell in [of(choice) for choice in choices.elts]) != negative)
        case ast.Compare():
            cells = [of(side) for side in (node.left, *node.comparators)]
            links = zip(node.ops, cells, cells[1:], strict=False)
            return all_true([strict(PLAIN[type(op)], left, right) for op, left, right in links])
        case ast.IfExp():
            test = of(node.test)
            return None if test is None else of(node.body) if test else of(node.orelse)
        case ast.Call(func=ast.Name(id="where")):
            return of(ast.IfExp(*node.args))
        case ast.Call(func=ast.Name(id="coalesce")):
            return next((cell for cell in map(of, node.args) if cell is not None), None)
        case ast.Call(func=ast.Name(id="isnull")):
            return float(of(node.args[0]) is None)
        case ast.Call(func=ast.Name(id=name)):
            return strict(CALLED[name], *map(of, node.args))
    raise AssertionError(ast.dump(node))


def formed(pattern: str, **parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries(parts).map(lambda found: pattern.format(**found))


TEXTS = st.recursive(
    st.sampled_from(["city", "town", "'Rome'", "''"]),
    lambda t: (
        formed("({x} if {n} else {y})", x=t, y=t, n=st.sampled_from(["a", "b < 1", "1"]))
        | formed("coalesce({x}, {y})", x=t, y=t)
        | formed("where(a == b, {x}, {y})", x=t, y=t)
    ),
    max_leaves=3,
)
NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "0", "1", "2", "0.5", "1e308"])
    | formed("({x} {op} {y})", x=TEXTS, y=TEXTS, op=st.sampled_from(["==", "!="]))
    | formed("({x} {op} ('Rome', 'Oslo'))", x=TEXTS, op=st.sampled_from(["in", "not in"]))
    | formed("isnull({x})", x=TEXTS),
    lambda n: st.one_of(
        formed("({x} {op} {y})", x=n, y=n, op=st.sampled_from([*"+-*/%&|", "//", "and", "or"])),
        formed("({x} {op} {y})", x=n, y=n, op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="])),
        formed("({x} {o} {y} {p} {z})", x=n, y=n, z=n, o=st.sampled_from(["<", ">="]), p=st.sampled_from(["<=", "!="])),
        formed("({x} {op} {y} {op} {z})", x=n, y=n, z=n, op=st.sampled_from(["and", "or"])),
        formed("({x} {op} (0, 2, 1))", x=n, op=st.sampled_from(["in", "not in"])),
        formed("({op} {x})", x=n, op=st.sampled_from([*"-+~", "not"])),
        formed("({x} if {y} else {z})", x=n, y=n, z=n),
        formed("{f}({x}, {y}, {z})", x=n, y=n, z=n, f=st.sampled_from(["minimum", "maximum", "coalesce", "where"])),
        formed("clip({x}, {y}, {z})", x=n, y=n, z=n),
        formed("{f}({x})", x=n, f=st.sampled_from(["abs", "floor", "sqrt", "isnull"])),
    ),
    max_leaves=6,
)
#: Processors differ in the last bit of these: nothing is compared or rounded after them.
ROUNDED = formed("{f}({x})", x=NUMBERS, f=st.sampled_from(["log", "log1p", "exp", "sin", "cos"])) | formed(
    "{x} ** {y}", x=NUMBERS, y=NUMBERS
)
PLACES = [(None, "Rome"), ("Oslo", "Oslo"), ("Rome", "Oslo"), ("", None)]
ROWS: list[dict[str, Cell]] = [
    {"a": a, "b": b, "city": PLACES[(i + j) % 4][0], "town": PLACES[(i + j) % 4][1]}
    for i, a in enumerate((None, -2.0, -0.5, 0.0, 1.0, 3.0))
    for j, b in enumerate((None, -1.0, 0.0, 1.0, 2.5))
]
COLUMNS = {
    name: [NAN if row[name] is None and name in "ab" else row[name] for row in ROWS]
    for name in ("a", "b", "city", "town")
}


@settings(max_examples=150)
@given(NUMBERS | NUMBERS | NUMBERS | ROUNDED | TEXTS)
@pytest.mark.slow
def test_columns_hold_what_the_definition_gives_row_by_row(text: str) -> None:
    expected = [by_definition(parse(text, KINDS).tree, row) for row in ROWS]
    found = [None if cell != cell else cell for cell in evaluate(text, **COLUMNS)]  # noqa: PLR0124  # NaN alone
    for row, cell, due in zip(ROWS, found, expected, strict=True):
        assert cell == due or cell == pytest.approx(due, rel=1e-9), (text, row)


@pytest.mark.parametrize(
    ("text", "a"),
    [
        ("a ** 0", NAN),
        ("1 ** a", NAN),
        ("1 / (a * 1e308)", 1e9),
        ("1 / (a + a)", 1e308),
        ("1 / (-a - a)", 1e308),
        ("1 / (a / 1e-300)", 1e300),
        ("1 / (a // 1e-300)", 1e300),
        ("1 / (a // 0)", 1.0),
        ("a * 1e308 > 0", 1e9),
    ],
)
def test_what_is_missing_half_way_is_missing_at_the_end(text: str, a: float) -> None:
    np.testing.assert_array_equal(evaluate(text, a=[a, NAN]), [NAN, NAN])


def test_times_of_several_columns_and_of_sums_are_each_their_own() -> None:
    hour_ms = 3_600_000.0
    times = {"a": [0.0, 5 * hour_ms], "b": [2 * hour_ms, 3 * hour_ms]}
    assert evaluate("hour(a, 'UTC') * 100 + hour(b, 'UTC')", **times) == [2.0, 503.0]
    assert evaluate("hour(a + 3600000, 'UTC') * 100 + hour(a, 'Asia/Tokyo')", **times) == [109.0, 614.0]
    assert evaluate("hour(event_time, 'UTC') * 100 + hour(a, 'UTC')", event_time=times["b"], a=times["a"]) == [
        200.0,
        305.0,
    ]


def test_a_time_beyond_all_calendars_is_missing() -> None:
    assert np.isnan(evaluate("year(a, 'UTC')", a=[1e15, -1e15, NAN, 1e300])).all()
    assert evaluate("year(a, 'UTC')", a=[9.99e14, -9.99e14]) == [33627.0, -29688.0]
    assert evaluate("year(a, 'UTC') + 0 * b", a=[0.0, 86_400_000.0 * 366], b=[1.0, 1.0]) == [1970, 1971]


def test_parts_of_one_time_share_its_local_time_and_no_other() -> None:
    # 23:30 UTC on Monday 31 December 2012 and 06:15 on Tuesday 1 January 2013, in Kathmandu 05:15 and 12:00 on Tuesday.
    event_time, a = [utc_ms(2012, 12, 31, 23, 30)], [utc_ms(2013, 1, 1, 6, 15)]
    for text, expected in (
        ("hour(event_time, 'UTC') * 100 + minute(event_time, 'UTC')", 2330),
        ("hour(event_time, 'UTC') * 100 + hour(event_time, 'Asia/Kathmandu')", 2305),
        ("hour(event_time, 'UTC') * 100 + hour(a, 'UTC')", 2306),
        ("hour(a, 'UTC') * 100 + hour(event_time, 'UTC')", 623),
        ("hour(a, 'Asia/Kathmandu') * 100 + minute(event_time, 'Asia/Kathmandu')", 1215),
    ):
        assert evaluate(text, event_time=event_time, a=a) == [expected], text
