"""The job in a plain Faust agent: what a team would write first, with ``take`` so that the model scores batches.

JSON decode, a scikit-learn pipeline on the batch, a ``send`` per score, Faust's own commits, at least once. Faust's
defaults, but for the web server and the leader topic, which have no part in it. Configured by the environment: KAFKA,
INPUT, OUTPUT, GROUP, MODEL, COEFFICIENTS.
"""

from __future__ import annotations

import json
import os

import faust
import numpy as np
from job import NAMES, load_model

app = faust.App(
    os.environ["GROUP"],
    broker=f"kafka://{os.environ['KAFKA']}",
    store="memory://",
    web_enabled=False,
    topic_disable_leader=True,
    topic_partitions=4,
    consumer_auto_offset_reset="earliest",
)
events = app.topic(os.environ["INPUT"], value_serializer="raw", key_serializer="raw")
scores = app.topic(os.environ["OUTPUT"], value_serializer="raw", key_serializer="raw")
model = load_model()


@app.agent(events)
async def score(stream: faust.StreamT[bytes]) -> None:
    async for batch in stream.take(2000, within=0.1):
        decoded = [json.loads(value) for value in batch]
        matrix = np.array([[event[name] for name in NAMES] for event in decoded])
        for event, probability in zip(decoded, model.predict_proba(matrix)[:, 1].tolist(), strict=True):
            value = json.dumps({"event_id": event["id"], "entity": event["card"], "score": probability})
            await scores.send(key=event["card"].encode(), value=value.encode())


if __name__ == "__main__":
    app.main()
