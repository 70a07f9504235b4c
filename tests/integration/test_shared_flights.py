"""Real flights at full speed through a worker, one of four partitions empty: the features are those of training."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
from pathlib import Path

import numpy as np
from worker_bench import Bench

from app.adapters.kafka.event_producer import EventProducer
from app.adapters.sources.features import compile_features
from app.adapters.sources.source import cut_with_promises, read_source
from app.kafka_access import KafkaAccess
from app.replay.offline import run
from schemas.pipeline.file import SHIPPED, load


def utc_ms(*parts: int) -> int:
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]  # ints alone


FROM_MS, TO_MS = utc_ms(2013, 3, 1), utc_ms(2013, 3, 12)


class FlightsBench(Bench):
    """The flights under a name of their own."""

    def __init__(self, kafka: KafkaAccess, folder: Path) -> None:
        super().__init__(kafka, folder, with_labels=True)
        for path in SHIPPED.glob("flights_*.py"):
            shutil.copy(path, folder)
        path = self.pipeline.path
        text = (SHIPPED / "flights.toml").read_text().replace('name = "flights"', f'name = "{self.pipeline.name}"')
        path.write_text(text.replace('name = "flights-late"', 'name = "m"'))
        self.pipeline = load(path)


def test_a_worker_serves_the_features_of_training_at_full_speed(kafka: KafkaAccess, tmp_path: Path) -> None:
    async def stream() -> FlightsBench:
        bench = FlightsBench(kafka, tmp_path)
        await bench.prepare()
        with bench.worker():
            async with EventProducer(kafka, bench.pipeline, lambda: 1_600_000_000_000) as producer:
                for chunk in read_source(bench.pipeline, FROM_MS, TO_MS):
                    await producer.send_encoded(chunk)
                sent = producer.events

            async def is_done() -> bool:
                return await committed(bench) >= sent

            await bench.until(is_done, 240)
        return bench

    async def committed(bench: FlightsBench) -> int:
        return len(await bench.scores())

    bench = asyncio.run(stream())
    expected: dict[str, list[float]] = {}
    plan = compile_features(bench.pipeline)
    for step in run(
        bench.pipeline, plan, cut_with_promises(read_source(bench.pipeline, FROM_MS, TO_MS), bench.pipeline), None
    ):
        expected.update(zip(step.events.event_id, step.matrix.tolist(), strict=True))
    scores = asyncio.run(bench.scores())
    served = {
        score.event_id: [np.nan if value is None else value for value in score.features.values()] for score in scores
    }

    assert len(scores) == len(served)
    assert served.keys() == expected.keys()
    assert not any(score.stale for score in scores)
    for event_id, row in expected.items():
        assert np.array(served[event_id]).tobytes() == np.array(row).tobytes(), event_id
    shared = [bench.pipeline.feature_names.index(name) for name in ("carrier_late_24h_all", "plane_late_24h_all")]
    assert np.isfinite(np.array(list(expected.values()))[:, shared]).mean(axis=0).min() > 0.4
