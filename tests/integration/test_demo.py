"""A short demo: real Kafka, worker, monitor and ClickHouse engine, the real commands, a swap in mid-stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIMIT = 12_000

#: (events, scored, …) that the summary must have at least.
PROMISED = {
    "events", "scored", "dead_letters", "lost", "doubled", "swaps", "seconds", "events_per_second", "drift_reports",
    "alerts", "auc_by_version", "auc_by_month", "peak_rss_mb", "clickhouse_rows",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    """Run the demo as a user would, in a folder of its own."""
    command = [sys.executable, "-P", "-m", "app", "demo", "--limit", str(LIMIT), "--retrain-at", "3000", "--json"]
    ended = subprocess.run(
        [*command, "--family", "logistic"], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_every_event_has_one_outcome_on_the_topics_and_in_clickhouse(summary: dict[str, Any]) -> None:
    assert summary.keys() >= PROMISED
    assert summary["events"] == LIMIT
    assert summary["scored"] + summary["dead_letters"] == LIMIT
    assert (summary["lost"], summary["doubled"], summary["unknown"]) == (0, 0, 0)
    assert [account["where"] for account in summary["ledger"]["accounts"]] == ["topics", "ClickHouse"]
    assert summary["ledger"]["faults"] == []
    assert summary["balanced"]


def test_a_new_version_takes_over_in_mid_stream_without_a_gap(summary: dict[str, Any]) -> None:
    assert summary["swaps"] == 1
    assert summary["versions"] == ["1.0.0", "1.1.0"]
    runs = summary["ledger"]["runs"]
    assert sum(run["n"] for run in runs) == summary["scored"]
    for partition in {run["partition"] for run in runs}:
        old, new = [run for run in runs if run["partition"] == partition]
        assert (old["version"], new["version"]) == ("1.0.0", "1.1.0")
        assert new["first_offset"] == old["last_offset"] + 1
        assert old["n"] > 0
        assert new["n"] > 0


def test_the_window_is_reported_once_the_stream_is_over(summary: dict[str, Any]) -> None:
    assert set(summary["auc_by_month"]) == {"2013-03"}
    assert set(summary["auc_by_version"]) == {"1.0.0", "1.1.0"}
    # A coin would have 0.5; with 12 000 events chance moves that by less than 0.02.
    assert all(0.55 < auc < 0.9 for auc in summary["auc_by_version"].values())
    assert summary["drift_reports"] > 0
    assert summary["clickhouse_tables"]["scores"] == summary["scored"]


def test_the_report_is_written_and_the_home_is_removed(summary: dict[str, Any], folder: Path) -> None:
    report = folder / "demo-report"
    assert json.loads((report / "summary.json").read_text()) == summary
    page = (report / "index.html").read_text()
    assert page.count("<svg") >= 3
    assert "Nothing was lost and nothing was scored twice." in page
    assert list((folder / ".streamgauge").iterdir()) == []


def test_all_processes_together_stay_below_three_gigabytes(summary: dict[str, Any]) -> None:
    assert summary["peak_rss_mb"] < 3_000


@pytest.mark.parametrize("option", ["", "--keep", "--home"])
def test_a_stopped_demo_says_so_and_what_is_left(tmp_path: Path, option: str) -> None:
    options = {"": [], "--keep": ["--keep"], "--home": ["--home", "mine"]}[option]
    command = [sys.executable, "-P", "-m", "app", "demo", "--limit", str(LIMIT), *options]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        demo.stderr.readline()  # it has begun
        demo.send_signal(signal.SIGINT)
        printed, said = demo.communicate(timeout=120)
    home = tmp_path / ("mine" if option == "--home" else ".streamgauge/demo-1")
    left = f"its files are kept in {home}" if option else "its files are removed"
    assert (demo.returncode, printed) == (130, ""), said
    assert said.splitlines()[-1] == f"The demo was stopped before its end: there is no report of it, and {left}."
    assert home.exists() == bool(option)
    assert not (tmp_path / "demo-report").exists()
