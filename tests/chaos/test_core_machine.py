"""P16 at full length: the flow of a partition under any interleaving."""

from __future__ import annotations

import pytest
from chaos_report import Row, seed_of
from flow_machine import FlowMachine
from machine_run import run_at_length


@pytest.mark.chaos_full
@pytest.mark.timeout(3600)
def test_whatever_happens_to_a_partition_a_thousand_times_over() -> None:
    what = "any interleaving of deliveries, crashes, versions, late labels, promises"
    run_at_length(
        FlowMachine,
        Row("P16", what, seed=seed_of("core machine")),
        oracle="the oracle",
        runs=1_000,
        steps=50,
        tell=lambda tally: f"{tally['scores']} scores, {tally['letters']} dead letters, {tally['joined']} labels",
    )
