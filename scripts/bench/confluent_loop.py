"""The job in a bare confluent-kafka loop with numpy: batches by ``consume``, a ``produce`` per score.

Configured by the environment: KAFKA, INPUT, OUTPUT, GROUP, and what job.py reads.
"""

from __future__ import annotations

import os

from confluent_kafka import Consumer, Producer
from job import WITH_WINDOW, Score, Windows, decode, encode, score_batch


def main() -> None:
    """Run until killed."""
    servers, output = os.environ["KAFKA"], os.environ["OUTPUT"]
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": os.environ["GROUP"], "auto.offset.reset": "earliest"}
    )
    # librdkafka's advice for throughput: let batches fill, and room in the queue.
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000, "acks": "all"}
    )
    consumer.subscribe([os.environ["INPUT"]])
    windows: Windows | None = {} if WITH_WINDOW else None
    while True:
        records = consumer.consume(5000, 0.1)
        if not records:
            producer.poll(0)
            continue
        events = [decode(record.value()) for record in records]
        for event, score in zip(events, score_batch(events, windows), strict=True):
            producer.produce(output, encode(Score(event.id, event.card, score)), event.card.encode())
        producer.poll(0)


if __name__ == "__main__":
    main()
