from __future__ import annotations

import pytest
from flow_machine import FlowMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


@pytest.mark.slow
def test_whatever_happens_to_a_partition_what_is_committed_is_what_its_logs_say() -> None:
    run_state_machine_as_test(
        FlowMachine,
        settings=settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
