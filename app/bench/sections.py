"""What can be measured, by name, in the order of a whole run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.bench.contestants import OURS
from app.bench.drift_cost import measure_drift_cost
from app.bench.goals import GOALS
from app.bench.hook import measure_hook
from app.bench.lane import MISHAPS
from app.bench.latency import measure_latency
from app.bench.restore import measure_restore
from app.bench.run import BenchRun
from app.bench.soak import measure_soak
from app.bench.stages import measure_stages
from app.bench.state_figures import measure_state
from app.bench.throughput import measure_scaling, measure_stateless, measure_trees, measure_wide, measure_windows
from app.bench.workload import STATELESS


@dataclass(frozen=True)
class Section:
    """A part of the benchmark that can be run alone. ``by_default``: whether a whole run has it."""

    name: str
    help: str
    measure: Callable[[BenchRun], Awaitable[None]]
    by_default: bool = True


SECTIONS = (
    Section("stateless", "10 features, logistic regression, with all peers", measure_stateless),
    Section("windows", "3 windowed features over 5 000 cards", measure_windows),
    Section("trees", "HistGradientBoosting, 100 trees", measure_trees),
    Section("wide", "50 features", measure_wide),
    Section("scaling", "1, 2 and 4 workers over three times the events, with Kafka Streams", measure_scaling),
    Section("latency", "2 000 and 10 000 events/s, from due to read", measure_latency),
    Section("hook", "the scoring hook beside 5 000 events/s, and CPU of a request", measure_hook),
    Section("restore", "state back through Kafka, and memory of a worker", measure_restore),
    Section("state", "the state alone, by scripts/bench/state.py", measure_state),
    Section("drift-cost", "CPU that the drift statistics take", measure_drift_cost),
    Section("profile", "CPU by stage, sampled by py-spy", measure_stages),
    Section("soak", "memory, files and tail over --minutes at 2 000 events/s", measure_soak, by_default=False),
)


async def measure(run: BenchRun, names: tuple[str, ...], command: str) -> None:
    """Run sections one after another and judge the goals; one that fails is said, and the next goes on.

    The report is written after each, so that a run that is stopped has what it measured. A broker's first transactions
    take several times as long as its later ones, so it is warmed by a run that does not count.
    """
    run.say("A run that does not count warms the broker")
    await run.race(OURS, STATELESS, run.sizes.events)
    for section in SECTIONS:
        if section.name in names:
            run.figures.command = f"{command} --only {section.name}"
            started = time.monotonic()
            try:
                await section.measure(run)
            except MISHAPS as error:
                run.figures.skip(section.name, str(error) or repr(error))
            run.figures.judge(GOALS)
            run.figures.write(run.report)
            run.say(f"{section.name}: done in {time.monotonic() - started:.0f} s")
