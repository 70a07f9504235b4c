"""The same job as `streamgauge bench stream` in a plain Faust agent: what a team would write first.

``take`` batches, JSON decode, a scikit-learn pipeline on the batch, a ``send`` per score, Faust's own commits. It stops
itself after ``COUNT`` events and writes FIGURE (JSON): events, seconds from the first to the last batch, CPU seconds.
Configured by the environment: KAFKA, COUNT, MODEL (a joblib file), TOPIC, OUTPUT, FIGURE.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import faust
import joblib
import numpy as np

COUNT = int(os.environ["COUNT"])
FIGURE = Path(os.environ["FIGURE"])
NAMES = [f"f{number}" for number in range(10)]

app = faust.App(
    f"plain-faust-{os.getpid()}",
    broker=f"kafka://{os.environ['KAFKA']}",
    store="memory://",
    web_enabled=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
)
events = app.topic(os.environ["TOPIC"], value_serializer="raw", key_serializer="raw")
scores = app.topic(os.environ["OUTPUT"], value_serializer="raw", key_serializer="raw")
model = joblib.load(os.environ["MODEL"])


@app.agent(events)
async def score(stream: faust.StreamT[bytes]) -> None:
    done, started, cpu_before = 0, 0.0, 0.0
    async for batch in stream.take(2000, within=0.1):
        if not done:
            started, cpu_before = time.monotonic(), time.process_time()
        decoded = [json.loads(value) for value in batch]
        matrix = np.array([[event[name] for name in NAMES] for event in decoded])
        for event, probability in zip(decoded, model.predict_proba(matrix)[:, 1].tolist(), strict=True):
            value = json.dumps({"event_id": event["id"], "entity": event["card"], "score": probability})
            await scores.send(key=event["card"].encode(), value=value.encode())
        done += len(batch)
        if done >= COUNT:
            seconds, cpu = time.monotonic() - started, time.process_time() - cpu_before
            figure = json.dumps({"events": done, "seconds": seconds, "cpu_seconds": cpu})
            FIGURE.write_text(figure)  # noqa: ASYNC240  # once, at the end
            os._exit(0)


if __name__ == "__main__":
    app.main()
