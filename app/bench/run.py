"""What one run of the benchmark shares: the broker, the folder, the events already built, and the figures so far."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.adapters.kafka.model_announcer import announce
from app.bench.contestants import Contestant
from app.bench.lane import Child, Lane, Load, Meter, Race, wait_until_scored
from app.bench.outputs import Outputs, check_drift_counts
from app.bench.probe import wait_until_all_work
from app.bench.workload import START_MS, Workload
from app.figures import Figures
from app.settings import Settings
from models.versions.registry import Registry
from schemas.pipeline.spec import Delivery
from schemas.wire import ModelUpdate


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Parameters
    ----------
    events
        How many events a fast contestant gets where only ours run; three times as many where others do.
    rounds
        How often each contestant of a comparison runs, in turns; the medians count.
    seconds
        How long one latency measurement takes.
    minutes
        How long the soak takes.
    """

    events: int = 700_000
    rounds: int = 3
    seconds: float = 20.0
    minutes: float = 30.0

    @property
    def long_events(self) -> int:
        """Events of a run in which everybody is warm for most of it: heaps have grown, a JVM has compiled."""
        return 3 * self.events


@dataclass
class BenchRun:
    """Lanes on one broker, and figures. ``report``: folder for what a section writes beside them."""

    settings: Settings
    say: Callable[[str], None]
    sizes: Sizes
    report: Path
    figures: Figures = field(default_factory=Figures)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _loads: dict[tuple[int, int, int, int], Load] = field(default_factory=dict)
    _registered: dict[str, ModelUpdate] = field(default_factory=dict)

    @asynccontextmanager
    async def lane(self, workload: Workload, name: str, delivery: Delivery) -> AsyncIterator[tuple[Lane, Path]]:
        """Topics of one run, with the model announced; deleted at the end."""
        name = f"bench-{next(self._numbers):03d}-{name}"
        lane = Lane(name, workload, self.settings, self.settings.home / name)
        path = await lane.open(delivery)
        try:
            await announce(self.settings.kafka_access, lane.topics, self._release(workload))
            yield lane, path
        finally:
            await lane.close()

    async def load(self, lane: Lane, count: int, first: int = 0) -> None:
        """Fill the lane's events topic with the workload's events; those built once are sent again."""
        key = (lane.workload.columns, lane.workload.cards, count, first)  # all that an event depends on
        if key not in self._loads:
            self.say(f"Building {count:,} events …")
            self._loads.clear()  # those of one size at a time: they are what takes the memory
            self._loads[key] = await Load.build(lane.workload, count, first)
        await self._loads[key].send(self.settings.kafka_access, lane.topics.events)

    def _release(self, workload: Workload) -> ModelUpdate:
        if workload.name not in self._registered:
            trained, pipeline = workload.trained, workload.pipeline
            entry = Registry(self.settings.registry / workload.name).register(trained.manifest, trained.artifact)
            self._registered[workload.name] = ModelUpdate(
                model=pipeline.model.name,
                version="1.0.0",
                role="champion",
                uri=entry.uri,
                sha256=trained.manifest.artifact.sha256,
                feature_set=pipeline.feature_set,
                announced_at_ms=START_MS,
            )
        return self._registered[workload.name]

    async def race(self, contestant: Contestant, workload: Workload, count: int) -> Race:
        """Time one contestant over the first ``count`` events (or as many as it is given), and check its scores."""
        wanted = min(count, contestant.most)
        self.say(f"{workload.name}: {contestant.title}, {wanted:,} events")
        async with self.lane(workload, contestant.name, contestant.delivery) as (lane, pipeline):
            await self.load(lane, count)
            children: list[Child] = []
            try:
                children = contestant.start(lane, pipeline, self.say)
                with Meter([child.process.pid for child in children]) as meter:
                    from_ms = await wait_until_all_work(children) if len(children) > 1 else 0.0
                    whole = wanted == count
                    await wait_until_scored(lane, children, wanted, commits=contestant.commits and whole)
            finally:
                for child in children:
                    child.stop()
            outputs = await Outputs.read(lane)
            outputs.check(workload.expected(count), whole=whole)
            if contestant.counts:
                await check_drift_counts(lane, count)
            return Race.of(contestant.name, outputs.appended_ms, meter, from_ms)
