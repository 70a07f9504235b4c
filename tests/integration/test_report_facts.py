"""The report's SQL on the real engine: what is read is what was written, and nothing gives empty facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.demo.summary import count_rows
from app.report import read_facts
from app.report.facts import AlertStep, Performance, Report, Version

MARCH, APRIL = 1_362_096_000_000, 1_364_774_400_000
Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseWarehouse]:
    engine = ClickHouseWarehouse(path=Path(tmp_path_factory.mktemp("clickhouse")) / "engine")
    engine.migrate()
    _insert(engine)
    yield engine
    engine.close()


@pytest.fixture
def query(warehouse: ClickHouseWarehouse) -> Query:
    def ask(sql: str) -> list[dict[str, Any]]:
        answer = warehouse.query_readonly(sql, 1000).to_json()
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    return ask


def _insert(engine: ClickHouseWarehouse) -> None:
    n = 4
    who = {"pipeline": ["p"] * n, "model": ["m"] * n}
    window = {"window_start": [MARCH] * n, "window_end": [APRIL] * n}
    engine.insert(
        "scores",
        {
            **who,
            "customer_id": ["a"] * n,
            "event_id": list("wxyz"),
            "event_time": [MARCH, MARCH + 1, MARCH + 2, APRIL],
            "score": [0.0, 0.5, 1.0, 0.25],
            "decision": [False, True, True, False],
            "version": ["1.0.0", "1.0.0", "1.0.0", "1.1.0"],
            "role": ["champion"] * n,
            "features": [{}] * n,
            "topic": ["p.events"] * n,
            "partition": [0] * n,
            "offset": list(range(n)),
            "scored_at": [APRIL] * n,
        },
    )
    engine.insert(
        "model_versions",
        {
            "pipeline": ["p"], "model": ["m"], "version": ["1.0.0"], "role": ["champion"], "uri": [""], "sha256": [""],
            "feature_set": [""], "valid_from": [None], "trained_from": [MARCH - 2], "trained_to": [MARCH],
            "metrics": [{"auc": 0.75}], "updated_at": [MARCH],
        },
    )  # fmt: skip
    engine.insert(
        "performance",
        {
            **who, **window, "version": ["1.0.0"] * n, "segment": ["all"] * n,
            "measure": ["auc", "log_loss", "accuracy", "other"], "estimated": [math.nan] * n,
            "realised": [0.7, 0.6, 0.5, 0.4], "low": [0.6] * n, "high": [0.8] * n, "n_labels": [3] * n,
            "label_maturity": [1.0] * n,
        },
    )  # fmt: skip
    engine.insert(
        "drift_reports",
        {
            **who, **window, "version": ["1.0.0"] * n, "segment": ["all"] * n,
            "metric": ["temp", "hour", "score", "temp"],
            "test": ["psi", "psi", "psi", "ks"], "statistic": [0.1, 0.3, 0.9, math.nan], "p_value": [0.0] * n,
            "threshold": [0.2] * n, "effect": [0.0] * n, "n_reference": [9] * n, "n_detection": [3] * n,
            "signal": ["WARNING", "DRIFT", "DRIFT", "NONE"], "revision": [1] * n,
        },
    )  # fmt: skip
    statistics = [("scoring", "temp", f"d{k}", float(k)) for k in range(1, 11)]
    statistics += [("training", "temp", f"d{k}", float(-k)) for k in range(1, 11)]
    statistics += [
        ("scoring", "outcome", name, value) for name, value in (("mean", 0.5), ("n", 4.0), ("null_rate", 0.25))
    ]
    engine.insert(
        "model_metadata",
        {
            "pipeline": ["p"] * len(statistics), "model": ["m"] * len(statistics),
            "version": ["1.0.0"] * len(statistics),
            "stage": [row[0] for row in statistics], "segment": ["all"] * len(statistics),
            "metric": [row[1] for row in statistics], "decile": [row[2] for row in statistics],
            "value": [row[3] for row in statistics], "timestamp": [APRIL] * len(statistics),
            "window_start": [MARCH] * len(statistics), "window_end": [APRIL] * len(statistics),
        },
    )  # fmt: skip
    engine.insert(
        "alerts",
        {
            "alert_id": ["1"], "pipeline": ["p"], "rule": ["auc-fell"], "severity": ["critical"], "state": ["raised"],
            "model": ["m"], "version": ["1.0.0"], "at": [APRIL], "window_start": [MARCH], "window_end": [APRIL],
            "measure": ["auc"], "value": [0.7], "threshold": [0.72], "message": ["it fell"], "action": ["retrain"],
        },
    )  # fmt: skip


def test_the_facts_are_what_the_tables_hold(query: Query) -> None:
    facts = read_facts(query, "p")
    old, new = facts.versions
    assert old == Version("1.0.0", MARCH, MARCH + 2, 3, MARCH - 2, MARCH, 0.75)
    assert (new.version, new.n, new.trained_from_ms) == ("1.1.0", 1, None)
    assert math.isnan(new.training_auc)
    assert facts.performance == (Performance("1.0.0", MARCH, APRIL, 0.7, 0.6, 0.8, 3),)
    assert Report("1.0.0", "hour", "psi", MARCH, APRIL, 0.3, "DRIFT", 3) in facts.reports
    assert facts.most_drifted(5) == ["hour", "temp"]
    assert facts.windows() == [(MARCH, APRIL, "1.0.0")]
    assert facts.deciles["temp"] == {"1.0.0": [(MARCH, APRIL, tuple(map(float, range(1, 10))))]}
    assert facts.training_deciles["temp"] == {"1.0.0": tuple(float(-k) for k in range(1, 10))}
    assert facts.outcome == {MARCH: 0.5}
    assert facts.alerts == (
        AlertStep("raised", "auc-fell", "critical", "1.0.0", APRIL, MARCH, APRIL, "it fell", "retrain"),
    )


def test_a_score_of_one_belongs_to_the_last_bar_and_months_are_utc(query: Query) -> None:
    march, april = read_facts(query, "p").months
    assert (march.start_ms, april.start_ms) == (MARCH, APRIL)
    assert [place for place, n in enumerate(march.histogram) if n] == [0, 20, 39]
    assert march.mean_score == 0.5
    assert march.decisions == 2 / 3


def test_a_pipeline_without_rows_has_empty_facts(query: Query) -> None:
    facts = read_facts(query, "nobody")
    assert (facts.versions, facts.performance, facts.reports, facts.months, facts.alerts) == ((), (), (), (), ())
    assert set(count_rows(query, "nobody").values()) == {0}
    assert count_rows(query, "p")["scores"] == 4
