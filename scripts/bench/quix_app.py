"""The job in Quix Streams, at least once, a row at a time as it works: MODE=predict asks the model, MODE=dot does not.

Set as its documentation advises for throughput: the producer lingers, so that batches fill. Windows are Quix's state in
RocksDB with its changelog topic. Configured by the environment: KAFKA, INPUT, OUTPUT, GROUP, STATE, MODE, and what
job.py reads.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from job import NAMES, WINDOW_MS, WITH_WINDOW, advance, load_model, score_one
from quixstreams import Application, State


def main() -> None:
    """Run until killed."""
    app = Application(
        broker_address=os.environ["KAFKA"],
        consumer_group=os.environ["GROUP"],
        auto_offset_reset="earliest",
        state_dir=f"{os.environ['STATE']}/quix",
        producer_extra_config={"linger.ms": 20, "queue.buffering.max.messages": 1_000_000},
        loglevel="WARNING",
    )
    events = app.topic(os.environ["INPUT"], key_deserializer="bytes", value_deserializer="json")
    scores = app.topic(os.environ["OUTPUT"], key_serializer="bytes", value_serializer="json")
    model: Any = load_model() if os.environ["MODE"] == "predict" else None

    def ask_model(event: dict[str, Any]) -> dict[str, Any]:
        row = np.array([[event[name] for name in NAMES]])
        score = float(model.predict_proba(row)[0, 1])
        return {"event_id": event["id"], "entity": event["card"], "score": score}

    def multiply(event: dict[str, Any]) -> dict[str, Any]:
        return {"event_id": event["id"], "entity": event["card"], "score": score_one(event)}

    def multiply_with_window(event: dict[str, Any], state: State) -> dict[str, Any]:
        window = event["time_ms"] // WINDOW_MS
        at, count, total = state.get("window", (window, 0, 0.0))
        counted = [count, total] if at == window else [0, 0.0]
        added = advance(counted, event["f0"])
        state.set("window", (window, *counted))
        return {"event_id": event["id"], "entity": event["card"], "score": score_one(event, added)}

    frame = app.dataframe(events)
    if WITH_WINDOW:
        frame = frame.apply(multiply_with_window, stateful=True)
    else:
        frame = frame.apply(multiply if model is None else ask_model)
    frame.to_topic(scores)
    app.run()


if __name__ == "__main__":
    main()
