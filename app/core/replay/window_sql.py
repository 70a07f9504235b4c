"""The windows of a pipeline as SQL for ClickHouse, written from their definition alone, to check the core.

It reads two tables of a scratch database, ``events`` (partition, seq, time_ms, event_id, counts, one column per field
used) and ``labels`` (partition, seq, time_ms, event_id, label), where ``seq`` numbers each partition's log. Effective
times and which label belongs to which event are worked out in SQL as well. Each window then joins reads with the
updates that they see, which is slow and simple.
"""
# ruff: noqa: S608  # numbers, and the names of a pipeline's fields, which are words

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.pipeline.spec import EventField, Pipeline, WindowSpec

_DAY_MS = 86_400_000
#: The place of a label that no event follows.
_AFTER_ALL = 2**60

#: Null stays null: least and greatest pass over it.
_FIXED = "if(isNull({x}), NULL, toInt64(roundBankers(greatest(least({x}, 4398046511104.), -4398046511104.) * 1048576)))"

#: Aggregate -> its SQL over updates ``u`` (``x``: the field) and one read ``r``.
_AGGREGATES: dict[str, Callable[[WindowSpec], str]] = {
    "count": lambda _: "toFloat64(count())",
    "rate": lambda window: f"count() / {window.size_ms / 1000!r}",
    "sum": lambda _: f"ifNull(sum({_FIXED.format(x='u.x')}), 0) / 1048576",
    "mean": lambda _: f"sum({_FIXED.format(x='u.x')}) / 1048576 / count(u.x)",
    "variance": lambda _: (
        "if(count(u.x) BETWEEN 2 AND 2097152,"
        " toFloat64(toInt256(count(u.x)) * sum(toInt256({0}) * toInt256({0}))"
        " - sum(toInt256({0})) * sum(toInt256({0})))"
        " / (toFloat64(count(u.x)) * (count(u.x) - 1)) / pow(2, 40), NULL)"
    ).format(f"ifNull({_FIXED.format(x='u.x')}, 0)"),
    "min": lambda _: "min(u.x)",
    "max": lambda _: "max(u.x)",
    "last": lambda _: "argMaxIf(u.x, (u.time_ms, u.at, u.nth), isNotNull(u.x))",
    "time_since_last": lambda _: "greatest(any(r.time_ms) - max(u.time_ms), 0) / 1000",
    "distinct": lambda _: "toFloat64(uniqExactIf(u.x, isNotNull(u.x)))",
    "share": lambda _: "countIf(u.x != 0) / count(u.x)",
}
#: The other aggregates of no update are missing.
ZERO_OF_NONE = frozenset({"count", "rate", "sum", "distinct"})


@dataclass(frozen=True)
class WindowQuery:
    """One window feature: its column of the feature matrix, and the SQL of its values for a range of reads."""

    feature: str
    column: int
    window: WindowSpec
    sql: str

    def for_reads(self, start: int, stop: int) -> str:
        """SQL of (partition, seq, value) for the events ``start`` <= seq < ``stop`` of each partition.

        Events that see no update are left out, unless their key is null.
        """
        nulls = " OR ".join(f"isNull({column})" for column in _columns(self.window.key))
        without_key = (
            "SELECT partition, seq, CAST(NULL AS Nullable(Float64)) AS value FROM reads"
            f" WHERE seq >= {start} AND seq < {stop} AND counts AND ({nulls})"
        )
        return f"{self.sql.format(start=start, stop=stop)} UNION ALL {without_key}"


def fields_used(pipeline: Pipeline) -> tuple[EventField, ...]:
    """The event fields that windows are keyed by or made of; features that windows read count as float fields."""
    names = {name for feature in pipeline.features if feature.window for name in feature.window.reads}
    fields = [field for field in pipeline.events.fields if field.name in names]
    others = sorted(names - {field.name for field in fields})
    return (*fields, *(EventField(name, "float", nullable=True) for name in others))


def unsupported(pipeline: Pipeline) -> tuple[str, ...]:
    """Window features whose aggregate has no SQL here."""
    return tuple(
        feature.name
        for feature in pipeline.features
        if feature.window is not None and feature.window.aggregate not in _AGGREGATES
    )


def create_tables(pipeline: Pipeline) -> list[str]:
    """The statements that create ``events`` and ``labels``."""
    fields = "".join(
        f", {_column(field.name)} Nullable({'String' if field.type == 'string' else 'Float64'})"
        for field in fields_used(pipeline)
    )
    order = "ENGINE = MergeTree ORDER BY (partition, seq)"
    place = "partition Int32, seq Int64, time_ms Int64, event_id String"
    return [
        f"CREATE TABLE events ({place}, counts UInt8{fields}) {order}",
        f"CREATE TABLE labels ({place}, label Float64) {order}",
    ]


def derive_tables(pipeline: Pipeline) -> list[str]:
    """The statements that work out effective times, and the labels that count, from what was loaded."""
    order = "ENGINE = MergeTree ORDER BY (partition, seq) AS"
    effective = "max(time_ms) OVER (PARTITION BY partition ORDER BY seq) AS effective_ms"
    reads = f"CREATE TABLE reads {order} SELECT *, {effective} FROM events"
    if pipeline.labels is None:
        return [reads]
    carried = "".join(f", e.{_column(field.name)} AS {_column(field.name)}" for field in fields_used(pipeline))
    # A label comes before the first event whose effective time is not older than its own.
    placed = (
        f"CREATE TABLE placed {order} SELECT l.*, ifNull(s.first_seq, {_AFTER_ALL}) AS place"
        f" FROM (SELECT *, {effective} FROM labels) AS l ASOF LEFT JOIN"
        " (SELECT partition, effective_ms, min(seq) AS first_seq FROM reads GROUP BY partition, effective_ms) AS s"
        " ON l.partition = s.partition AND l.effective_ms <= s.effective_ms"
    )
    # A label belongs to the newest event with its id before it. The first such label counts, unless the event is
    # forgotten.
    outcomes = (
        f"CREATE TABLE outcomes {order} SELECT * FROM (SELECT l.partition AS partition, l.seq AS seq, l.place AS place,"
        f" l.time_ms AS time_ms, l.effective_ms AS effective_ms, l.label AS label{carried}, e.effective_ms AS event_ms,"
        " w.effective_ms AS watermark_ms, row_number() OVER (PARTITION BY l.partition, e.seq ORDER BY l.seq) AS nth"
        " FROM (SELECT * FROM placed WHERE event_id != '') AS l"
        " ASOF JOIN reads AS e ON l.partition = e.partition AND l.event_id = e.event_id AND l.place > e.seq"
        " ASOF JOIN reads AS w ON l.partition = w.partition AND l.place > w.seq)"
        f" WHERE nth = 1 AND event_ms >= watermark_ms - {pipeline.labels.horizon_ms}"
    )
    return [reads, placed, outcomes]


def window_queries(pipeline: Pipeline) -> list[WindowQuery]:
    """A query for each window feature, in the order of the features."""
    queries = []
    for column, feature in enumerate(pipeline.features):
        window = feature.window
        if window is None or window.aggregate not in _AGGREGATES:
            continue
        sql = _own(pipeline, window) if window.delay_ms is None else _shared(window)
        queries.append(WindowQuery(feature.name, column, window, sql))
    return queries


def _own(pipeline: Pipeline, window: WindowSpec) -> str:
    """A window over a key that holds the entity: earlier records in the partition's own order."""
    hop, tiles = window.hop_ms, window.size_ms // window.hop_ms
    ring = max(other.size_ms // hop for other in _sharing(pipeline, window))
    retain = ring - (-(pipeline.events.max_ahead_ms + _DAY_MS) // hop)
    names, keys = _names(window.key), ("partition", *_columns(window.key))
    before = "<" if window.of == "events" else "<="
    updates = _updates(window, hop, "time_ms")
    # The newest tile before the read, of the key and of any key: tiles much older than these are no longer kept.
    newest = (
        f"SELECT partition, {names}, at, max(tile) OVER (PARTITION BY partition, {names} ORDER BY at) AS newest"
        f" FROM (SELECT partition, {names}, at, max(tile) AS tile FROM ({updates}) GROUP BY partition, {names}, at)"
    )
    clock = (
        "SELECT partition, at, max(tile) OVER (PARTITION BY partition ORDER BY at) AS clock"
        f" FROM (SELECT partition, at, max(tile) AS tile FROM ({updates}) GROUP BY partition, at)"
    )
    reads = (
        f"SELECT *, {_tile('time_ms', hop)} AS tile, ifNull(max(tile) OVER (PARTITION BY partition ORDER BY seq"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1000000000000000) AS read_clock"
        " FROM reads"
    )
    lowest = (
        f"greatest(r.tile - {tiles}, ifNull(k.newest, -1000000000000000) - {ring},"
        f" greatest(r.read_clock, ifNull(c.clock, -1000000000000000)) - {retain})"
    )
    # A late read counts different values seen since its window began, also those seen after the window.
    highest = "greatest(r.tile, ifNull(k.newest, r.tile))" if window.aggregate == "distinct" else "r.tile"
    bounded = (
        f"SELECT r.*, {lowest} AS lowest, {highest} AS highest FROM"
        f" (SELECT * FROM ({reads}) WHERE seq >= {{start}} AND seq < {{stop}} AND counts) AS r"
        f" ASOF LEFT JOIN ({newest}) AS k ON {_equal(keys, 'r', 'k')} AND k.at {before} r.seq"
        f" ASOF LEFT JOIN ({clock}) AS c ON r.partition = c.partition AND c.at {before} r.seq"
    )
    return _join(window, bounded, updates, keys, f"AND u.at {before} r.seq")


def _shared(window: WindowSpec) -> str:
    """A window over any other key: tiles of all partitions that ended at least the delay ago, by effective time."""
    hop, tiles = window.hop_ms, window.size_ms // window.hop_ms
    newest = f"({_tile(f'effective_ms - {window.delay_ms}', hop)} - 1)"
    bounded = (
        f"SELECT *, {newest} - {tiles} AS lowest, {newest} AS highest FROM reads"
        " WHERE seq >= {start} AND seq < {stop} AND counts"
    )
    return _join(window, bounded, _updates(window, hop, "effective_ms"), _columns(window.key), "")


def _join(window: WindowSpec, reads: str, updates: str, keys: Sequence[str], order: str) -> str:
    """Reads with the updates of their keys in the tiles lowest < tile <= highest, joined a window's tiles at a time."""
    tiles = window.size_ms // window.hop_ms
    buckets = f"SELECT *, arrayJoin(range({_tile('lowest + 1', tiles)}, {_tile('highest', tiles)} + 1)) AS bucket"
    return (
        "SELECT r.partition AS partition, r.seq AS seq,"
        f" CAST({_AGGREGATES[window.aggregate](window)} AS Nullable(Float64)) AS value"
        f" FROM ({buckets} FROM ({reads}) WHERE highest > lowest) AS r"
        f" JOIN (SELECT *, {_tile('tile', tiles)} AS bucket FROM ({updates})) AS u"
        f" ON {_equal((*keys, 'bucket'), 'r', 'u')}"
        f" WHERE u.tile > r.lowest AND u.tile <= r.highest {order} GROUP BY r.partition, r.seq"
    )


def _updates(window: WindowSpec, hop: int, time: str) -> str:
    table, at, nth = ("reads", "seq", "0") if window.of == "events" else ("outcomes", "place", "seq")
    value = {None: "1", "label": "toNullable(label)"}.get(window.field) or _column(str(window.field))
    return (
        f"SELECT partition, {_names(window.key)}, {at} AS at, {nth} AS nth, time_ms, {_tile(time, hop)} AS tile,"
        f" {value} AS x FROM {table}"
    )


def _sharing(pipeline: Pipeline, window: WindowSpec) -> list[WindowSpec]:
    """The windows that share a store with this window."""
    place = window.of, window.key, window.hop_ms
    return [
        other
        for feature in pipeline.features
        if (other := feature.window) is not None
        and other.delay_ms is None
        and (other.of, other.key, other.hop_ms) == place
    ]


def _tile(expression: str, size: int) -> str:
    """The floor of a division, for negative numbers too."""
    return f"intDiv({expression} - positiveModulo({expression}, {size}), {size})"


def _equal(columns: Sequence[str], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{column} = {right}.{column}" for column in columns)


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_column(name) for name in names)


def _names(names: Sequence[str]) -> str:
    return ", ".join(_columns(names))


def _column(field: str) -> str:
    """A field's column: field names are words, and no column of ours begins like this."""
    return f"`f_{field}`"
