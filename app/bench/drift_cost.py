"""What the drift statistics cost: the flow of a partition in this process, with its counts and without.

Measured on the core, because the product has no switch that leaves them out, and needs none. The pipelines keep no
state, so a flow that drains nothing differs from one that does by the counts alone.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from app.adapters.sources.features import compile_features
from app.bench.run import BenchRun
from app.bench.workload import STATELESS, TREES, WIDE, Workload
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ActiveModel, ChampionTimeline
from app.flow.step import FlowOutput
from app.pipeline import STEP_EVENTS, PartitionPipeline

_ROUNDS = 7
_BATCHES = 20
#: Batches that one commit of the default interval holds at full speed.
_BATCHES_PER_DRAIN = 2


async def measure_drift_cost(run: BenchRun) -> None:
    """CPU per event with drift statistics less CPU per event without, in turns."""
    for workload in (STATELESS, WIDE, TREES):
        run.say(f"drift cost: {workload.help}")
        batches, plan, models = _records(workload), compile_features(workload.pipeline), _models(workload)
        costs: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(_ROUNDS):
            for with_counts in (True, False):
                costs[with_counts].append(_cost_us(workload, plan, models, batches, with_counts=with_counts))
        with_counts_us, without_us = median(costs[True]), median(costs[False])
        differences = [a - b for a, b in zip(costs[True], costs[False], strict=True)]
        title = f"Drift statistics of {workload.help}"
        run.figures.add(f"drift-cost.{workload.name}", differences, "µs", f"{title}: CPU per event, µs")
        share = 100 * (with_counts_us - without_us) / with_counts_us
        run.figures.add(f"drift-cost.{workload.name}.share", share, "%", f"{title}: share of the core's CPU")


def _records(workload: Workload) -> list[RecordBatch]:
    batches = []
    for start in range(0, _BATCHES * STEP_EVENTS, STEP_EVENTS):
        records = [workload.event(number) for number in range(start, start + STEP_EVENTS)]
        batches.append(
            RecordBatch(
                topic=workload.pipeline.topics.events,
                partition=0,
                offsets=np.arange(start, start + STEP_EVENTS, dtype=np.int64),
                timestamps_ms=np.array([record[2] for record in records], dtype=np.int64),
                keys=[record[0] for record in records],
                values=[record[1] for record in records],
                headers=None,
            )
        )
    return batches


def _models(workload: Workload) -> ChampionTimeline:
    trained = workload.trained
    return ChampionTimeline([ActiveModel.champion(workload.pipeline, trained.manifest, trained.scorer)])


def _cost_us(
    workload: Workload, plan: FeaturePlan, models: ChampionTimeline, batches: list[RecordBatch], *, with_counts: bool
) -> float:
    outputs = FlowOutput.ALL if with_counts else FlowOutput.REPLAYED
    flow = PartitionPipeline(workload.pipeline, plan, 0, outputs=outputs)
    events = 0
    started = time.process_time()
    for number, batch in enumerate(batches):
        flow.receive_events(batch)
        while (step := flow.step(models, STEP_EVENTS, 0)) is not None:
            events += len(step.events)
        if with_counts and number % _BATCHES_PER_DRAIN == _BATCHES_PER_DRAIN - 1:
            flow.drain_sketch()
    return 1e6 * (time.process_time() - started) / events
