# ruff: noqa: E501, Q000, Q003  # the table of mistakes: one a line, in the quotes that it needs
from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.adapters.river_detectors import find_kind
from schemas.pipeline.detectors import DETECTORS, default_detector
from schemas.pipeline.drift import DEFAULT_TESTS
from schemas.pipeline.file import load
from schemas.pipeline.spec import MINIMUM_EFFECTS, FalseAlarms, Performance, Pipeline, PipelineError, Silence
from schemas.pipeline.toml_table import parse_duration

SMALLEST = """
name = "payments"

[events]
entity = "customer"
id = "payment_id"
time = "time_ms"

[events.fields]
payment_id = "string"
customer = "string"
time_ms = "int"
amount = "float?"
country = "string"

[[features]]
name = "amount"
type = "float"
expression = "log1p(amount)"
"""

WINDOW = """
[[features]]
name = "spent"
type = "float"
window = { of = "events", key = ["customer"], size = "1h", hop = "5m", aggregate = "sum", field = "amount" }
"""


def made(name: str, expression: str) -> str:
    return f'[[features]]\nname = "{name}"\ntype = "float"\nexpression = "{expression}"\n'


LOOKUP = """
[lookups.rates]
path = "rates.csv"
keys = { country = "country" }
columns = ["rate"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text, encoding="utf-8")
    (folder / "own.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    (folder / "broken.py").write_text("def double(x:\n", encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Pipeline:
    return load(write(folder, text))


def in_milliseconds(year: int) -> int:
    return int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) * 1000


def test_commits_are_rare_where_nobody_waits_for_them(tmp_path: Path) -> None:
    at_least_once = 'delivery = "at_least_once"\n' + SMALLEST + WINDOW
    assert read(tmp_path, at_least_once).commit_interval_ms == 500
    shared = at_least_once.replace('["customer"]', '["country"], delay = "1h"')
    assert read(tmp_path, shared).commit_interval_ms == 75


def test_a_file_with_state_by_entity_has_alerts_of_the_stream_unless_it_says_otherwise(tmp_path: Path) -> None:
    both = ["labels-without-event", "entity-in-two-partitions"]
    own = '[[alerts]]\nname = "a"\non = "labels"\nabove = 0.2\n'
    of_labels = ["pipeline-fault", "worse-than-promised", "concept-drift", "labels-missing"]
    undetected = '\n[labels]\n[drift]\nwindow = "1d"\ndetectors = []\n'
    texts = {
        SMALLEST + "\n[labels]\n": [*of_labels, "errors-changed", *both],
        SMALLEST + undetected: [*of_labels, *both],
        SMALLEST + WINDOW: ["pipeline-fault", both[1]],
        SMALLEST + "\n[labels]\n" + ALERT: ["a", *both],
        SMALLEST + "\n[labels]\n" + own: ["a", both[1]],
        "alerts = []\n" + SMALLEST + "\n[labels]\n": [],
        SMALLEST.replace("[events]", '[events]\nwrong_partition = "ignore"') + "\n[labels]\n": [
            *of_labels,
            "errors-changed",
            both[0],
        ],
    }
    for text, names in texts.items():
        assert [rule.name for rule in read(tmp_path, text).alerts] == names
    rules = {rule.name: rule for rule in read(tmp_path, SMALLEST + "\n[labels]\n").alerts}
    assert (rules[both[0]].above, rules[both[0]].severity) == (0.05, "warning")
    assert rules[both[1]].severity == "critical"


def test_a_maturity_is_a_day_and_no_longer_than_labels_count(tmp_path: Path) -> None:
    for text, hours in (
        ("", 24),
        ('[labels]\nhorizon = "30d"', 24),
        ('[labels]\nhorizon = "3h"', 3),
        ('[labels]\nhorizon = "20d"\n[performance]\nmaturity = "20d"', 480),
        ('[performance]\nmaturity = "2d"', 48),
    ):
        assert read(tmp_path, f"{SMALLEST}\n{text}\n").performance.maturity_ms == hours * 3_600_000, text


def test_partitions_tell_their_entities_where_something_is_kept_by_entity(tmp_path: Path) -> None:
    shared = WINDOW.replace('["customer"]', '["country"], delay = "1h"')
    stateless, with_shared, with_own, with_labels, ignoring = (
        read(tmp_path, text)
        for text in (
            SMALLEST,
            SMALLEST + shared,
            SMALLEST + WINDOW,
            SMALLEST + '\n[labels]\nhorizon = "30d"\n',
            SMALLEST.replace("[events]", '[events]\nwrong_partition = "ignore"') + WINDOW,
        )
    )
    assert [each.watches_entities for each in (stateless, with_shared, with_own, with_labels, ignoring)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert (ignoring.keeps_by_entity, stateless.keeps_by_entity) == (True, False)
    assert with_labels.remember_ms == 30 * 86_400_000
    assert with_own.remember_ms >= 7 * 86_400_000
    by_entity = read(tmp_path, SMALLEST.replace("[events]", "[events]\nrepartition = true") + WINDOW)
    assert not by_entity.watches_entities  # none can be in two


def test_records_that_are_put_right_have_topics_of_their_own_beside_those_of_producers(tmp_path: Path) -> None:
    as_sent = read(tmp_path, SMALLEST)
    by_entity = read(tmp_path, SMALLEST.replace("[events]", "[events]\nrepartition = true"))
    assert (as_sent.topics.events, as_sent.topics.labels) == (
        by_entity.topics.sent_events,
        by_entity.topics.sent_labels,
    )
    assert by_entity.topics.events == f"{by_entity.name}.events-by-entity"
    more = {topic.name for topic in by_entity.topics.all()} - {topic.name for topic in as_sent.topics.all()}
    assert more == {by_entity.topics.events, by_entity.topics.labels}
    assert as_sent.feature_set == by_entity.feature_set


def test_what_a_file_leaves_out_has_a_default(tmp_path: Path) -> None:
    pipeline = read(tmp_path, SMALLEST)

    assert (pipeline.partitions, pipeline.delivery, pipeline.commit_interval_ms) == (4, "exactly_once", 75)
    assert pipeline.publish_features
    assert (pipeline.labels, pipeline.source, pipeline.lookups) == (None, None, ())
    assert [(rule.name, rule.kinds, rule.severity) for rule in pipeline.alerts] == [
        ("pipeline-fault", ("pipeline_fault",), "critical"),
    ]
    assert read(tmp_path, "alerts = []\n" + SMALLEST).alerts == ()
    assert (pipeline.model.name, pipeline.model.threshold) == ("payments", 0.5)
    assert (pipeline.events.earliest_ms, pipeline.events.latest_ms) == (in_milliseconds(2000), in_milliseconds(2100))
    assert (pipeline.events.max_ahead_ms, pipeline.events.plural) == (86_400_000, "events")
    assert (pipeline.drift.window, pipeline.drift.slice_ms, pipeline.drift.bins) == ("month", 86_400_000, 128)
    assert [test.test for test in pipeline.drift.tests] == list(DEFAULT_TESTS)
    assert pipeline.drift.false_alarms == FalseAlarms(1, per_ms=30 * 86_400_000)
    assert pipeline.drift.detectors == ()
    assert (pipeline.limits.consecutive, pipeline.limits.share, pipeline.limits.of_last) == (1000, 0.5, 5000)
    assert pipeline.performance.maturity_ms == 86_400_000
    assert pipeline.topics.events == "payments.events"


def test_when_scoring_begins_is_no_part_of_the_feature_set(tmp_path: Path) -> None:
    begun = read(tmp_path, "model = { score_from = 2026-01-01T02:00:00+02:00 }\n" + SMALLEST)

    assert begun.model.score_from_ms == in_milliseconds(2026)
    assert begun.feature_set == read(tmp_path, SMALLEST).feature_set
    assert read(tmp_path, SMALLEST).model.score_from_ms is None


@pytest.mark.parametrize("plural", ["card payments", "überweisungen"])
def test_events_may_have_a_name_which_is_no_part_of_the_feature_set(tmp_path: Path, plural: str) -> None:
    named = read(tmp_path, SMALLEST.replace("[events]", f'[events]\nplural = "{plural}"', 1))

    assert named.events.plural == plural
    assert named.feature_set == read(tmp_path, SMALLEST).feature_set


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_detectors_have_rivers_names_and_defaults(name: str) -> None:
    if name == "cusum":
        return
    signature = inspect.signature(find_kind(name).__init__).parameters
    found = default_detector(name).settings
    if name == "kswin":
        assert found.pop("seed") == 1  # river draws from the system's chance when it is not given
    theirs = {key: parameter.default for key, parameter in signature.items() if key not in {"self", "seed", "window"}}
    assert found == theirs


def test_the_cusum_watches_where_there_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "payments.toml"
    path.write_text(SMALLEST + "[labels]\n")
    assert load(path).drift.detectors == (default_detector("cusum"),)
    path.write_text(SMALLEST + '[labels]\n[[drift.detectors]]\ndetector = "adwin"\ndelta = 0.01')
    (detector,) = load(path).drift.detectors
    assert (detector.detector, detector.settings["delta"], detector.settings["clock"]) == ("adwin", 0.01, 32)


def test_the_shipped_flights_pipeline_is_read_by_its_name() -> None:
    pipeline = load("flights")

    assert pipeline.labels is not None
    assert pipeline.labels.horizon_ms == 48 * 3_600_000
    assert (pipeline.events.earliest_ms, pipeline.events.plural) == (in_milliseconds(2013), "flights")
    weather, planes = pipeline.lookups
    assert (weather.known_after_ms, weather.max_age_ms, planes.time) == (3_600_000, 21_600_000, None)
    window = next(feature.window for feature in pipeline.features if feature.name == "carrier_late_24h")
    assert window is not None
    assert (window.of, window.key, window.size_ms, window.hop_ms) == (
        "labels",
        ("origin", "carrier"),
        86_400_000,
        300_000,
    )
    assert pipeline.path.is_absolute()
    assert load(str(pipeline.path)) == pipeline


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0s", 0),
        ("100ms", 100),
        ("5s", 5000),
        ("5m", 300_000),
        ("3h", 10_800_000),
        ("1d", 86_400_000),
        ("48h", 172_800_000),
    ],
)
def test_a_duration_is_a_whole_number_and_a_unit(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "1.5h", "5 m", "5M", "1w", "1h30m", "5m\n", "\u0665m"])
def test_anything_else_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


ALERT = '[[alerts]]\nname = "a"\non = "drift"\nmeasure = "share"\nabove = 0.3\n'
PROMISED = '[labels]\n[[alerts]]\nname = "a"\non = "performance"\nmeasure = "auc"\nbelow_expected = true\n'
VERDICT = '[[alerts]]\nname = "a"\non = "verdict"\nkinds = ["pipeline_fault"]\n'
CATEGORY = """
[[features]]
name = "kind"
type = "category"
expression = "country"
values = ["a", "b"]
"""

# (what to replace in the file, by what, the sentence after the file's name); an empty "what" adds at the front.
MISTAKES = [
    ('name = "payments"', 'nam = "payments"', 'nam: unknown key; did you mean "name"?'),
    ('name = "payments"', "", 'name: is missing; give a string, for example name = "payments".'),
    ('name = "payments"', 'name = "Pay ments"', 'name: "Pay ments" cannot begin the names of topics; use a-z, 0-9, - and _, at most 100 characters.'),
    ('name = "payments"', "name = 7", 'name: must be a string, not a whole number; for example name = "payments".'),
    ("", "partitions = 0", "partitions: 0 is out of range; use a whole number from 1 to 1024."),
    ("", "partitions = true", "partitions: must be a whole number, not true or false."),
    ("", 'publish_features = "yes"', "publish_features: must be true or false, not a string."),
    ("", 'delivery = "twice"', 'delivery: "twice" is not known; use "exactly_once" or "at_least_once".'),
    ("", 'source = "own.py"', 'source: "own.py" is not a reference; write "file.py:function" or "package.module:function".'),
    ("", 'source = "own.py:dbl"', 'source: own.py has no function "dbl"; did you mean "double"?'),
    ("", 'source = "no_such_package_at_all:f"', "source: there is no module no_such_package_at_all; create it or correct the reference."),
    ("", "model = 3", "model: must be a table, not a whole number."),
    ("", "model = { threshold = 2 }", "model.threshold: 2 is out of range; use a number from 0 to 1."),
    ("", "model = { score_from = 2100-01-01T00:00:00Z }", "model.score_from: is not before latest in [events]"),
    ("", "model = { score_from = 2026-06-01 }", "model.score_from: must be a time"),
    ("", "model = { score_from = 2026-06-01T00:00:00 }", "model.score_from: the time has no offset"),
    ("[events]", "[event]", 'event: unknown key; did you mean "events"?'),
    ('entity = "customer"', 'entity = "costumer"', 'events.entity: there is no field "costumer" in [events.fields]; did you mean "customer"?'),
    ('entity = "customer"', 'entity = "amount"', 'events.entity: the field "amount" must be "string", and not nullable; change its type in [events.fields].'),
    ('time = "time_ms"', "", 'events.time: is missing; give a string, the field that holds the event time in ms, for example time = "time_ms".'),
    ('time = "time_ms"', 'time = "time_ms"\nearliest = 2013-01-01T00:00:00', "events.earliest: the time has no offset; end it with Z for UTC."),
    ('time = "time_ms"', 'time = "time_ms"\nearliest = "2013"', "events.earliest: must be a time, not a string; for example 2013-01-01T00:00:00Z."),
    ('time = "time_ms"', 'time = "time_ms"\nlatest = 1999-01-01T00:00:00Z', "events.latest: must be after earliest; swap them."),
    ('time = "time_ms"', 'time = "time_ms"\nearliest = 2013-01-01T00:00:00Z\nlatest = 2013-01-01T00:00:00Z', "events.latest: must be after earliest; swap them."),
    ('time = "time_ms"', 'time = "time_ms"\nearliest = 1899-12-31T00:00:00Z', "events.earliest: is beyond what a table of ClickHouse can hold; use a time from 1900 to 2299."),
    ('time = "time_ms"', 'time = "time_ms"\nlatest = 9999-01-01T00:00:00Z', "events.latest: is beyond what a table of ClickHouse can hold; use a time from 1900 to 2299."),
    ('time = "time_ms"', 'time = "time_ms"\nrepartition = "yes"', 'events.repartition: must be true or false'),
    ('time = "time_ms"', 'time = "time_ms"\nrepartition = true\nwrong_partition = "warn"', 'events.wrong_partition: does not go with repartition = true, which leaves none wrong; remove one of them.'),
    ('time = "time_ms"', 'time = "time_ms"\nplural = ""', 'events.plural: must not be empty; what verdicts call the events, for example plural = "payments".'),
    ('time = "time_ms"', 'time = "time_ms"\nplural = "card  payments"', 'events.plural: "card  payments" is no plural noun for a sentence; use letters and single spaces, at most 40.'),
    ('time = "time_ms"', 'time = "time_ms"\nplural = "<b>"', 'events.plural: "<b>" is no plural noun for a sentence; use letters and single spaces, at most 40.'),
    ('time = "time_ms"', f'time = "time_ms"\nplural = "{"s" * 41}"', f'events.plural: "{"s" * 41}" is no plural noun for a sentence; use letters and single spaces, at most 40.'),
    ('time = "time_ms"', 'time = "time_ms"\nmax_ahead = "a day"', 'events.max_ahead: "a day" is not a duration; write a whole number and ms, s, m, h or d, for example "5m".'),
    ('amount = "float?"', 'amount = "double"', 'events.fields.amount: "double" is not a type; use string, float, int or bool, with ? at the end where null is allowed.'),
    ('amount = "float?"', '"a b" = "float"', "events.fields.a b: \"a b\" cannot be a name; use letters, digits and _, not beginning with a digit."),
    ('amount = "float?"', 'label = "float"', 'events.fields.label: the name "label" is taken for the label itself; call the field something else.'),
    ('type = "float"', 'type = "double"', 'features.amount.type: "double" is not known; use "float", "int", "bool" or "category".'),
    ('type = "float"', 'type = "category"', "features.amount.expression: gives a number, but a category needs text; change the type or name a string field."),
    ('expression = "log1p(amount)"', 'expression = "country"', 'features.amount.expression: gives text, but the type is float; make it type = "category" with its values.'),
    ('expression = "log1p(amount)"', "", "features.amount: give exactly one of expression, window and python (none given)."),
    ('"log1p(amount)"', '"log1p(amout)"', 'features.amount.expression: "log1p(amout)", position 7: there is no field, lookup column or feature "amout"; did you mean "amount"?'),
    ('"log1p(amount)"', '"ln(amount)"', 'features.amount.expression: "ln(amount)", position 1: there is no function "ln"; use one of abs, clip'),
    ('"log1p(amount)"', '"rates.rate"', 'features.amount.expression: "rates.rate", position 1: there is no field, lookup column or feature "rates.rate"; use one of'),
    ('"log1p(amount)"', '"amount"\nvalues = ["a"]', 'features.amount.values: only a category has values; remove the key or make it type = "category".'),
    ('type = "float"\nexpression = "log1p(amount)"', 'type = "category"\nexpression = "country"', 'features.amount.values: a category needs its values, for example values = ["a", "b"].'),
    ('type = "float"\nexpression = "log1p(amount)"', 'type = "category"\nexpression = "country"\nvalues = ["a", "a"]', 'features.amount.values: "a" is named twice; name it once.'),
    ('type = "float"\nexpression = "log1p(amount)"', 'type = "category"\nexpression = "country"\nvalues = ["a", "unseen"]', 'features.amount.values: "unseen" is what all values are called that are not listed; leave it out.'),
    ('"log1p(amount)"', '"amount"\narguments = ["amount"]', "features.amount.arguments: belong to python; remove the key."),
    ('expression = "log1p(amount)"', 'python = "own.py:double"', 'features.amount.arguments: names nothing; name what the function is called with, for example ["event_time"].'),
    ('expression = "log1p(amount)"', 'python = "own.py:double"\narguments = ["amnt"]', 'features.amount.arguments: there is no field, lookup column or feature "amnt"; did you mean "amount"?'),
    ('expression = "log1p(amount)"', 'python = "own.py:duble"\narguments = ["amount"]', 'features.amount.python: own.py has no function "duble"; did you mean "double"?'),
    ('expression = "log1p(amount)"', 'python = "gone.py:double"\narguments = ["amount"]', "features.amount.python: there is no file"),
    ('expression = "log1p(amount)"', 'python = "broken.py:double"\narguments = ["amount"]', "features.amount.python: broken.py is not Python"),
    ('name = "amount"', 'name = "score"', 'features.score.name: "score" is the name of another metric; call the feature something else.'),
    ("[[features]]", "[[feature]]", 'feature: unknown key; did you mean "features"?'),
    ("WINDOW", WINDOW.replace('"spent"', '"amount"'), 'features.amount.name: "amount" is used by two features; rename one.'),
    ("WINDOW", WINDOW.replace('"1h"', '"7m"'), "features.spent.window.size: must be a multiple of hop, at most 10000 times it; change one of them."),
    ("WINDOW", WINDOW.replace('"1h"', '"36500d"'), "features.spent.window.size: must be a multiple of hop, at most 10000 times it; change one of them."),
    ("WINDOW", WINDOW.replace('"5m"', '"0m"'), 'features.spent.window.hop: "0m" is too short; use at least 1 ms.'),
    ("WINDOW", WINDOW.replace('["customer"]', '["country"]'), 'features.spent.window.key: lacks the entity field "customer", so the window is shared between partitions; add the field, or declare how far the window stays behind, for example delay = "1h".'),
    ("WINDOW", WINDOW.replace('["customer"]', '["country"], delay = "soon"'), 'features.spent.window.delay: "soon" is not a duration; write a whole number and ms, s, m, h or d, for example "5m".'),
    ("WINDOW", WINDOW.replace('["customer"]', '["customer"], delay = "1h"'), 'features.spent.window.delay: is for keys without the entity field "customer"; remove it, this window has none.'),
    ("WINDOW", WINDOW.replace('["customer"]', '["customer"], repartition = true'), 'features.spent.window.repartition: is for keys without the entity field "customer"; remove it, the keys of this window are divided already.'),
    ("WINDOW", WINDOW.replace('["customer"]', '["country"], delay = "1h", repartition = "yes"'), 'features.spent.window.repartition: must be true or false'),
    ("WINDOW", WINDOW.replace('["customer"]', '["country"], delay = "1h"').replace('"sum"', '"max"'), 'features.spent.window.aggregate: "max" cannot be added up over partitions; use count, rate, sum, mean, or a key with "customer".'),
    ("WINDOW", WINDOW.replace('["customer"]', '["customer", "amount"]'), 'features.spent.window.key: "amount" is a float, which makes no key; use string, int or bool fields.'),
    ("WINDOW", WINDOW.replace('["customer"]', '["customr"]'), 'features.spent.window.key: there is no event field "customr"; did you mean "customer"?'),
    ("WINDOW", WINDOW.replace('"events"', '"labels"'), 'features.spent.window.of: the pipeline has no [labels]; add them or use of = "events".'),
    ("WINDOW", WINDOW.replace('"sum"', '"count"'), 'features.spent.window.field: "count" has no field; remove the key or use another aggregate, as "sum".'),
    ("WINDOW", WINDOW.replace('"sum"', '"median"'), 'features.spent.window.aggregate: "median" is not known; use "count", "sum", "mean", "variance", "min", "max", "last", "time_since_last", "distinct", "rate" or "share".'),
    ("WINDOW", WINDOW.replace('field = "amount"', 'field = "country"'), 'features.spent.window.field: "country" is no numeric field of events; use one of amount, time_ms.'),
    ("WINDOW", WINDOW.replace('type = "float"', 'type = "bool"'), "features.spent.window: a window gives a number, but the type is bool; make it int or float."),
    ("WINDOW", made("x", "y + 1") + made("y", "x - 1"), 'features: "x" is made of "y", "y" of "x", which is a circle; make one of them of something else.'),
    ("WINDOW", made("x", "y + 1") + made("z", "x - 1") + made("y", "z * log1p(amount)"), 'features: "x" is made of "y", "y" of "z", "z" of "x", which is a circle; make one of them of something else.'),
    ("WINDOW", made("x", "x / 2"), 'features: "x" is made of itself; make it of something else.'),
    ("WINDOW", WINDOW + made("x", "spent / y") + '[[features]]\nname = "y"\ntype = "float"\npython = "own.py:double"\narguments = ["x"]', 'features: "x" is made of "y", "y" of "x", which is a circle; make one of them of something else.'),
    ("WINDOW", made("x", "spend / 2") + WINDOW, 'features.x.expression: "spend / 2", position 1: there is no field, lookup column or feature "spend"; did you mean "spent"?'),
    ("WINDOW", WINDOW + made("x", "where(spent > 1, country, 2)"), 'features.x.expression: "where(spent > 1, country, 2)", position 27: text and number are mixed; make both the same.'),
    ("WINDOW", WINDOW + made("x", "country if spent > 1 else 'none'"), 'features.x.expression: gives text, but the type is float; make it type = "category" with its values.'),
    ("WINDOW", WINDOW + made("x", "spent / 2") + WINDOW.replace('"spent"', '"again"').replace('field = "amount"', 'field = "x"'), 'features.again.window.field: "x" is made of windows; name a field, or a feature that the event alone decides.'),
    ("WINDOW", made("x", "spent / 2") + WINDOW.replace('field = "amount"', 'field = "x"'), 'features.spent.window.field: "x" is made of windows; name a field, or a feature that the event alone decides.'),
    ("WINDOW", WINDOW + made("x", "spent / 2").replace('"float"', '"int"') + WINDOW.replace('"spent"', '"again"').replace('["customer"]', '["customer", "x"]'), 'features.again.window.key: "x" is made of windows; name a field, or a feature that the event alone decides.'),
    ("WINDOW", WINDOW + WINDOW.replace('"spent"', '"again"').replace('field = "amount"', 'field = "spent"'), 'features.again.window.field: "spent" is no numeric field of events; use one of amount, time_ms.'),
    ("WINDOW", made("x", "amount / 2") + WINDOW.replace('["customer"]', '["customer", "x"]'), 'features.spent.window.key: "x" is a float, which makes no key; use string, int or bool fields.'),
    ("WINDOW", WINDOW.replace('"spent"', '"time_ms"') + made("x", "log(time_ms)"), 'features.x.expression: "time_ms" is an event field, and a feature that is a window or made of windows; rename the feature.'),
    ("WINDOW", WINDOW + made("time_ms", "spent / 2") + '[[features]]\nname = "y"\ntype = "float"\npython = "own.py:double"\narguments = ["time_ms"]', 'features.y.arguments: "time_ms" is an event field, and a feature that is a window or made of windows; rename the feature.'),
    ("LOOKUP", LOOKUP.replace("path", "file"), 'lookups.rates.file: unknown key; use one of columns, keys'),
    ("LOOKUP", LOOKUP.replace('country = "country"', 'country = "land"'), 'lookups.rates.keys: there is no event field "land" for country to equal; use one of'),
    ("LOOKUP", LOOKUP.replace('["rate"]', "[]"), "lookups.rates.columns: names no column; name those that features use."),
    ("LOOKUP", LOOKUP.replace('["rate"]', "[1]"), 'lookups.rates.columns: must hold strings alone, for example ["a", "b"].'),
    ("LOOKUP", LOOKUP + 'max_age = "1d"', "lookups.rates.max_age: has no meaning without time; name the column that says when a row was true."),
    ("WINDOW", '[labels]\nhorizon = "0s"', 'labels.horizon: "0s" is too short; use at least 1 ms.'),
    ("WINDOW", '[labels]\nhorizon = "20d"\n[performance]\nmaturity = "21d"', 'performance.maturity: "21d" is longer than labels.horizon, after which no label counts: windows would be judged later, and by no more labels; make it at most that, or the horizon longer.'),
    ("WINDOW", '[drift]\nwindow = "week"', 'drift.window: "week" is neither "month" nor a duration; write for example "1d".'),
    ("WINDOW", '[drift]\nsegments = "country"', 'drift.segments: must be a list of strings, not a string; for example ["a", "b"].'),
    ("WINDOW", CATEGORY + '[drift]\nsegments = ["kinds"]', 'drift.segments: there is no feature "kinds"; did you mean "kind"?'),
    ("WINDOW", CATEGORY + '[drift]\nsegments = ["country"]', 'drift.segments: there is no feature "country"; use one of kind.'),
    ("WINDOW", CATEGORY + '[drift]\nsegments = ["kind", "kind"]', 'drift.segments: "kind" is named twice; name it once.'),
    ("WINDOW", WINDOW + '[drift]\nsegments = ["spent"]', 'drift.segments: "spent" is of type float, whose values are too many to cut by; make a category or bool of it by an expression, and name that.'),
    ("WINDOW", CATEGORY.replace('"b"', '"missing"') + '[drift]\nsegments = ["kind"]', 'drift.segments: "missing" among the values of "kind" is what events without a value are called; leave the value out, and it counts as unseen.'),
    ("WINDOW", CATEGORY.replace('"b"', str([f"v{n}" for n in range(64)])[1:-1]) + '[drift]\nsegments = ["kind"]', 'drift.segments: "kind" has 65 values, and a column may cut into 64 at most; make a category of fewer values by an expression, and name that.'),
    ("WINDOW", '[drift]\nwindow = "36h"', 'drift.window: "36h" is not a multiple of the slice; change one of them.'),
    ("WINDOW", '[drift]\ntests = [{ test = "psi", alpha = 1 }]', 'drift.tests.psi.alpha: unknown key; use one of minimum_effect, test.'),
    ("WINDOW", '[drift]\ntests = [{ test = "chi" }]', 'drift.tests.chi.test: "chi" is not known; use "psi", "ks", "wasserstein", "jensen_shannon", "chi_square", "null_rate", "unseen", "range", "interval", "trend", "classic_ks", "classic_interval" or "classic_trend".'),
    ("WINDOW", '[drift]\ndetectors = []', "drift.detectors: need labels, which say what decisions were wrong; add [labels] or remove them."),
    ("WINDOW", '[labels]\n[[drift.detectors]]\ndetector = "cusums"', 'drift.detectors.cusums.detector: "cusums" is not known; use "cusum", "adwin", "kswin", "page_hinkley", "ddm", "eddm", "hddm_a" or "hddm_w".'),
    ("WINDOW", '[labels]\n[[drift.detectors]]\ndetector = "adwin"\nalpha = 1', "drift.detectors.adwin.alpha: unknown key; use one of clock, delta, detector, grace_period, max_buckets, min_window_length."),
    ("WINDOW", '[labels]\n[drift]\ndetectors = [{ detector = "ddm" }, { detector = "ddm" }]', 'drift.detectors.ddm.detector: "ddm" is named twice; name it once.'),
    ("WINDOW", '[labels]\n[drift]\ndetectors = [{ detector = "kswin", stat_size = 60 }]', "drift.detectors.kswin.stat_size: is more than half of window_size; make it smaller."),
    ("WINDOW", '[labels]\n[drift]\ndetectors = [{ detector = "eddm", alpha = 0.5 }]', "drift.detectors.eddm.alpha: is below beta; raise it or lower beta."),
    ("WINDOW", '[labels]\n[drift]\ndetectors = [{ detector = "page_hinkley", mode = "sideways" }]', 'drift.detectors.page_hinkley.mode: "sideways" is not known; use "both", "up" or "down".'),
    ("WINDOW", '[drift]\nper = "7d"\nper_events = 1000', "drift.per_events: stands beside per; keep the one that the budget is meant by."),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "performance"\nmeasure = "auc"\nbelow = 1', 'alerts.a.on: performance needs labels; add [labels] or use on = "drift".'),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "labels"\nabove = 0.1', 'alerts.a.on: labels needs labels; add [labels] or use on = "drift".'),
    ("WINDOW", '[labels]\n[[alerts]]\nname = "a"\non = "labels"', "alerts.a: has no limit; give above, for example above = 0.05."),
    ("WINDOW", '[labels]\n[[alerts]]\nname = "a"\non = "labels"\nbelow = 0.1', "alerts.a.below: unknown key; use one of"),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "entities"\nabove = 1', "alerts.a.above: unknown key; use one of"),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "drift"\nmeasure = "share"', "alerts.a: has no limit; give below or above."),
    ("WINDOW", '[labels]\n[[alerts]]\nname = "a"\non = "performance"\nmeasure = "auc"', "alerts.a: has no limit; give below, above, falls_by or below_expected = true."),
    ("WINDOW", PROMISED + "below = 0.7", "alerts.a.below_expected: is a limit by itself, and there is below; make a rule of each."),
    ("WINDOW", PROMISED + "clears_at = 0.7", "alerts.a.below_expected: is a limit by itself, and there is clears_at; make a rule of each."),
    ("WINDOW", PROMISED.replace("true", '"yes"'), "alerts.a.below_expected: must be true or false, not a string."),
    ("WINDOW", ALERT + "below_expected = true", "alerts.a.below_expected: unknown key; use one of"),
    ("WINDOW", ALERT + "since = 2026-11-01", "alerts.a.since: must be a time, not a date or time; for example 2013-01-01T00:00:00Z."),
    ("WINDOW", ALERT + "since = 2026-11-01T00:00:00", "alerts.a.since: the time has no offset; end it with Z for UTC."),
    ("WINDOW", VERDICT.replace("pipeline_fault", "concept_drift"), 'alerts.a.kinds: "concept_drift" is never said without labels; add [labels] or leave it out.'),
    ("WINDOW", '[labels]\n[[alerts]]\nname = "a"\non = "performance"\nmeasure = "cost"\nbelow_expected = true', 'alerts.a.measure: "cost" needs what errors cost; add [performance.costs], or use auc.'),
    ("WINDOW", '[labels]\n[[alerts]]\nname = "a"\non = "performance"\nmeasure = "labels_missing"\nbelow_expected = true', 'alerts.a.below_expected: "labels_missing" is 1 or 0; give above = 0.5.'),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "drift"\nmeasure = "auc"', 'alerts.a.measure: "auc" is not known; use "share".'),
    ("WINDOW", ALERT + 'clear_at = 0.1', 'alerts.a.clear_at: unknown key; did you mean "clears_at"?'),
    ("WINDOW", ALERT + 'clears_at = 0.4', "alerts.a.clears_at: 0.4 is no milder than above = 0.3; use a number at or below it."),
    ("WINDOW", ALERT + 'below = 0\nclears_at = 0.1', "alerts.a.clears_at: belongs to one limit, and there are below and above; make a rule of each."),
    ("WINDOW", ALERT.replace("above = 0.3", "below = 0.3") + 'clears_at = 0.2', "alerts.a.clears_at: 0.2 is no milder than below = 0.3; use a number at or above it."),
    ("WINDOW", ALERT + 'for = 0', "alerts.a.for: 0 is out of range; use a whole number from 1 to 1000."),
    ("WINDOW", ALERT + 'for = "2d"', "alerts.a.for: must be a whole number, not a string."),
    ("WINDOW", ALERT + 'clears_after = 0', "alerts.a.clears_after: 0 is out of range; use a whole number from 1 to 1000."),
    ("WINDOW", ALERT + 'cooldown = "a week"', 'alerts.a.cooldown: "a week" is not a duration; write a whole number and ms, s, m, h or d, for example "5m".'),
    ("WINDOW", ALERT + 'runbook = "wiki/auc"', 'alerts.a.runbook: "wiki/auc" is no link; write for example "https://wiki.example.com/auc-fell".'),
    ("WINDOW", ALERT + 'kinds = ["pipeline_fault"]', 'alerts.a.kinds: unknown key; use one of'),
    ("WINDOW", VERDICT.replace("pipeline_fault", "pipeline fault"), 'alerts.a.kinds: "pipeline fault" is no verdict to be alerted by; use some of feature_drift, score_drift, label_prior_drift, concept_drift, pipeline_fault.'),
    ("WINDOW", VERDICT.replace("pipeline_fault", "none"), 'alerts.a.kinds: "none" is no verdict to be alerted by'),
    ("WINDOW", VERDICT.replace('"pipeline_fault"', ""), 'alerts.a.kinds: names no verdict; use some of'),
    ("WINDOW", VERDICT + "below = 1", "alerts.a.below: unknown key; use one of"),
    ("WINDOW", '[[alerts]]\nname = "a"\non = "error"', 'alerts.a.on: error needs labels; add [labels] or use on = "drift".'),
    ("WINDOW", ALERT + 'silence = [{ from = 2026-01-02T00:00:00Z, to = 2026-01-01T00:00:00Z, why = "x" }]', "alerts.a.silence[1].to: must be after from; swap them."),
    ("WINDOW", ALERT + 'silence = [{ from = 2026-01-02T00:00:00Z, to = 2026-01-03T00:00:00Z }]', 'alerts.a.silence[1].why: is missing; give a string, for example why = "nightly load".'),
    ("WINDOW", ALERT + 'silence = [{ to = 2026-01-03T00:00:00Z, why = "x" }]', "alerts.a.silence[1].from: is missing; give a time, for example 2013-01-01T00:00:00Z."),
    ("WINDOW", ALERT + 'silence = [{ every = "sunday", from = "02:00", to = 04:00:00, why = "x" }]', "alerts.a.silence[1].from: must be a time of day, not a string; for example 02:00:00."),
    ("WINDOW", ALERT + 'silence = [{ every = "month", from = 02:00:00, to = 04:00:00, why = "x" }]', 'alerts.a.silence[1].every: "month" is not known; use "day", "monday"'),
    ("WINDOW", ALERT + 'silence = [{ every = "day", from = 02:00:00, to = 04:00:00, why = "x" }]', 'alerts.a.silence[1].every: a window of "month" is never outside of it; use from and to with dates.'),
    ("WINDOW", "[limits]\nshare = 50", "limits.share: 50 is out of range; use a number from 0 to 1."),
    ("WINDOW", "[limits]\nshares = 1", 'limits.shares: unknown key; did you mean "share"?'),
    ('name = "payments"', 'name = "payments', "not valid TOML: Illegal character '\\n' (at line 2, column 17), where a quote may be missing; correct that place."),
]  # fmt: skip  # a table: one mistake a line


def test_an_alert_says_all_that_it_may_say(tmp_path: Path) -> None:
    text = """
[labels]

[drift]
window = "1h"
slice = "1h"

[[alerts]]
name = "a"
on = "drift"
measure = "share"
above = 0.3
clears_at = 0.2
for = 3
cooldown = "7d"
group = "inputs"
owner = "ann"
runbook = "https://wiki.example.com/a"
severity = "critical"
action = "retrain"
silence = [
  { from = 2026-01-01T00:00:00Z, to = 2026-01-02T00:00:00+00:00, why = "holiday" },
  { every = "day", from = 22:00:00, to = 02:30:00, why = "load" },
  { every = "monday", from = 00:00:00, to = 06:00:00, why = "weekend" },
]

[[alerts]]
name = "b"
on = "verdict"
kinds = ["concept_drift", "pipeline_fault"]

[[alerts]]
name = "c"
on = "performance"
measure = "log_loss"
below_expected = true
since = 2026-01-01T00:00:00Z
"""
    first, second, third, *_ = read(tmp_path, SMALLEST + text).alerts
    hour, day = 3_600_000, 86_400_000
    assert (first.for_windows, first.clears_at, first.clears_after, first.cooldown_ms) == (3, 0.2, 1, 7 * day)
    assert (first.group, first.owner, first.runbook, first.action) == (
        "inputs",
        "ann",
        "https://wiki.example.com/a",
        "retrain",
    )
    new_year = 1_767_225_600_000
    assert first.silences == (
        Silence(new_year, new_year + day, "holiday"),
        Silence(22 * hour, 26 * hour + hour // 2, "load", day),
        Silence(4 * day, 4 * day + 6 * hour, "weekend", 7 * day),  # 1970-01-05 was a Monday
    )
    assert (third.measure, third.below_expected, third.since_ms, third.clears_after) == ("log_loss", True, new_year, 2)
    assert (first.below_expected, first.since_ms) == (False, None)
    assert (second.kinds, second.clears_after, second.for_windows) == (("concept_drift", "pipeline_fault"), 2, 1)


@pytest.mark.parametrize(("what", "by", "sentence"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence_with_file_key_and_fix(tmp_path: Path, what: str, by: str, sentence: str) -> None:
    if what in {"WINDOW", "LOOKUP"}:
        path = write(tmp_path, SMALLEST + by)
    else:
        path = write(tmp_path, SMALLEST.replace(what, by, 1) if what else f"{by}\n{SMALLEST}")

    with pytest.raises(PipelineError) as caught:
        load(path)

    told = str(caught.value)
    assert told.startswith(f"{path}: {sentence}")
    assert told.endswith((".", "?"))
    assert "\n" not in told


def test_an_unknown_name_and_a_missing_file_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r'no shipped pipeline "flihgts" .*; did you mean "flights"\?$'):
        load("flihgts")
    with pytest.raises(PipelineError, match="there is no such file; give the path of a pipeline file"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(PipelineError, match="not UTF-8 text; save it as UTF-8"):
        load(path)


def test_the_feature_set_digest_changes_with_what_defines_the_features_alone(tmp_path: Path) -> None:
    text = SMALLEST
    python = '[[features]]\nname = "twice"\ntype = "float"\npython = "own.py:double"\narguments = ["amount"]\n'
    pipeline = read(tmp_path, text + python)
    digest = pipeline.feature_set

    assert len(digest) == 12
    assert int(digest, 16) >= 0
    assert read(tmp_path, "partitions = 8\n" + text + python).feature_set == digest
    assert read(tmp_path, text.replace("log1p", "log") + python).feature_set != digest
    assert read(tmp_path, text.replace('country = "string"', 'country = "string?"') + python).feature_set != digest
    (tmp_path / "own.py").write_text("def double(x):\n    return x + x\n", encoding="utf-8")
    assert replace(pipeline).feature_set != digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('path = "rates.csv"', 'path = "other.csv"'),
        ('keys = { country = "country" }', 'keys = { land = "country" }'),
        ('columns = ["rate"]', 'columns = ["rate", "zone"]'),
        ('columns = ["rate"]', 'columns = ["rate"]\ntime = "since"'),
    ],
)
def test_a_lookup_is_part_of_what_defines_the_features(tmp_path: Path, old: str, new: str) -> None:
    lookup = LOOKUP.replace(old, new)
    assert lookup != LOOKUP
    assert read(tmp_path, SMALLEST + lookup).feature_set != read(tmp_path, SMALLEST + LOOKUP).feature_set
    assert read(tmp_path, SMALLEST + LOOKUP).feature_set != read(tmp_path, SMALLEST).feature_set


def test_a_window_whose_keys_are_divided_makes_another_feature_set(tmp_path: Path) -> None:
    """Its tiles are elsewhere, so they begin empty; one that says it is not has the digest of one that says nothing."""
    shared = SMALLEST + WINDOW.replace('["customer"]', '["country"], delay = "1h"')
    digest = read(tmp_path, shared).feature_set

    assert read(tmp_path, shared.replace('delay = "1h"', 'delay = "1h", repartition = false')).feature_set == digest
    assert read(tmp_path, shared.replace('delay = "1h"', 'delay = "1h", repartition = true')).feature_set != digest


def test_features_may_read_windows_and_each_other_in_any_order_of_the_file(tmp_path: Path) -> None:
    text = SMALLEST + made("surprise", "log(ratio)") + made("ratio", "amount / spent") + WINDOW

    assert [feature.name for feature in read(tmp_path, text).features] == ["amount", "surprise", "ratio", "spent"]


def test_a_field_goes_before_the_feature_that_is_made_of_it(tmp_path: Path) -> None:
    """As "amount" of `SMALLEST` is the logarithm of the field; with windows too, as long as nothing else asks for it."""
    text = SMALLEST.replace("log1p(amount)", "amount / spent") + WINDOW

    assert read(tmp_path, text).features[0].expression == "amount / spent"


def test_what_is_made_of_windows_is_part_of_the_digest(tmp_path: Path) -> None:
    python = '[[features]]\nname = "p"\ntype = "float"\npython = "own.py:double"\narguments = ["ratio"]\n'
    text = SMALLEST + WINDOW + made("ratio", "amount / spent") + python
    digests = {read(tmp_path, text).feature_set}
    for what, by in (
        ("amount / spent", "spent / amount"),
        ("amount / spent", "amount / p"),
        ('["ratio"]', '["spent"]'),
    ):
        changed = text.replace(what, by)
        if "/ p" in by:
            changed = changed.replace('["ratio"]', '["spent"]')  # else it is a circle
        digests.add(read(tmp_path, changed).feature_set)
    pipeline = read(tmp_path, text)
    (tmp_path / "own.py").write_text("def double(x):\n    return x + x\n", encoding="utf-8")
    digests.add(replace(pipeline).feature_set)

    assert len(digests) == 5


def test_the_order_of_features_is_part_of_the_digest(tmp_path: Path) -> None:
    pipeline = read(tmp_path, SMALLEST + WINDOW)
    turned = dataclasses.replace(pipeline, features=tuple(reversed(pipeline.features)))

    assert turned.feature_set != pipeline.feature_set


def test_the_digest_is_that_of_content_not_of_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()

    assert read(tmp_path, SMALLEST).digest == read(other, "# a comment\n" + SMALLEST).digest
    assert read(tmp_path, SMALLEST).digest != read(tmp_path, "partitions = 8\n" + SMALLEST).digest


# -- what is no pipeline file ----------------------------------------------------------------------------------------


def as_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (as_folder, "not a plain file"),
        (os.mkfifo, "not a plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a plain file"),
        (lambda path: path.symlink_to(path), "no such file|no path"),
        (lambda path: path.write_bytes(b"name = '\xff'"), "not UTF-8"),
        (lambda path: path.write_bytes(b"x = " + b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
        (lambda path: path.write_bytes(b"x = " + b"{a=" * 50_000 + b"1" + b"}" * 50_000), "nested too deep"),
        (lambda path: path.write_bytes(b"x." + b"a." * 50_000 + b"b = 1"), "nested too deep"),
        (lambda path: path.write_bytes(b"[x." + b'"a" . ' * 50_000 + b"b]"), "nested too deep"),
        (lambda path: path.write_bytes(b"x = " + b"9" * 5_000), "not valid TOML|unknown key"),
        (lambda path: path.write_bytes(b"# " + b"x" * (5 << 20)), "more than 4 MiB"),
        (lambda path: path.write_bytes(b""), "name: is missing"),
        (lambda path: path.write_bytes(b"\0"), "not valid TOML"),
    ],
)
def test_what_is_no_pipeline_file_is_one_sentence(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "p.toml"
    make(path)
    with pytest.raises(PipelineError, match=words) as refused:
        load(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5_000 + ".toml", "~nobody-of-that-name/p.toml", "/dev/null"])
def test_what_no_file_can_be_called_is_one_sentence(name: str) -> None:
    with pytest.raises(PipelineError) as refused:
        load(name)
    assert len(str(refused.value)) < 6_000


def test_python_that_is_nested_too_deep_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("x = " + "(" * 5_000 + ")" * 5_000 + "\ndef double(x):\n    return x\n")
    feature = '[[features]]\nname = "twice"\ntype = "float"\npython = "deep.py:double"\narguments = ["amount"]\n'
    with pytest.raises(PipelineError, match=r"deep\.py is not Python"):
        read(tmp_path, SMALLEST + feature)


def test_reading_a_file_runs_no_python_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even that of the package that a module is in."""
    ran = tmp_path / "ran"
    package = tmp_path / "strangers"
    package.mkdir()
    text = f"open({str(ran)!r}, 'w')\ndef double(x):\n    return x\n"
    for name in ("__init__.py", "inner.py"):
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    feature = (
        '[[features]]\nname = "twice"\ntype = "float"\npython = "strangers.inner:double"\narguments = ["amount"]\n'
    )
    assert read(tmp_path, SMALLEST + feature).feature_set
    assert not ran.exists()


def performance_of(folder: Path, text: str) -> Performance:
    return read(folder, f'{SMALLEST}\n[labels]\nhorizon = "2d"\n[performance]\n{text}').performance


def test_what_matters_has_defaults_and_is_set_by_name(tmp_path: Path) -> None:
    assert performance_of(tmp_path, "").minimum_effects == MINIMUM_EFFECTS
    found = performance_of(tmp_path, "minimum_effects = { auc = 0.05, precision = 0.1, rate = 2 }")
    assert found.minimum_effects == {**MINIMUM_EFFECTS, "auc": 0.05, "precision": 0.1, "rate": 2.0}
    assert found.costs is None


def test_errors_may_have_costs_and_a_rise_of_these_matters_from_a_twentieth_on(tmp_path: Path) -> None:
    found = performance_of(tmp_path, "costs = { false_positive = 1, false_negative = 50 }")
    assert found.costs == (1.0, 50.0)
    assert found.minimum_effects == {**MINIMUM_EFFECTS, "cost": 0.05}


def test_rules_on_what_scores_promise_know_what_matters(tmp_path: Path) -> None:
    text = f'{SMALLEST}\n[labels]\nhorizon = "2d"\n[performance]\nminimum_effects = {{ auc = 0.07 }}'
    found = {rule.minimum_effect for rule in read(tmp_path, text).alerts if rule.below_expected}
    assert found == {0.07}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("minimum_effects = { auk = 0.1 }", "auk"),
        ("minimum_effects = { auc = 0 }", "auc: 0 is out of range"),
        ("minimum_effects = { recall = 1.5 }", "recall: 1.5 is out of range"),
        ("minimum_effects = { cost = 0.1 }", "cost: needs costs; add for example costs = "),
        ("costs = { false_positive = 1 }", "false_negative"),
        ("costs = { false_positive = 0, false_negative = 0 }", "one of them must cost something"),
        ("costs = { false_positive = -1, false_negative = 1 }", "-1 is out of range"),
    ],
)
def test_a_mistake_in_what_matters_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PipelineError, match="performance") as caught:
        performance_of(tmp_path, text)
    assert sentence in str(caught.value)
