"""What the report is made of, read from ClickHouse's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, get_type_hints

#: Answers SQL with rows, each a mapping by column.
Query = Callable[[str], Sequence[Mapping[str, Any]]]

T = TypeVar("T")

#: Bars of a score distribution over [0, 1].
SCORE_BINS = 40

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Version:
    """A model version that scored: on what it was trained and which stretch of event time it served.

    The last two sets of times are None where nothing is known of them; ``training_auc`` may be NaN.
    """

    version: str
    first_ms: int
    last_ms: int
    n: int
    trained_from_ms: int | None
    trained_to_ms: int | None
    training_auc: float


@dataclass(frozen=True)
class Performance:
    """The AUC of one version in one window, with its 95 % range; NaN where labels do not determine it."""

    version: str
    start_ms: int
    end_ms: int
    realised: float
    low: float
    high: float
    n_labels: int


@dataclass(frozen=True)
class Report:
    """One drift report."""

    version: str
    metric: str
    test: str
    start_ms: int
    end_ms: int
    statistic: float
    signal: str
    n: int


@dataclass(frozen=True)
class AlertStep:
    """One change of an alert."""

    state: str
    rule: str
    severity: str
    version: str
    at_ms: int
    start_ms: int | None
    end_ms: int | None
    message: str
    action: str


@dataclass(frozen=True)
class Month:
    """The scores of one calendar month: how many in each of `SCORE_BINS`, and what came of the events."""

    start_ms: int
    histogram: tuple[int, ...]
    mean_score: float
    decisions: float

    @property
    def n(self) -> int:
        return sum(self.histogram)


@dataclass(frozen=True)
class Facts:
    """Everything that the page shows but what the demo measured itself.

    ``deciles``: metric -> version -> [(window start, window end, d1 … d9)]; ``training_deciles``: metric -> version ->
    (d1 … d9). ``outcome``: window -> share of positive labels, all versions together.
    """

    versions: tuple[Version, ...]
    performance: tuple[Performance, ...]
    reports: tuple[Report, ...]
    months: tuple[Month, ...]
    outcome: dict[int, float]
    deciles: dict[str, dict[str, list[tuple[int, int, tuple[float, ...]]]]]
    training_deciles: dict[str, dict[str, tuple[float, ...]]]
    alerts: tuple[AlertStep, ...]

    def windows(self) -> list[tuple[int, int, str]]:
        """List window and version of every PSI report: the columns of the heat map."""
        return sorted({(row.start_ms, row.end_ms, row.version) for row in self.reports if row.test == "psi"})

    def most_drifted(self, limit: int) -> list[str]:
        """Name the features whose largest PSI in any window is the largest; the score and the outcome are none.

        A version's few days of a month are passed over: there even weekdays are distributed differently.
        """
        worst: dict[str, float] = {}
        psi = [row for row in self.reports if row.test == "psi" and row.metric not in {"score", "outcome"}]
        enough = max((row.n for row in psi), default=0) / 3
        for row in psi:
            if row.n >= enough and not math.isnan(row.statistic):
                worst[row.metric] = max(row.statistic, worst.get(row.metric, 0.0))
        return sorted(worst, key=lambda name: (-worst[name], name))[:limit]


def read_facts(query: Query, pipeline: str) -> Facts:
    """Read the facts of one pipeline."""
    return Facts(
        versions=_read_versions(query, pipeline),
        performance=_read_performance(query, pipeline),
        reports=_read_reports(query, pipeline),
        months=_read_months(query, pipeline),
        outcome=_read_outcome(query, pipeline),
        **_read_deciles(query, pipeline),
        alerts=_read_alerts(query, pipeline),
    )


def _read_versions(query: Query, pipeline: str) -> tuple[Version, ...]:
    rows = query(
        "SELECT s.version AS version, first_ms, last_ms, n,"  # noqa: S608  # a pipeline's name is letters, digits, - and _
        " toUnixTimestamp64Milli(v.trained_from) AS from_ms, toUnixTimestamp64Milli(v.trained_to) AS to_ms,"
        " v.metrics['auc'] AS auc, v.version AS known"
        " FROM (SELECT version, count() AS n, toUnixTimestamp64Milli(min(event_time)) AS first_ms,"
        f" toUnixTimestamp64Milli(max(event_time)) AS last_ms FROM scores WHERE pipeline = '{pipeline}'"
        " GROUP BY version) AS s"
        f" LEFT JOIN (SELECT * FROM model_versions WHERE pipeline = '{pipeline}') AS v ON s.version = v.version"
        " ORDER BY first_ms, version"
    )
    return tuple(
        Version(
            row["version"],
            row["first_ms"],
            row["last_ms"],
            row["n"],
            row["from_ms"] if row["known"] else None,
            row["to_ms"] if row["known"] else None,
            _number(row["auc"]) if row["known"] else math.nan,
        )
        for row in rows
    )


def _read_performance(query: Query, pipeline: str) -> tuple[Performance, ...]:
    rows = query(
        "SELECT version, toUnixTimestamp64Milli(window_start) AS start_ms,"  # noqa: S608  # as above
        " toUnixTimestamp64Milli(window_end) AS end_ms, realised, low, high, n_labels FROM performance"
        f" WHERE pipeline = '{pipeline}' AND segment = 'all' AND measure = 'auc' AND label_maturity IS NOT NULL"
        " ORDER BY start_ms, version"
    )
    return _records(Performance, rows)


def _read_reports(query: Query, pipeline: str) -> tuple[Report, ...]:
    rows = query(
        "SELECT version, metric, test, toUnixTimestamp64Milli(window_start) AS start_ms,"  # noqa: S608  # as above
        " toUnixTimestamp64Milli(window_end) AS end_ms, statistic, signal, n_detection AS n FROM drift_reports"
        f" WHERE pipeline = '{pipeline}' AND segment = 'all' AND NOT startsWith(test, 'classic_')"
        " ORDER BY start_ms, version, metric, test"
    )
    return _records(Report, rows)


def _read_months(query: Query, pipeline: str) -> tuple[Month, ...]:
    rows = query(
        "SELECT month, groupArray(bin) AS bins, groupArray(n) AS counts, sum(total) / sum(n) AS mean_score,"  # noqa: S608  # as above
        " sum(positive) / sum(n) AS decisions FROM (SELECT toYYYYMM(event_time) AS month,"
        f" least({SCORE_BINS - 1}, toInt32(floor(score * {SCORE_BINS}))) AS bin, count() AS n, sum(score) AS total,"
        f" countIf(decision) AS positive FROM scores WHERE pipeline = '{pipeline}' GROUP BY month, bin)"
        " GROUP BY month ORDER BY month"
    )
    months = []
    for row in rows:
        histogram = [0] * SCORE_BINS
        for place, n in zip(row["bins"], row["counts"], strict=True):
            histogram[max(place, 0)] += n
        year, month = divmod(row["month"], 100)
        start = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
        months.append(Month(start, tuple(histogram), row["mean_score"], row["decisions"]))
    return tuple(months)


def _read_outcome(query: Query, pipeline: str) -> dict[int, float]:
    rows = query(
        "SELECT toUnixTimestamp64Milli(window_start) AS start_ms, sum(mean * labelled) / sum(labelled) AS share FROM"  # noqa: S608  # as above
        " (SELECT window_start, version, maxIf(value, decile = 'mean') AS mean,"
        " maxIf(value, decile = 'n') * (1 - maxIf(value, decile = 'null_rate')) AS labelled FROM model_metadata"
        f" WHERE pipeline = '{pipeline}' AND stage = 'scoring' AND segment = 'all' AND metric = 'outcome'"
        " GROUP BY window_start, version HAVING labelled > 0) GROUP BY window_start ORDER BY start_ms"
    )
    return {row["start_ms"]: float(row["share"]) for row in rows if row["share"] is not None}


def _read_deciles(query: Query, pipeline: str) -> dict[str, Any]:
    rows = query(
        "SELECT stage, metric, version, toUnixTimestamp64Milli(window_start) AS start_ms,"  # noqa: S608  # as above
        " toUnixTimestamp64Milli(window_end) AS end_ms, groupArray(decile) AS names, groupArray(value) AS values"
        f" FROM model_metadata WHERE pipeline = '{pipeline}' AND segment = 'all' AND match(decile, '^d[1-9]$')"
        " AND value IS NOT NULL GROUP BY stage, metric, version, window_start, window_end ORDER BY start_ms, version"
    )
    scoring: dict[str, dict[str, list[tuple[int, int, tuple[float, ...]]]]] = {}
    training: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in rows:
        by_name = dict(zip(row["names"], row["values"], strict=True))
        deciles = tuple(_number(by_name.get(f"d{n}")) for n in range(1, 10))
        if row["stage"] == "training":
            training.setdefault(row["metric"], {})[row["version"]] = deciles
        else:
            series = scoring.setdefault(row["metric"], {}).setdefault(row["version"], [])
            series.append((row["start_ms"], row["end_ms"], deciles))
    return {"deciles": scoring, "training_deciles": training}


def _read_alerts(query: Query, pipeline: str) -> tuple[AlertStep, ...]:
    rows = query(
        "SELECT state, rule, severity, version, toUnixTimestamp64Milli(at) AS at_ms,"  # noqa: S608  # as above
        " toUnixTimestamp64Milli(window_start) AS start_ms, toUnixTimestamp64Milli(window_end) AS end_ms, message,"
        f" action FROM alerts WHERE pipeline = '{pipeline}' ORDER BY end_ms, at_ms, rule, version"
    )
    return _records(AlertStep, rows)


def _records(kind: type[T], rows: Sequence[Mapping[str, Any]]) -> tuple[T, ...]:
    """Rows whose columns are the fields of ``kind``; NaN where a number is missing."""
    numbers = {name for name, hint in get_type_hints(kind).items() if hint is float}
    return tuple(
        kind(**{name: _number(value) if name in numbers else value for name, value in row.items()}) for row in rows
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def name_day(time_ms: int) -> str:
    """Name a UTC day: ``3 Mar 2013``."""
    day = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def name_window(start_ms: int, end_ms: int) -> str:
    """Name a window: ``Mar`` for a whole UTC month, else its first day, ``3 Mar``.

    Examples
    --------
    >>> name_window(1_362_096_000_000, 1_364_774_400_000)
    'Mar'
    """
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    name = _MONTHS[start.month - 1]
    is_month = start.day == 1 and 28 * _DAY_MS <= end_ms - start_ms <= 31 * _DAY_MS
    return name if is_month else f"{start.day} {name}"
