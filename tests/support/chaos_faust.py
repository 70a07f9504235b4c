"""The negative control: the same job as users of Faust write it, with Faust's own delivery and a Faust table.

Counts the earlier events of each card and publishes the count as the feature ``count_1h`` of a score. Run as
``chaos_faust.py worker``; configured by the environment: KAFKA, GROUP, EVENTS, SCORES, PARTITIONS, GUARANTEE
(at_least_once or exactly_once), COMMIT_S.
"""

from __future__ import annotations

import json
import os
from typing import Any

import faust

from schemas.wire import Score, Source, encode_json


def build(environment: dict[str, str]) -> faust.App:
    """The app, as Faust's guide shows it."""
    app = faust.App(
        environment["GROUP"],
        broker=f"kafka://{environment['KAFKA']}",
        store="memory://",
        processing_guarantee=environment["GUARANTEE"],
        topic_partitions=int(environment["PARTITIONS"]),
        topic_replication_factor=1,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=float(environment["COMMIT_S"]),
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        web_enabled=False,
    )
    events = app.topic(environment["EVENTS"], value_serializer="raw", key_serializer="raw")
    scores = app.topic(environment["SCORES"], value_serializer="raw", key_serializer="raw")
    counts: Any = app.Table("counts", default=int, partitions=int(environment["PARTITIONS"]))

    async def count(stream: Any) -> None:
        async for event in stream.events():
            body = json.loads(event.value)
            card, message = body["card"], event.message
            earlier = counts[card]
            counts[card] = earlier + 1
            score = Score(
                event_id=body["id"],
                entity=card,
                event_time_ms=body["at_ms"],
                score=0.5,
                decision=False,
                model="m",
                version="1.0.0",
                role="champion",
                feature_set="",
                source=Source(environment["EVENTS"], message.partition, message.offset),
                scored_at_ms=0,
                features={"count_1h": float(earlier)},
            )
            await scores.send(key=card.encode(), value=encode_json(score), partition=message.partition)

    app.agent(events)(count)
    return app


if __name__ == "__main__":
    build(dict(os.environ)).main()
