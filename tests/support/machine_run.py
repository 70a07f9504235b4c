"""A state machine of hypothesis at full length, as a row of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
from chaos_report import Row, record
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


def run_at_length(machine: Any, row: Row, *, oracle: str, runs: int, steps: int, tell: Callable[[Any], str]) -> None:
    """Run a machine, and record what came of it, a failure too.

    Parameters
    ----------
    machine
        Of hypothesis, with a ``tally`` of runs, events and whatever ``tell`` makes a note of.
    row
        The promise, the fault and the seed.
    oracle
        What the machine compares with.
    """
    hypothesis.seed(row.seed)(machine)
    machine.tally.clear()
    failure: BaseException | None = None
    try:
        run_state_machine_as_test(
            machine,
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
        tally, wrong = machine.tally, int(failure is not None)
        record(
            replace(
                row,
                load=f"{tally['runs']} runs of up to {steps} steps",
                events=tally["events"],
                faults=tally["crashes"] + tally["take-overs"],
                lost=wrong,
                doubled=wrong,
                wrong_counts=wrong,
                note=tell(tally) + (f" equal to {oracle}" if failure is None else f": {failure!r:.200}"),
            )
        )
