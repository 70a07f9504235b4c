"""A fault is that of a field, as whoever sends the events knows it, for all the features that are made of it."""

from __future__ import annotations

import ast
import math
from dataclasses import replace

import numpy as np
import pytest
from faulty_fields import (
    ORDINARY,
    SHOPS,
    Change,
    Fields,
    constant,
    judge,
    missing,
    pipeline_of,
    swap,
    times,
    unlisted,
)
from hypothesis import given
from hypothesis import strategies as st
from watched_shop import pipeline

from app.core.faults.fault import Fault, FaultKind
from app.core.faults.find import FaultFinder
from app.core.faults.law import Law, distance, remade
from app.core.faults.naming import name_fields
from app.core.faults.units import find_unit
from app.core.features.origins import Origin, Origins
from app.core.features.paths import Path, path_in
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import MetricCells
from models.reference.training_events import TrainingEvents, category
from schemas.pipeline.file import load
from schemas.pipeline.spec import Feature, WindowSpec

DIRECT = ("amount", "weight", "temp", "shop")
FUNCTIONS = ("log_amount", "log_weight", "level", "is_food", "is_large")
WINDOWS = ("amount_mean", "weight_mean", "amount_sum", "shop", "temp")
MIXED = ("amount_to_mean", "log_amount", "amount_mean", "is_large", "weight", "temp", "shop", "root_amount")


# -- through the monitor, on drawn payments ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS, WINDOWS, MIXED])
@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (times("amount", 100), "amount", "about 100 times"),
        (times("amount", 1000), "amount", "about 1000 times"),
        (times("amount", 1 / 100), "amount", "about 1/100 of"),
        (times("weight", 1 / 0.45359237), "weight", "about 2.205 times"),
    ],
)
def test_another_unit_is_that_of_the_field_whatever_it_was_made_into(
    names: tuple[str, ...], change: Change, field: str, words: str
) -> None:
    for seed in range(2):
        verdict = judge(names, seed, change)
        assert verdict.kind == "pipeline_fault"
        assert verdict.headline.startswith(f"`{field}` looks as if in another unit: its values are {words}")
        assert "there is more to look at" not in verdict.headline


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS, WINDOWS, MIXED])
@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (swap("amount", "weight"), ("amount", "weight")),
        (constant("amount", 20.0), ("amount",)),
        (constant("amount", 0.0), ("amount",)),
        (missing("weight", 1.0), ("weight",)),
        (unlisted("shop", 1.0), ("shop",)),
    ],
)
def test_columns_that_have_changed_places_or_hold_one_value_or_none_are_named(
    names: tuple[str, ...], change: Change, fields: tuple[str, ...]
) -> None:
    verdict = judge(names, 3, change)
    assert verdict.kind == "pipeline_fault"
    assert all(f"`{field}`" in verdict.headline.split(";")[0] for field in fields)
    assert "there is more to look at" not in verdict.headline
    assert verdict.advice == "look_upstream"


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("names", [DIRECT, ("log_amount", "level", "shop")])
def test_a_nought_that_stands_for_a_missing_value_is_no_unit(names: tuple[str, ...], share: float) -> None:
    """No amount of training is nought, though some are near it."""

    def some_nought(fields: Fields, rng: np.random.Generator) -> Fields:
        amounts = fields["amount"]
        return {**fields, "amount": np.where(rng.random(amounts.shape) < share, 0.0, amounts)}

    verdict = judge(names, 2, some_nought)
    assert verdict.kind == "pipeline_fault"
    assert " % of payments, 0 % in training; the others are as they were" in verdict.headline
    assert "it may stand for a missing value" in verdict.headline
    assert "unit" not in verdict.headline


@pytest.mark.slow
def test_the_features_behind_a_field_are_listed_and_explained_each() -> None:
    verdict = judge(MIXED, 1, times("amount", 100))
    behind = ["log_amount", "amount_mean", "is_large", "root_amount"]
    assert {each.metric for each in verdict.explained_by} == set(behind)
    assert verdict.headline.endswith("; `log_amount`, `amount_mean`, `is_large` and `root_amount` moved with it.")
    assert judge(DIRECT, 1, times("amount", 100)).headline.endswith("(a whole unit to cents).")


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS, WINDOWS, MIXED])
@pytest.mark.parametrize("usual", ORDINARY)
def test_what_is_usual_is_no_fault(names: tuple[str, ...], usual: str) -> None:
    assert judge(names, 5, ORDINARY[usual]).kind in {"none", "feature_drift"}


def test_shops_that_are_no_longer_unlisted_are_good_news_and_a_rare_one_may_be_absent_by_chance() -> None:
    rng = np.random.default_rng(1)
    codes = rng.choice(5, 10_000, p=[0.5, 0.2, 0.1, 0.1, 0.1]).astype(np.float64)  # the last are unlisted
    scores = np.full(10_000, 0.5)
    trained = fit_reference(TrainingEvents(codes[:, None], scores, scores * 0), [category("shop", 5, SHOPS)], 64)

    def found(values: list[float], design_effect: float = 1.0) -> list[str]:
        window = count(trained, np.array(values)[:, None], np.full(len(values), 0.5))
        finder = FaultFinder(trained.metrics, trained.training, design_effects=[design_effect, 1, 1])
        return [fault.kind for fault in finder.find(window, {"shop"})]

    assert found([*[0.0] * 500, *[1.0] * 200, *[2.0] * 100, *[3.0] * 100]) == []
    without_one = [*[0.0] * 500, *[1.0] * 200, *[2.0] * 200]
    assert found(without_one) == ["category_vanished"]  # 0.9 ** 900
    assert found(without_one[::10]) == []  # 0.9 ** 90 is 8e-5
    assert found(without_one, design_effect=10.0) == []


# -- where features come from ------------------------------------------------------------------------------------------


def over(field: str | None, aggregate: str, of: str = "events") -> WindowSpec:
    return WindowSpec(of, ("card",), 7, 1, aggregate, field)  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize(
    ("feature", "origin"),
    [
        (Feature("f", "float", "amount"), Origin(("amount",), Path())),
        (Feature("f", "float", "2 - amount / 4"), Origin(("amount",), Path((("*", 0.25), ("*", -1.0), ("+", 2.0))))),
        (Feature("f", "float", "log(other)"), Origin(("amount",), Path((("+", 1.0), ("log", 0.0))))),
        (Feature("f", "float", "coalesce(amount, 0)"), Origin(("amount",), Path())),
        (Feature("f", "float", "coalesce(amount, 1)"), Origin(("amount",), None)),
        (Feature("f", "float", "amount / weight"), Origin(("amount", "weight"), None)),
        (Feature("f", "float", "amount * amount"), Origin(("amount",), None)),
        (Feature("f", "float", "weather.temp + 1"), Origin(("weather.temp",), Path((("+", 1.0),)))),
        (Feature("f", "bool", "amount > 3"), Origin(("amount",), None, has_unit=False)),
        (Feature("f", "float", "isnull(amount)"), Origin(("amount",), None, has_unit=False)),
        (Feature("f", "int", "hour(event_time, 'UTC') * 60"), Origin((), None, has_unit=False)),
        (Feature("f", "category", "origin"), Origin(("origin",), Path(), has_unit=False)),
        (Feature("f", "float", window=over("amount", "mean")), Origin(("amount",), Path(), is_window=True)),
        (Feature("f", "float", window=over("log_amount", "max")), Origin(("amount",), Path((("log", 0.0),)), True)),
        (
            Feature("f", "float", window=over("amount", "sum")),
            Origin(("amount",), Path(), is_window=True, takes_offsets=False),
        ),
        (
            Feature("f", "float", window=over("amount", "variance")),
            Origin(("amount",), Path((("square", 0.0),)), is_window=True, takes_offsets=False),
        ),
        (
            Feature("f", "float", window=over("log_amount", "sum")),
            Origin(("amount",), None, is_window=True, takes_offsets=False),
        ),
        (Feature("f", "int", window=over("merchant", "distinct")), Origin(("merchant",), None, True, has_unit=False)),
        (Feature("f", "int", window=over(None, "count")), Origin((), None, is_window=True, has_unit=False)),
        (Feature("f", "float", window=over("label", "mean", "labels")), Origin((), None, True, has_unit=False)),
        (Feature("f", "float", "amount / mean_7d"), Origin(("amount",), None, is_window=True)),
        (Feature("f", "float", "log(mean_7d)"), Origin(("amount",), Path((("log", 0.0),)), is_window=True)),
        (
            Feature("f", "float", python="f.py:f", arguments=("mean_7d", "weight")),
            Origin(("amount", "weight"), None, is_window=True),
        ),
    ],
)  # fmt: skip
def test_a_feature_comes_from_the_fields_in_it_by_a_function_that_may_be_known(
    feature: Feature, origin: Origin
) -> None:
    others = (
        feature,
        Feature("other", "float", "amount + 1"),
        Feature("log_amount", "float", "log(amount)"),
        Feature("mean_7d", "float", window=over("amount", "mean")),
        Feature("weight", "float", "amount * 7"),  # a field goes before a feature of its name
    )
    made = Origins(replace(pipeline(), features=others))["f"]
    assert replace(made, keys=frozenset()) == origin


def test_what_is_no_feature_is_a_field_of_its_own() -> None:
    assert Origins()["x"] == Origins(pipeline())["x"] == Origin(("x",), Path())
    assert Origins()["x"].distance == 0


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("log1p(x)", "x", [0.0, 1.0, 5.0]),
        ("-sqrt(x * 4) + 1", "x", [0.0, 1.0, 9.0]),
        ("exp(x - 3) / -2", "x", [0.0, 1.0, 2.0]),
        ("1 - log(3 + x)", "x", [0.5, 1.0, 2.0]),
        ("+ a.b", "a.b", [-1.0, 0.0]),
    ],
)
def test_a_path_does_what_its_expression_says_and_undoes_it(text: str, name: str, values: list[float]) -> None:
    parsed = path_in(ast.parse(text, mode="eval").body)
    assert parsed is not None
    assert parsed[0] == name
    functions = {"log1p": math.log1p, "log": math.log, "sqrt": math.sqrt, "exp": math.exp}
    code = compile(text.replace("a.b", "x"), "", "eval")
    expected = [eval(code, functions, {"x": value}) for value in values]  # noqa: S307  # of this file
    path = parsed[1]
    assert path.forward(np.array(values)).tolist() == pytest.approx(expected)
    assert path.backward(path.forward(np.array(values))).tolist() == pytest.approx(values)
    assert path.is_rising == (expected[0] < expected[-1])


@pytest.mark.parametrize(
    "text", ["x * x", "x / y", "3 / x", "x * 0", "x > 1", "abs(x)", "x ** 2", "maximum(x, 1)", "2"]
)
def test_what_no_single_value_can_be_read_back_from_is_no_path(text: str) -> None:
    assert path_in(ast.parse(text, mode="eval").body) is None


# -- units through a known function ------------------------------------------------------------------------------------


def law_of(values: np.ndarray, edges: np.ndarray) -> Law:
    cells = MetricCells("x", "numeric", edges, scale=1.0)
    counts = np.append(np.bincount(np.searchsorted(edges, values, "right"), minlength=len(edges) + 1), 0)
    law = Law.of(cells, counts, 0, float(values.min()), float(values.max()))
    return replace(law, mean=float(values.mean()), cap=1e12)


PATHS = {
    "log": Path((("log", 0.0),)),
    "log1p": Path((("log1p", 0.0),)),
    "sqrt": Path((("sqrt", 0.0),)),
    "minus log": Path((("log", 0.0), ("*", -1.0))),
    "shifted": Path((("*", 3.0), ("+", 100.0))),
}


@pytest.mark.parametrize("how", PATHS)
@pytest.mark.parametrize(("factor", "words"), [(100.0, "about 100 times"), (1 / 60, "about 1/60 of"), (37.0, "")])
def test_a_unit_is_found_through_a_known_function_and_not_without_it(how: str, factor: float, words: str) -> None:
    rng = np.random.default_rng(4)
    path = PATHS[how]
    before, now = path.forward(rng.lognormal(2, 0.8, 20_000)), path.forward(factor * rng.lognormal(2, 0.8, 5_000))
    edges = np.quantile(before, np.arange(1, 64) / 64)
    fault = find_unit("x", law_of(before, edges), law_of(now, edges), path)
    assert fault is not None
    said = fault.sentence.split("its values are ")[1]
    # What has no name is estimated from the means.
    assert said.startswith(f"{words} those of training" if words else ("about 35", "about 36", "about 37", "about 38"))
    if how not in {"sqrt", "shifted"}:  # the root of a factor is a factor
        assert find_unit("x", law_of(before, edges), law_of(now, edges)) is None


@pytest.mark.parametrize("how", PATHS)
def test_a_drift_of_a_third_of_a_deviation_is_no_unit_through_any_function(how: str) -> None:
    rng = np.random.default_rng(5)
    path = PATHS[how]
    before = path.forward(rng.lognormal(2, 0.8, 20_000))
    edges = np.quantile(before, np.arange(1, 64) / 64)
    for drifted in (rng.lognormal(2.25, 0.8, 5_000), 1.15 * rng.lognormal(2, 0.8, 5_000), rng.lognormal(2, 1.1, 5_000)):
        assert find_unit("x", law_of(before, edges), law_of(path.forward(drifted), edges), path) is None


def test_a_sum_and_a_logarithm_have_no_zero_that_could_be_elsewhere() -> None:
    rng = np.random.default_rng(6)
    celsius, fahrenheit = rng.normal(14, 7, 20_000), rng.normal(14, 7, 5_000) * 1.8 + 32
    edges = np.quantile(celsius, np.arange(1, 64) / 64)
    laws = law_of(celsius, edges), law_of(fahrenheit, edges)
    assert find_unit("x", *laws) is not None
    assert find_unit("x", *laws, takes_offsets=False) is None


@given(st.sampled_from(sorted(PATHS)), st.sampled_from(sorted(PATHS)), st.floats(0.1, 10.0), st.integers(0, 99))
def test_a_law_that_is_remade_is_that_of_the_values_that_are_remade(
    one: str, other: str, factor: float, seed: int
) -> None:
    values = np.random.default_rng(seed).lognormal(1, 0.5, 400)
    undone, done = PATHS[one], PATHS[other]
    of_one, of_other = undone.forward(values), done.forward(factor * values)
    law = remade(law_of(of_one, np.quantile(of_one, np.arange(1, 32) / 32)), undone, done, factor)
    for point in np.quantile(of_other, [0.03, 0.2, 0.5, 0.8, 0.97]):
        low, high = law.bounds(np.array([point]))
        assert low[0] - 1e-6 <= np.mean(of_other < point) <= high[0] + 1e-6
    assert law.mean == pytest.approx(float(of_other.mean()), abs=0.1 * float(of_other.std()))
    assert distance(law_of(of_other, law.points), law) < 0.05


def test_what_a_function_has_no_value_for_is_missing() -> None:
    values = np.concatenate([np.full(300, -1.0), np.linspace(1, 2, 700)])
    law = law_of(values, np.linspace(0, 2, 40)).mapped(Path((("log", 0.0),)).forward)
    assert law.missing == pytest.approx(0.3)
    assert law.n == 700
    assert (law.below[0], law.below[-1]) == (0.0, 1.0)


# -- which field it is -------------------------------------------------------------------------------------------------


def fault(metric: str, kind: FaultKind, strength: float = 0.5) -> Fault:
    return Fault(kind, (metric,), f"`{metric}` is odd.", strength)


def origins() -> Origins:
    return Origins(pipeline_of(MIXED))


def test_faults_of_one_kind_that_share_a_field_are_one_fault_of_it() -> None:
    named = name_fields([fault("amount_mean", "constant"), fault("log_amount", "constant")], origins(), set(), MIXED)
    (one,) = named
    assert (one.fields, one.metrics) == (("amount",), ("log_amount", "amount_mean"))
    assert one.sentence == "`amount` looks wrong: `log_amount` is odd; `amount_mean` moved with it."


def test_a_constant_that_is_no_longer_missing_moved_with_nothing_but_itself() -> None:
    (one,) = name_fields([fault("temp", "constant"), fault("temp", "missing_values_filled")], origins(), set(), MIXED)
    assert (one.kind, one.metrics, one.sentence) == ("constant", ("temp",), "`temp` is odd.")


def test_what_a_fault_does_not_explain_stays_a_fault_of_its_own() -> None:
    named = name_fields(
        [fault("log_amount", "unit_changed"), fault("amount_mean", "missing_values"), fault("temp", "constant")],
        origins(),
        {"root_amount", "amount_mean", "shop", "score"},
        MIXED,
    )
    assert [(each.kind, each.fields, each.metrics) for each in named] == [
        ("constant", ("temp",), ("temp",)),
        ("unit_changed", ("amount",), ("log_amount", "root_amount")),
        ("missing_values", ("amount",), ("amount_mean",)),
    ]
    assert named[0].sentence == "`temp` is odd."


def test_of_several_fields_in_a_feature_the_one_that_others_share_is_at_fault() -> None:
    features = (
        Feature("a_by_b", "float", "amount / weight"),
        Feature("b_by_t", "float", "weight / payment_id"),
    )
    both = Origins(replace(pipeline(), features=features))
    faults = [fault("a_by_b", "missing_values", 0.9), fault("b_by_t", "missing_values")]
    (one,) = name_fields(faults, both, set(), ["a_by_b", "b_by_t"])
    assert (one.fields, one.metrics) == (("weight",), ("a_by_b", "b_by_t"))
    (alone,) = name_fields(faults[:1], both, set(), ["a_by_b", "b_by_t"])
    assert alone.fields == ("amount", "weight")
    assert alone.sentence == "`a_by_b` is odd. It is made of `amount` and `weight`."


def test_a_key_that_is_called_otherwise_explains_what_is_not_found_by_it() -> None:
    """Flights look the weather up by the airport that they leave from, and sum up what left from it before."""
    flights = Origins(load("flights"))
    assert flights["temp"].keys == flights["late_3h"].keys == {"origin"}
    assert flights["wind_gust"].keys == {"origin"}
    assert flights["carrier_late_24h_all"].keys == {"carrier"}
    assert flights["seats"].keys == {"tailnum"}
    faults = [
        fault("temp", "missing_values", 0.9),
        fault("late_3h", "missing_values"),
        fault("origin", "vocabulary_changed"),
        fault("seats", "missing_values", 0.1),
    ]
    named = name_fields(faults, flights, set(), ["origin", "seats", "temp", "late_3h"])
    assert [(each.fields, each.metrics) for each in named] == [
        (("origin",), ("origin", "temp", "late_3h")),
        (("planes.seats",), ("seats",)),
    ]


def test_a_window_of_labels_or_of_numbers_of_events_has_no_field() -> None:
    (one,) = name_fields([fault("fraud_30d", "constant")], Origins(pipeline()), {"risk"}, ["fraud_30d", "risk"])
    assert (one.fields, one.metrics, one.sentence) == ((), ("fraud_30d",), "`fraud_30d` is odd.")
