"""What workers tell each other of shared windows, searched further and drawn more often than the unit tests do."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_report import Row, seed_of
from machine_run import run_at_length
from shared_logs import Logs, Setting, Window, event
from shared_machine import SharedMachine
from shared_search import Search

PLAIN = Window("events", ("shop",), 2, 1, 0, "sum", "amount")
WIDER = Window("events", ("shop",), 4, 2, 1, "sum", "amount")
DIVIDED = Window("events", ("shop",), 2, 1, 0, "sum", "amount", is_divided=True)


def logs_of(*minutes: list[int]) -> Logs:
    logs = Logs.empty(len(minutes))
    for partition, of in enumerate(minutes):
        for minute in of:
            number = sum(map(len, logs.events))
            logs.events[partition].append(event(f"e{number}", minute, "a", float(2**number)))
    return logs


@pytest.mark.chaos_full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("windows", "minutes", "bounds"),
    [
        ([PLAIN], ([0, 1], [0, 6]), {"with_heirs": True}),
        ([PLAIN], ([0, 1], [0, 6]), {"is_slow": True}),
        ([PLAIN], ([0, 1], [0, 6]), {"crashes": 0, "changes": 2}),
        ([PLAIN], ([0, 5], [0, 9]), {"written": (1, 2)}),
        ([PLAIN, WIDER], ([0, 1], [0, 12]), {"most_states": 150_000}),
        ([DIVIDED], ([0], [6]), {"most_states": 100_000}),
        ([PLAIN, DIVIDED], ([0], [0, 6]), {"is_slow": True, "most_states": 60_000}),
    ],
    ids=["heirs", "slow commits", "take-overs", "late", "two hops", "divided", "some divided"],
)
def test_no_order_makes_a_window_wrong(
    tmp_path: Path, windows: list[Window], minutes: tuple[list[int], ...], bounds: dict[str, object]
) -> None:
    setting = Setting.of(tmp_path, windows, len(minutes), with_labels=False)
    search = Search(setting, logs_of(*minutes), (0, 1), **bounds)  # type: ignore[arg-type]  # each its own
    is_all = search.run()
    assert is_all or "most_states" in bounds


@pytest.mark.chaos_full
@pytest.mark.timeout(3600)
def test_whatever_happens_to_workers_that_share_windows_a_thousand_times_over() -> None:
    what = "any interleaving of telling, scoring, commits, take-overs, crashes, compaction of shared windows"
    run_at_length(
        SharedMachine,
        Row("shared windows", what, seed=seed_of("shared machine")),
        oracle="the definition",
        runs=2_000,
        steps=60,
        tell=lambda tally: f"{tally['scores']} scores, {tally['late']} late events",
    )
