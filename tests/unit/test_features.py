from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adapters.sources.python_features import load_functions
from app.core.batches import EventBatch, Floats, LabelRows
from app.core.features.lookups import LookupTable
from app.core.features.plan import FeaturePlan
from app.core.features.windows import FeatureState
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline, PipelineError

NAN = float("nan")
MINUTE_MS = 60_000
HOUR_MS = 3_600_000

FILE = """
name = "payments"
[events]
entity = "customer"
id = "payment_id"
time = "time_ms"
earliest = 1970-01-01T00:00:00Z
[events.fields]
payment_id = "string"
customer = "string"
shop = "string?"
time_ms = "int"
amount = "float?"
[labels]
horizon = "2d"
[lookups.rates]
path = "rates.csv"
keys = { shop = "shop" }
columns = ["rate", "zone"]
time = "time"
known_after = "1h"
"""

PYTHON = """
import numpy as np

CALLS = []

def half(x):
    CALLS.append(len(x))
    if (x == 13).any():
        raise ArithmeticError("thirteen is not halved")
    return x / 2

def times(t):
    assert t.dtype == np.int64
    return t / 1000

def shout(shop):
    return np.array([None if s is None else s.upper() for s in shop], dtype=object)

def shout_unless_b(shop):
    if "b" in shop.tolist():
        raise ArithmeticError("b is not shouted")
    return shout(shop)

def short(x):
    return x[:-1]

def words(x):
    return np.array(["a"] * len(x))

def write(x):
    x[:] = 0
    return x

def infinite(x):
    return np.full(len(x), np.inf)

def joined(n, mean, zone, shop, t):
    assert (n.dtype, mean.dtype, t.dtype) == (np.float64, np.float64, np.int64)
    assert not any(column.flags.writeable for column in (n, mean, zone, shop, t))
    return np.array([f"{z}{s}{int(k)}" if m == m else None for k, m, z, s in zip(n, mean, zone, shop)], dtype=object)
"""


def feature(name: str, type_: str, how: str) -> str:
    return f'[[features]]\nname = "{name}"\ntype = "{type_}"\n{how}\n'


def window(name: str, of: str, key: list[str], size: str, aggregate: str, field: str = "") -> str:  # noqa: PLR0917  # as in the file
    summed = f', field = "{field}"' if field else ""
    how = f'{{ of = "{of}", key = {key}, size = "{size}", hop = "5m", aggregate = "{aggregate}"{summed} }}'
    return feature(name, "float", f"window = {how}")


RATES = {
    "shop": np.array(["a", "a", "b"], dtype=object),
    "time": np.array([0, HOUR_MS, 0]),
    "rate": np.array([1.0, 2.0, 5.0]),
    "zone": np.array(["x", "y", None], dtype=object),
}


LOOKUP_JOIN = LookupTable.join


class Built:
    """A pipeline of the given features, compiled over `RATES`."""

    def __init__(self, folder: Path, *features: str) -> None:
        (folder / "own.py").write_text(PYTHON)
        path = folder / "payments.toml"
        path.write_text(FILE + "".join(features))
        self.pipeline: Pipeline = load(path)
        self.functions: dict[str, Callable[..., Any]] = load_functions(self.pipeline)
        lookups = {lookup.name: LookupTable.build(lookup, RATES) for lookup in self.pipeline.lookups}
        self.plan = FeaturePlan.compile(self.pipeline, lookups, self.functions)


def events(
    times_ms: list[int], amounts: list[float], customers: str = "", shops: list[str | None] | None = None
) -> EventBatch:
    n = len(times_ms)
    names = list(customers or "c" * n)
    ids = [f"p{i}" for i in range(n)]
    columns: dict[str, Any] = {
        "payment_id": np.array(ids, dtype=object),
        "customer": np.array(names, dtype=object),
        "shop": np.array(["a"] * n if shops is None else shops, dtype=object),
        "time_ms": np.array(times_ms, dtype=np.float64),
        "amount": np.array(amounts, dtype=np.float64),
    }
    return EventBatch(np.arange(n), np.array(times_ms, dtype=np.int64), names, ids, columns)


def outcomes(*found: tuple[int, int, str, str | None, float]) -> LabelRows:
    """Each: before which event, label time, customer, shop, label."""
    return LabelRows(
        np.array([o[0] for o in found], dtype=np.int64),
        np.array([o[1] for o in found], dtype=np.int64),
        {
            "customer": np.array([o[2] for o in found], dtype=object),
            "shop": np.array([o[3] for o in found], dtype=object),
            "label": np.array([o[4] for o in found], dtype=np.float64),
        },
    )


def served(plan: FeaturePlan, batch: EventBatch, labels: LabelRows, state: FeatureState) -> Floats:
    matrix, rejections = plan.compute(batch)
    assert rejections == []
    plan.apply(matrix, batch, labels, state)
    assert plan.derive(matrix, batch.event_time_ms, batch.columns) == []
    return matrix


def test_stateless_features_of_every_kind(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        feature("rate", "float", 'expression = "rates.rate"'),
        feature("zone", "category", 'expression = "rates.zone"\nvalues = ["w", "x"]'),
        feature("large", "bool", 'expression = "amount > 10"'),
        feature("in_euro", "float", 'expression = "amount * rate"'),
        feature("half", "float", 'python = "own.py:half"\narguments = ["in_euro"]'),
        feature("seconds", "int", 'python = "own.py:times"\narguments = ["event_time"]'),
        feature("loud", "category", 'python = "own.py:shout"\narguments = ["shop"]\nvalues = ["A", "B"]'),
        feature("is_a", "bool", "expression = \"loud == 'A'\""),
    )
    batch = events([HOUR_MS, 2 * HOUR_MS, HOUR_MS, 0], [8, 20, NAN, 2], shops=["a", "a", "b", None])

    matrix, rejections = built.plan.compute(batch)

    expected = [
        [1, 1, 0, 8, 4, 3600, 0, 1],
        [2, 2, 1, 40, 20, 7200, 0, 1],  # zone y is none of the values
        [5, NAN, NAN, NAN, NAN, 3600, 1, 0],
        [NAN, NAN, 0, NAN, NAN, 0, NAN, NAN],
    ]
    np.testing.assert_array_equal(matrix, expected)
    assert rejections == []
    assert built.plan.names == built.pipeline.feature_names
    assert built.plan.category_sizes == {"zone": 3, "loud": 3}
    assert built.plan.kinds[:3] == ("float", "category", "bool")


def test_the_event_that_makes_a_function_fail_is_rejected_alone(tmp_path: Path) -> None:
    built = Built(tmp_path, feature("half", "float", 'python = "own.py:half"\narguments = ["amount"]'))

    matrix, rejections = built.plan.compute(events([1, 2, 3], [4, 13, 6]))

    np.testing.assert_array_equal(matrix[:, 0], [2, NAN, 3])
    assert [(r.position, r.stage, r.reason, r.detail) for r in rejections] == [
        (1, "features", "python_feature", "half: ArithmeticError: thirteen is not halved")
    ]
    calls = built.functions["own.py:half"].__globals__["CALLS"]
    assert calls == [3, 1, 1, 1], "once for all, and row by row only then"


def test_the_texts_of_other_events_are_kept_when_a_function_fails_for_one(tmp_path: Path) -> None:
    of_shop = 'python = "own.py:shout_unless_b"\narguments = ["shop"]\nvalues = ["A", "C"]'
    built = Built(tmp_path, feature("loud", "category", of_shop))

    matrix, rejections = built.plan.compute(events([1, 2, 3, 4], [1, 1, 1, 1], shops=["a", "b", "c", None]))

    np.testing.assert_array_equal(matrix[:, 0], [0, NAN, 1, NAN])
    assert [(r.position, r.detail) for r in rejections] == [(1, "loud: ArithmeticError: b is not shouted")]


@pytest.mark.parametrize(
    ("function", "detail"),
    [
        ("short", "returned shape (0,) for 1 events; return one value for each"),
        ("words", "returned <U1 for a float; return float64, NaN for what is missing"),
        ("write", "assignment destination is read-only"),
    ],
)
def test_a_function_that_breaks_its_contract_says_how(tmp_path: Path, function: str, detail: str) -> None:
    built = Built(tmp_path, feature("own", "float", f'python = "own.py:{function}"\narguments = ["amount"]'))
    batch = events([1, 2], [4, 5])

    matrix, rejections = built.plan.compute(batch)

    assert np.isnan(matrix).all()
    assert [r.position for r in rejections] == [0, 1]
    assert all(detail in r.detail for r in rejections)
    assert batch.columns["amount"].tolist() == [4, 5]


@pytest.mark.parametrize(
    ("made", "type_", "expected"),
    [
        ("x.astype(np.int8)", "int", [1.0, 2.0]),
        ("x.astype(np.uint16)", "int", [1.0, 2.0]),
        ("x.astype(np.float32) / 2", "float", [0.5, 1.0]),
        ("x > 1", "bool", [0.0, 1.0]),
        ("[3, 4]", "float", [3.0, 4.0]),
        ("np.array([np.inf, 7.0])", "float", [NAN, 7.0]),
        ("np.array([7.0, -np.inf])", "float", [7.0, NAN]),
        ("np.array(['a', 'c'])", "category", [0.0, 2.0]),
        ("[None, 'b']", "category", [NAN, 1.0]),
        ("x.astype(object)", "float", "returned object for a float"),
        ("x.astype(complex)", "float", "returned complex128 for a float"),
        ("x.astype('datetime64[s]')", "int", "returned datetime64[s] for a int"),
        ("x[:, None]", "float", "returned shape (1, 1) for 1 events"),
        ("1.0", "float", "returned shape () for 1 events"),
        ("x", "category", "returned something that is neither str nor None for a category"),
    ],
)
def test_what_a_function_may_return_is_numbers_or_texts_one_for_each_event(
    tmp_path: Path, made: str, type_: str, expected: list[float] | str
) -> None:
    values = '\nvalues = ["a", "b"]' if type_ == "category" else ""
    (tmp_path / "made.py").write_text(f"import numpy as np\n\ndef f(x):\n    return {made}\n")
    built = Built(tmp_path, feature("own", type_, f'python = "made.py:f"\narguments = ["amount"]{values}'))

    matrix, rejections = built.plan.compute(events([1, 2], [1, 2]))

    if isinstance(expected, str):
        assert np.isnan(matrix).all()
        assert all(expected in rejection.detail for rejection in rejections)
        assert len(rejections) == 2
    else:
        np.testing.assert_array_equal(matrix[:, 0], expected)
        assert (rejections, matrix.dtype) == ([], np.float64)


def test_an_event_that_makes_several_functions_fail_is_rejected_once_for_the_first(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        feature("loud", "category", 'python = "own.py:shout_unless_b"\narguments = ["shop"]\nvalues = ["A"]'),
        feature("half", "float", 'python = "own.py:half"\narguments = ["amount"]'),
    )
    batch = events([1, 2, 3], [13, 13, 13], shops=["a", "b", "a"])

    _, rejections = built.plan.compute(batch)

    assert [(each.position, each.detail) for each in rejections] == [
        (0, "half: ArithmeticError: thirteen is not halved"),
        (1, "loud: ArithmeticError: b is not shouted"),
        (2, "half: ArithmeticError: thirteen is not halved"),
    ]


def test_a_field_goes_before_a_feature_of_its_name_in_what_others_read(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        feature("amount", "float", 'expression = "coalesce(amount, 0) * 10"'),
        feature("shop", "category", 'expression = "shop"\nvalues = ["b"]'),
        feature("more", "float", "expression = \"amount + 1 if shop == 'a' else 0\""),
        window("n", "events", ["customer", "shop"], "10m", "count"),
        feature("per", "float", 'expression = "amount / n"'),
        feature("loud", "category", 'python = "own.py:shout"\narguments = ["shop"]\nvalues = ["A", "B"]'),
    )
    batch = events([1, 2, 3, 4], [3, NAN, 5, 6], shops=["a", "a", "b", "a"])

    matrix = served(built.plan, batch, outcomes(), built.plan.new_state())

    expected = [[30, 1, 4, 0, NAN, 0], [0, 1, NAN, 1, NAN, 0], [50, 0, 0, 0, NAN, 1], [60, 1, 7, 2, 3, 0]]
    np.testing.assert_array_equal(matrix, expected)
    assert batch.columns["amount"].tolist()[2:] == [5, 6]


def test_a_batch_of_none_has_the_columns_of_any_other(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        feature("zone", "category", 'expression = "rates.zone"\nvalues = ["x"]'),
        feature("large", "bool", 'expression = "amount > 10"'),
        window("n", "events", ["customer", "zone"], "10m", "count"),
        window("large_n", "events", ["customer"], "10m", "sum", "large"),
    )
    some, none = events([1, 2], [1, 20]), built.plan.no_events()
    matrix, rejections = built.plan.compute(some)
    assert (rejections, matrix[:, :2].tolist()) == (
        [],
        [[pytest.approx(NAN, nan_ok=True), 0.0], [pytest.approx(NAN, nan_ok=True), 1.0]],
    )
    assert {name: column.dtype for name, column in none.columns.items()} == {
        name: column.dtype for name, column in some.columns.items()
    }
    assert {len(column) for column in none.columns.values()} == {0}
    assert len(none) == len(none.event_id) == len(none.offsets) == len(none.event_time_ms) == 0
    assert served(built.plan, none, outcomes(), built.plan.new_state()).shape == (0, 4)


def test_two_keys_are_one_if_they_are_equal_as_numbers(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        feature("signed", "int", 'expression = "amount * 0"'),
        window("n", "events", ["customer", "signed"], "10m", "count"),
        window("total", "events", ["customer"], "10m", "sum", "signed"),
    )
    batch = events([1, 2, 3], [1, -1, 1])

    matrix = served(built.plan, batch, outcomes(), built.plan.new_state())

    assert np.signbit(matrix[:, 0]).tolist() == [False, True, False]
    assert matrix[:, 1:].tolist() == [[0, 0], [1, 0], [2, 0]]


def test_no_function_over_windows_is_asked_about_no_event(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        window("last", "events", ["customer"], "10m", "last", "amount"),
        feature("half", "float", 'python = "own.py:half"\narguments = ["last"]'),
    )
    none = built.plan.no_events()
    assert built.plan.derive(np.zeros((0, 2)), none.event_time_ms, none.columns) == []
    assert built.functions["own.py:half"].__globals__["CALLS"] == []


def test_a_lookup_that_no_feature_reads_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[str] = []

    def join(table: LookupTable, keys: Any, times_ms: Any) -> Any:
        joined.append(table.spec.name)
        return LOOKUP_JOIN(table, keys, times_ms)

    monkeypatch.setattr(LookupTable, "join", join)
    Built(tmp_path, feature("plain", "float", 'expression = "amount"')).plan.compute(events([1], [1]))
    assert joined == []
    Built(tmp_path, feature("rate", "float", 'expression = "rates.rate"')).plan.compute(events([1], [1]))
    assert joined == ["rates"]


def test_a_value_without_end_is_missing(tmp_path: Path) -> None:
    built = Built(tmp_path, feature("own", "float", 'python = "own.py:infinite"\narguments = ["amount"]'))

    assert np.isnan(built.plan.compute(events([1], [1]))[0]).all()


def test_a_feature_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"features\.zone\.expression: gives a text, but the type is float"):
        Built(tmp_path, feature("zone", "float", 'expression = "rates.zone"'))
    with pytest.raises(PipelineError, match="this is text where a number is needed"):
        Built(tmp_path, feature("zone", "float", 'expression = "rates.zone + 1"'))


def test_a_row_of_the_same_hour_is_not_seen(tmp_path: Path) -> None:
    built = Built(tmp_path, feature("rate", "float", 'expression = "rates.rate"'))
    # The row of 01:00 is known from 02:00 on; until then the row of 00:00 holds.
    matrix, _ = built.plan.compute(events([HOUR_MS - 1, HOUR_MS, 2 * HOUR_MS - 1, 2 * HOUR_MS], [1, 1, 1, 1]))

    np.testing.assert_array_equal(matrix[:, 0], [NAN, 1, 1, 2])


def test_an_event_does_not_count_itself_but_those_before_it(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        window("n", "events", ["customer"], "10m", "count"),
        window("spent", "events", ["customer"], "10m", "sum", "amount"),
        window("usual", "events", ["customer"], "10m", "mean", "amount"),
    )
    # Tiles of 5 minutes, two of them: at minute 9 those of 0-4 and 5-9, at minute 10 those of 5-9 and 10-14.
    minutes = [0, 0, 4, 9, 10, 11, 30]
    batch = events([minute * MINUTE_MS for minute in minutes], [1, 2, NAN, 4, 8, 16, 1], customers="cdccccc")

    matrix = served(built.plan, batch, outcomes(), built.plan.new_state())

    np.testing.assert_array_equal(matrix[:, 0], [0, 0, 1, 2, 1, 2, 0])
    np.testing.assert_array_equal(matrix[:, 1], [0, 0, 1, 1, 4, 12, 0])
    np.testing.assert_array_equal(matrix[:, 2], [NAN, NAN, 1, 1, 4, 6, NAN])


def test_what_is_made_of_windows_has_every_type_and_reads_all_there_is(tmp_path: Path) -> None:
    """Fields, lookups, stateless features, windows and each other, in no order of the file."""
    built = Built(
        tmp_path,
        feature("at_night", "bool", "expression = \"hour(event_time, 'UTC') < 6 and steep\""),
        feature("steep", "bool", 'expression = "ratio > 1.5"'),
        feature("who", "category", 'python = "own.py:joined"\narguments = ["n", "usual", "zone", "shop", "event_time"]')
        + 'values = ["xa1", "xa2"]\n',
        feature("ratio", "float", 'expression = "in_euro / usual"'),
        feature("steps", "int", 'expression = "floor(ratio) + rates.rate"'),
        window("n", "events", ["customer"], "10m", "count"),
        window("usual", "events", ["customer"], "10m", "mean", "amount"),
        feature("in_euro", "float", 'expression = "amount * rates.rate"'),
        feature("zone", "category", 'expression = "rates.zone"\nvalues = ["x"]'),
    )
    batch = events([HOUR_MS, HOUR_MS + 1, HOUR_MS + 2, 5 * HOUR_MS, 5 * HOUR_MS + 1], [4, 8, NAN, 3, 6])

    matrix = served(built.plan, batch, outcomes(), built.plan.new_state())

    expected = [
        # at_night, steep, who, ratio, steps, n, usual, in_euro, zone; from 2:00 on the rate is 2 and the zone y
        [NAN, NAN, NAN, NAN, NAN, 0, NAN, 4, 0],
        [1, 1, 0, 2, 3, 1, 4, 8, 0],
        [NAN, NAN, 1, NAN, NAN, 2, 6, NAN, 0],
        [NAN, NAN, NAN, NAN, NAN, 0, NAN, 6, 1],
        [1, 1, 2, 4, 6, 1, 3, 12, 1],
    ]
    np.testing.assert_array_equal(matrix, expected)
    assert [built.plan.names[column] for column in built.plan.derived] == ["ratio", "steep", "at_night", "steps", "who"]
    assert built.plan.derived_reads == ("rates.rate", "shop", "zone:text")


def test_a_division_by_a_window_that_is_zero_or_missing_is_missing(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        window("spent", "events", ["customer"], "10m", "sum", "amount"),
        window("usual", "events", ["customer"], "10m", "mean", "amount"),
        feature("by_sum", "float", 'expression = "amount / spent"'),
        feature("by_mean", "float", 'expression = "amount / usual"'),
        feature("whole", "int", 'expression = "amount // spent"'),
        feature("rest", "float", 'expression = "amount % spent"'),
        feature("known", "float", 'expression = "coalesce(amount / usual, 1)"'),
    )
    # Nothing before it, a null before it, amounts that add up to nothing, and the amount itself a null.
    batch = events([0, 1, 2, 3, 4], [5, NAN, -5, 7, 3], customers="cbbcb")
    later = events([5, 6, 7], [5, 2, NAN], customers="bbc")
    state = built.plan.new_state()

    np.testing.assert_array_equal(
        served(built.plan, batch, outcomes(), state),
        [
            [0, NAN, NAN, NAN, NAN, NAN, 1],
            [0, NAN, NAN, NAN, NAN, NAN, 1],
            [0, NAN, NAN, NAN, NAN, NAN, 1],
            [5, 5, 7 / 5, 7 / 5, 1, 2, 7 / 5],
            [-5, -5, -3 / 5, -3 / 5, -1, -2, -3 / 5],
        ],
    )
    np.testing.assert_array_equal(
        served(built.plan, later, outcomes(), state),
        [
            [-2, -1, -5 / 2, -5, -3, -1, -5],
            [3, 1, 2 / 3, 2, 0, 2, 2],
            [12, 6, NAN, NAN, NAN, NAN, 1],
        ],
    )


def test_the_event_that_makes_a_function_over_windows_fail_is_rejected_alone(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        window("last", "events", ["customer"], "10m", "last", "amount"),
        feature("twice", "float", 'expression = "half * 4"'),
        feature("half", "float", 'python = "own.py:half"\narguments = ["last"]'),
    )
    batch = events([1, 2, 3], [13, 6, 5])
    matrix, rejections = built.plan.compute(batch)
    assert rejections == []
    built.plan.apply(matrix, batch, outcomes(), built.plan.new_state())

    rejections = built.plan.derive(matrix, batch.event_time_ms, batch.columns)

    assert [(r.position, r.stage, r.reason, r.detail) for r in rejections] == [
        (1, "features", "derived_feature", "half: ArithmeticError: thirteen is not halved")
    ]
    np.testing.assert_array_equal(matrix, [[NAN, NAN, NAN], [13, NAN, NAN], [6, 12, 3]])
    assert built.plan.can_reject_late


def test_a_label_is_seen_by_the_events_after_it_in_the_merge_alone(tmp_path: Path) -> None:
    built = Built(
        tmp_path,
        window("late", "labels", ["customer"], "1h", "mean", "label"),
        window("late_shop", "labels", ["customer", "shop"], "1h", "mean", "label"),
        window("known", "labels", ["customer"], "1h", "count"),
    )
    noon = 12 * HOUR_MS
    batch = events([noon, noon + 1, noon + 2, noon + 55 * MINUTE_MS, noon + HOUR_MS], [1] * 5)
    # The merge puts a label of noon + 1 ms after the event of noon, and before that of noon + 1 ms.
    labels = outcomes((1, noon + 1, "c", "a", 1.0), (2, noon + 2, "c", "b", 0.0), (2, noon + 2, "d", "a", 1.0))

    matrix = served(built.plan, batch, labels, built.plan.new_state())

    # An hour is twelve tiles of five minutes: from 13:00 on the tile of 12:00 is no more in it.
    np.testing.assert_array_equal(matrix[:, 0], [NAN, 1, 0.5, 0.5, NAN])
    np.testing.assert_array_equal(matrix[:, 1], [NAN, 1, 1, 1, NAN])
    np.testing.assert_array_equal(matrix[:, 2], [0, 1, 2, 2, 0])
    assert built.plan.label_fields == ("customer", "shop")


def test_a_null_in_a_key_is_missing_and_counts_nowhere(tmp_path: Path) -> None:
    built = Built(tmp_path, window("n", "events", ["customer", "shop"], "1h", "count"))
    batch = events([0, 1, 2, 3], [1] * 4, shops=[None, None, "a", "a"])

    matrix = served(built.plan, batch, outcomes(), built.plan.new_state())

    np.testing.assert_array_equal(matrix[:, 0], [NAN, NAN, 0, 1])


def test_labels_after_the_last_event_are_applied(tmp_path: Path) -> None:
    built = Built(tmp_path, window("known", "labels", ["customer"], "1h", "count"))
    state = built.plan.new_state()
    nothing = events([], [])

    assert served(built.plan, nothing, outcomes((0, 5, "c", "a", 1.0)), state).shape == (0, 1)
    assert served(built.plan, events([6], [1]), outcomes((1, 7, "c", "a", 1.0)), state).tolist() == [[1.0]]
    assert served(built.plan, events([8], [1]), outcomes(), state).tolist() == [[2.0]]


WINDOWS = (
    window("n", "events", ["customer"], "10m", "count"),
    window("spent", "events", ["customer", "shop"], "20m", "sum", "amount"),
    window("late", "labels", ["customer"], "10m", "mean", "label"),
    window("late_long", "labels", ["customer"], "30m", "mean", "label"),
    window("late_shop", "labels", ["customer", "shop"], "10m", "mean", "label"),
)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> FeaturePlan:
    return Built(tmp_path_factory.mktemp("windows"), *WINDOWS).plan


Happening = tuple[bool, int, str, str | None, float]  # is an event, minute, customer, shop, amount or label
happenings = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, 90), st.sampled_from("cd"), st.sampled_from(["a", "b", None]),
        st.sampled_from([0.0, 1.0, 2.5, NAN]),
    ),
    max_size=40,
)  # fmt: skip  # five strategies, five fields


def run(plan: FeaturePlan, state: FeatureState, found: list[Happening]) -> list[list[float]]:
    batch = [happening for happening in found if happening[0]]
    labels = []
    seen = 0
    for is_event, minute, customer, shop, value in found:
        if is_event:
            seen += 1
        else:
            labels.append((seen, minute * MINUTE_MS, customer, shop, value))
    made = events(
        [h[1] * MINUTE_MS for h in batch], [h[4] for h in batch], "".join(h[2] for h in batch), [h[3] for h in batch]
    )
    return served(plan, made, outcomes(*labels), state).tolist()


@pytest.mark.slow
@settings(max_examples=60)
@given(happenings, st.lists(st.integers(0, 40), max_size=5), st.integers(0, 5))
def test_many_equal_one_by_one_across_batches_and_restarts(
    windows: FeaturePlan, found: list[Happening], places: list[int], restart: int
) -> None:
    alone = windows.new_state(with_changelog=False)
    expected = [row for happening in found for row in run(windows, alone, [happening])]
    edges = [0, *sorted(place % (len(found) + 1) for place in places), len(found)]
    state = windows.new_state()
    log: list[tuple[bytes, bytes | None]] = []
    rows = []
    for at, (start, stop) in enumerate(pairwise(edges)):
        if at == restart:
            state = windows.new_state()
            state.restore(log)
        rows += run(windows, state, found[start:stop])
        log += state.drain_changes()

    np.testing.assert_array_equal(np.array(rows), np.array(expected))


def test_quiet_keys_are_forgotten_and_their_changelog_cleared(windows: FeaturePlan) -> None:
    state = windows.new_state()
    log: dict[bytes, bytes | None] = {}
    most = 0
    for day in range(30):
        customers = "".join(chr(1000 + 10 * day + n) for n in range(10))
        batch = events([day * 24 * HOUR_MS] * 10, [1] * 10, customers)
        served(windows, batch, outcomes(), state)
        log.update(state.drain_changes())
        most = max(most, state.keys)

    assert most <= 4 * 2 * 10  # (window + max_ahead + a day) is three days and a bit, over two kinds of keys
    stores = 4
    assert sum(value is not None for value in log.values()) <= most + stores


def test_a_changelog_of_other_windows_is_passed_over(tmp_path: Path, windows: FeaturePlan) -> None:
    state = windows.new_state()
    served(windows, events([0, 1], [1, 1]), outcomes(), state)
    other = Built(tmp_path, window("n", "events", ["customer"], "20m", "count")).plan
    restored = other.new_state()
    restored.restore(state.drain_changes())

    assert served(other, events([2], [1]), outcomes(), restored).tolist() == [[0.0]]
