"""The job in Bytewax, batches of 2 000 through one matrix product, at least once with its recovery store.

Set as its documentation advises for throughput: larger source batches, and a lingering producer. Windows are its state
by key. Configured by the environment: KAFKA, INPUT, OUTPUT, STATE, and what job.py reads.
"""

from __future__ import annotations

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING
from job import WINDOW_MS, WITH_WINDOW, Score, advance, decode, encode, score_batch


def _score(messages: list[Any]) -> list[Any]:
    events = [decode(message.value) for message in messages]
    return [
        KafkaSinkMessage(event.card.encode(), encode(Score(event.id, event.card, score)))
        for event, score in zip(events, score_batch(events, None), strict=True)
    ]


def _score_for_windows(messages: list[Any]) -> list[tuple[str, tuple[Any, float]]]:
    events = [decode(message.value) for message in messages]
    return [(event.card, (event, score)) for event, score in zip(events, score_batch(events, None), strict=True)]


def _add_window(state: tuple[int, float, float] | None, item: tuple[Any, float]) -> tuple[Any, Any]:
    event, score = item
    window = event.time_ms // WINDOW_MS
    counted = [state[1], state[2]] if state is not None and state[0] == window else [0, 0.0]
    added = advance(counted, event.f0)
    logit = math.log(score / (1 - score)) + added
    return (window, *counted), Score(event.id, event.card, 1 / (1 + math.exp(-logit)))


def _to_message(item: tuple[str, Any]) -> Any:
    return KafkaSinkMessage(item[0].encode(), encode(item[1]))


def main() -> None:
    """Run until killed."""
    servers = [os.environ["KAFKA"]]
    source = KafkaSource(servers, [os.environ["INPUT"]], True, OFFSET_BEGINNING, None, 2000)  # True: stay at the end
    sink = KafkaSink(servers, os.environ["OUTPUT"], {"linger.ms": "20", "queue.buffering.max.messages": "1000000"})
    flow = Dataflow("bench")
    events = op.input("events", flow, source)
    if WITH_WINDOW:
        keyed = op.flat_map_batch("score", events, _score_for_windows)
        scores = op.map("message", op.stateful_map("window", keyed, _add_window), _to_message)
    else:
        scores = op.flat_map_batch("score", events, _score)
    op.output("scores", scores, sink)
    recovery = Path(os.environ["STATE"]) / "bytewax"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(str(recovery)))


if __name__ == "__main__":
    main()
