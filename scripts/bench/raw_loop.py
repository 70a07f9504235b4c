"""The job in a bare aiokafka loop with numpy: as fast as Python gets when nothing is promised.

No drift counts, no dead letters, no transactions; offsets are committed by time, and windows are in a dict that no
crash survives. Configured by the environment: KAFKA, INPUT, OUTPUT, GROUP, and what job.py reads.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from job import WITH_WINDOW, Score, Windows, decode, encode, score_batch


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["INPUT"],
        bootstrap_servers=os.environ["KAFKA"],
        group_id=os.environ["GROUP"],
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA"], max_batch_size=900_000)
    await consumer.start()
    await producer.start()
    windows: Windows | None = {} if WITH_WINDOW else None
    sent: list[asyncio.Future[Any]] = []
    while True:
        for tp, records in (await consumer.getmany(timeout_ms=1000)).items():
            events = [decode(record.value) for record in records]
            batch = producer.create_batch()
            for event, score in zip(events, score_batch(events, windows), strict=True):
                key, value = event.card.encode(), encode(Score(event.id, event.card, score))
                if batch.append(key=key, value=value, timestamp=None) is None:
                    sent.append(await producer.send_batch(batch, os.environ["OUTPUT"], partition=tp.partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            sent.append(await producer.send_batch(batch, os.environ["OUTPUT"], partition=tp.partition))
        # Failures are seen a round later; nothing waits for an acknowledgement.
        for done in [future for future in sent if future.done()]:
            done.result()
            sent.remove(done)


if __name__ == "__main__":
    asyncio.run(main())
