"""Reads a pipeline file into a `Pipeline`, or says in one sentence what is wrong with it and how to mend it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import get_args

from schemas.pipeline.alerts import read_alerts
from schemas.pipeline.digest import digest_of
from schemas.pipeline.drift import read_drift
from schemas.pipeline.expression import suggest
from schemas.pipeline.features import check_name, check_python, read_features, read_lookups
from schemas.pipeline.hooks import read_destinations, read_hooks
from schemas.pipeline.spec import (
    LEAST_OF_DECISIONS,
    MINIMUM_EFFECTS,
    RELATIVE_MEASURES,
    Compression,
    Delivery,
    EventField,
    Events,
    FieldType,
    Labels,
    Limits,
    Model,
    Performance,
    Pipeline,
    PipelineError,
    Shared,
    State,
    StateStore,
    WrongPartition,
)
from schemas.pipeline.toml_table import TomlTable
from schemas.ranges import EARLIEST_TABLE_MS, LATEST_TABLE_MS, MOST_PARTITIONS

SHIPPED = Path(__file__).parents[1] / "pipelines"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}\Z")
_DAY_MS = 86_400_000
_LONGEST_PLURAL = 40
_MOST_BYTES = 4 << 20
#: A key of more parts than any table is deep.
_LONG_KEY = re.compile(r"""(?:(?:[\w-]{1,64}|"[^"\n]{0,64}"|'[^'\n]{0,64}')[ \t]*\.[ \t]*){100}""")

_KEYS = (
    *(
        "name",
        "partitions",
        "delivery",
        "commit_interval_ms",
        "compression",
        "publish_features",
        "source",
        "model",
        "events",
        "labels",
        "shared",
    ),
    *("lookups", "features", "drift", "performance", "alerts", "limits", "state"),
    *("hooks", "destinations"),
)


def load(name_or_path: str | Path) -> Pipeline:
    """Read and check a pipeline file.

    Parameters
    ----------
    name_or_path
        The name of a shipped pipeline ("flights"), or the path of a file (anything with a slash or ending in .toml).

    Raises
    ------
    PipelineError
        One sentence naming the file, the key and the fix.
    """
    path = _find(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise PipelineError(f"{path}: more than {_MOST_BYTES >> 20} MiB, which is no pipeline file; give another.")
        text = data.decode()
        # For a key of very many parts, tomllib's time grows with the square of their number.
        values = tomllib.loads(text) if not _LONG_KEY.search(text) else None
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not UTF-8 text; save it as UTF-8.") from None
    except ValueError as error:  # numbers of thousands of digits raise no TOMLDecodeError
        quote = ", where a quote may be missing" if "Illegal character '\\n'" in str(error) else ""
        raise PipelineError(f"{path}: not valid TOML: {error!s:.300}{quote}; correct that place.") from None
    except RecursionError:
        values = None
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions.") from None
    if values is None:
        raise PipelineError(f"{path}: lists or tables are nested too deep; a pipeline file needs five levels.")
    return _read(TomlTable(str(path), "", values), path.absolute())


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, str) and "/" not in text and not text.endswith(".toml"):
        shipped = sorted(path.stem for path in SHIPPED.glob("*.toml"))
        if text not in shipped:
            raise PipelineError(
                f'There is no shipped pipeline "{text}" (a path ends in .toml); {suggest(text, shipped)}'
            )
        return SHIPPED / f"{text}.toml"
    try:
        path = Path(text).expanduser()
        is_file, is_there = path.is_file(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have; a home that nobody has
        words = getattr(error, "strerror", None) or str(error)
        raise PipelineError(f"{text:.200}: no path of a file ({words}); give that of a pipeline file.") from None
    if not is_file:
        what = "not a plain file" if is_there else "there is no such file"
        raise PipelineError(f"{path}: {what}; give the path of a pipeline file, or the name of a shipped one.")
    return path


def _read(top: TomlTable, path: Path) -> Pipeline:
    top.allow(*_KEYS)
    name = top.text("name", fix='for example name = "payments"')
    if not _NAME.match(name):
        top.fail("name", f'"{name}" cannot begin the names of topics; use a-z, 0-9, - and _, at most 100 characters')
    events = _read_events(top)
    labels = _read_labels(top) if "labels" in top else None
    lookups = read_lookups(top, events.fields)
    features = read_features(top, events, lookups, path.parent, with_labels=labels is not None)
    delivery = top.word("delivery", get_args(Delivery), "exactly_once")
    # Commits come soon where somebody waits for them: readers of scores, or other partitions that share windows.
    is_awaited = delivery == "exactly_once" or any(f.window and f.window.delay_ms is not None for f in features)
    drift = read_drift(top, features, with_labels=labels is not None)
    source = check_python(top, "source", top.text("source"), path.parent) if "source" in top else None
    pipeline = Pipeline(
        name=name,
        path=path,
        partitions=top.integer("partitions", 4, low=1, high=MOST_PARTITIONS),
        delivery=delivery,
        commit_interval_ms=top.integer("commit_interval_ms", 75 if is_awaited else 500, low=0, high=60_000),
        compression=top.word("compression", get_args(Compression), "zstd"),
        publish_features=top.flag("publish_features", default=True),
        source=source,
        events=events,
        labels=labels,
        shared=_read_shared(top),
        lookups=lookups,
        features=features,
        model=_read_model(top, name, events),
        drift=drift,
        performance=_read_performance(top, labels),
        alerts=(),
        limits=_read_limits(top),
        state=_read_state(top),
        digest="",
    )
    watches = {"with_labels": labels is not None, "watches_entities": pipeline.watches_entities}
    pipeline = dataclasses.replace(pipeline, alerts=read_alerts(top, drift, pipeline.performance, **watches))
    # Whom it is told to changes nothing of what is computed.
    left_out = {"path", "digest", "hooks", "destinations"}
    form = {key: value for key, value in dataclasses.asdict(pipeline).items() if key not in left_out}
    destinations = read_destinations(top, path.parent)
    hooks = read_hooks(top, pipeline, destinations)
    return dataclasses.replace(pipeline, digest=digest_of(form), hooks=hooks, destinations=destinations)


def _read_events(top: TomlTable) -> Events:
    table = top.table("events", required=True, fix="[events] with entity, id, time and fields")
    keys = (
        "entity",
        "id",
        "time",
        "earliest",
        "latest",
        "max_ahead",
        "plural",
        "wrong_partition",
        "repartition",
        "fields",
    )
    table.allow(*keys)
    fields = _read_fields(table)
    entity = table.text("entity", fix='the field that says whom an event is about, for example entity = "customer"')
    event_id = table.text("id", fix='the field that names an event, for example id = "payment_id"')
    time = table.text("time", fix='the field that holds the event time in ms, for example time = "time_ms"')
    for key, name, type_ in (("entity", entity, "string"), ("id", event_id, "string"), ("time", time, "int")):
        time_field = next((field for field in fields if field.name == name), None)
        if time_field is None:
            table.fail(key, f'there is no field "{name}" in [events.fields]; {suggest(name, [f.name for f in fields])}')
        if time_field.type != type_ or time_field.nullable:
            table.fail(
                key, f'the field "{name}" must be "{type_}", and not nullable; change its type in [events.fields]'
            )
    earliest_ms = table.time_ms("earliest", dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
    latest_ms = table.time_ms("latest", dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    if latest_ms <= earliest_ms:
        table.fail("latest", "must be after earliest; swap them")
    for key, time_ms in (("earliest", earliest_ms), ("latest", latest_ms)):
        if not EARLIEST_TABLE_MS <= time_ms <= LATEST_TABLE_MS:
            table.fail(key, "is beyond what a table of ClickHouse can hold; use a time from 1900 to 2299")
    plural = table.text("plural", Events.plural, fix='what verdicts call the events, for example plural = "payments"')
    if len(plural) > _LONGEST_PLURAL or not all(word.isalpha() for word in plural.split(" ")):
        table.fail(
            "plural",
            f'"{plural}" is no plural noun for a sentence; use letters and single spaces, at most {_LONGEST_PLURAL}',
        )
    repartition = table.flag("repartition", default=False)
    if repartition and "wrong_partition" in table:
        table.fail(
            "wrong_partition", "does not go with repartition = true, which leaves none wrong; remove one of them"
        )
    return Events(
        entity,
        event_id,
        time,
        fields,
        earliest_ms,
        latest_ms,
        table.duration("max_ahead", "1d"),
        plural,
        table.word("wrong_partition", get_args(WrongPartition), Events.wrong_partition),
        repartition,
    )


def _read_fields(events: TomlTable) -> tuple[EventField, ...]:
    table = events.table("fields", required=True, fix='[events.fields] with lines as amount = "float"')
    types = get_args(FieldType)
    fields = []
    for name in table.keys():  # noqa: SIM118  # not a dict
        check_name(table, name, name)
        if name in {"event_time", "label"}:
            table.fail(
                name,
                f'the name "{name}" is taken for the {name.replace("_", " ")} itself; call the field something else',
            )
        word = table.text(name)
        bare = word.removesuffix("?")
        if bare not in types:
            table.fail(
                name, f'"{word}" is not a type; use string, float, int or bool, with ? at the end where null is allowed'
            )
        fields.append(EventField(name, bare, nullable=word.endswith("?")))  # type: ignore[arg-type]  # one of FieldType, just checked
    if not fields:
        table.fail("", 'names no field; add lines as amount = "float"')
    return tuple(fields)


def _read_labels(top: TomlTable) -> Labels:
    table = top.table("labels")
    table.allow("horizon", "max_wait")
    return Labels(table.duration("horizon", "7d", least_ms=1), table.duration("max_wait", "5s"))


def _read_shared(top: TomlTable) -> Shared:
    table = top.table("shared")
    table.allow("idle", "max_wait")
    return Shared(table.duration("idle", "1s"), table.duration("max_wait", "30s"))


def _read_model(top: TomlTable, pipeline: str, events: Events) -> Model:
    table = top.table("model")
    table.allow("name", "target", "threshold", "score_from")
    name = table.text("name", pipeline)
    if not _NAME.match(name):
        table.fail("name", f'"{name}" cannot be the name of a model; use a-z, 0-9, - and _, at most 100 characters')
    score_from_ms = table.time_ms("score_from") if "score_from" in table else None
    if score_from_ms is not None and score_from_ms >= events.latest_ms:
        table.fail("score_from", "is not before latest in [events], and nothing would be scored; write an earlier time")
    return Model(name, table.number("threshold", 0.5, low=0, high=1), table.text("target", ""), score_from_ms)


def _read_performance(top: TomlTable, labels: Labels | None) -> Performance:
    table = top.table("performance")
    table.allow("maturity", "minimum_effects", "costs")
    costs = _read_costs(table)
    effects = _read_minimum_effects(table, has_costs=costs is not None)
    horizon_ms = labels.horizon_ms if labels is not None else None
    if "maturity" not in table:
        maturity_ms = _DAY_MS if horizon_ms is None else min(_DAY_MS, horizon_ms)
        return Performance(maturity_ms, effects, costs)
    maturity_ms = table.duration("maturity")
    if horizon_ms is not None and maturity_ms > horizon_ms:
        table.fail(
            "maturity",
            f'"{table.text("maturity")}" is longer than labels.horizon, after which no label counts: windows would be'
            " judged later, and by no more labels; make it at most that, or the horizon longer",
        )
    return Performance(maturity_ms, effects, costs)


def _read_costs(table: TomlTable) -> tuple[float, float] | None:
    if "costs" not in table:
        return None
    given = table.table("costs")
    given.allow("false_positive", "false_negative")
    costs = given.number("false_positive", low=0, high=1e12), given.number("false_negative", low=0, high=1e12)
    if not any(costs):
        given.fail("false_negative", "is 0 as false_positive is; one of them must cost something")
    return costs


def _read_minimum_effects(table: TomlTable, *, has_costs: bool) -> dict[str, float]:
    given = table.table("minimum_effects")
    measures = ("auc", "accuracy", "precision", "recall", "f1", "log_loss", "cost")
    given.allow(*measures, "rate", "calibration")
    if "cost" in given and not has_costs:
        given.fail("cost", "needs costs; add for example costs = { false_positive = 1, false_negative = 50 }")
    effects = {**MINIMUM_EFFECTS, **({"cost": LEAST_OF_DECISIONS["cost"]} if has_costs else {})}
    for name in (*measures, "rate", "calibration"):
        if name in given:
            effects[name] = given.number(name, low=1e-6, high=10 if name in {*RELATIVE_MEASURES, "rate"} else 1)
    return effects


def _read_state(top: TomlTable) -> State:
    table = top.table("state")
    table.allow("store", "cached_keys")
    store = table.word("store", get_args(StateStore), "memory")
    if "cached_keys" in table and store == "memory":
        table.fail("cached_keys", 'is for a state on disk; remove it or use store = "disk"')
    return State(store, table.integer("cached_keys", State.cached_keys, low=1))


def _read_limits(top: TomlTable) -> Limits:
    table = top.table("limits")
    table.allow("consecutive", "share", "of_last")
    return Limits(
        consecutive=table.integer("consecutive", 1000, low=1),
        share=table.number("share", 0.5, low=0, high=1),
        of_last=table.integer("of_last", 5000, low=1),
    )
