"""P16 at full length: the flow of a partition under any interleaving."""

from __future__ import annotations

import hypothesis
import pytest
from chaos_report import Row, record, seed_of
from flow_machine import FlowMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


@pytest.mark.chaos_full
@pytest.mark.timeout(3600)
def test_whatever_happens_to_a_partition_a_thousand_times_over() -> None:
    seed = seed_of("core machine")
    runs, steps = 1_000, 50
    hypothesis.seed(seed)(FlowMachine)
    FlowMachine.tally.clear()
    failure: BaseException | None = None
    try:
        run_state_machine_as_test(
            FlowMachine,
            settings=settings(
                max_examples=runs,
                stateful_step_count=steps,
                derandomize=False,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:  # whatever it was, the report says it
        failure = error
        raise
    finally:
        tally = FlowMachine.tally
        wrong = int(failure is not None)
        record(
            Row(
                "P16",
                "any interleaving of deliveries, crashes, versions, late labels, promises",
                seed=seed,
                load=f"{tally['runs']} runs of up to {steps} steps",
                events=tally["events"],
                faults=tally["crashes"],
                lost=wrong,
                doubled=wrong,
                wrong_counts=wrong,
                note=f"{tally['scores']} scores, {tally['letters']} dead letters, {tally['joined']} labels"
                + (" equal to the oracle" if failure is None else f": {failure!r:.200}"),
            )
        )
