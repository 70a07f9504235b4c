"""The program of docs/own-stream.md keeps the rule that stands beside it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Self

GUIDE = Path(__file__).parents[2] / "docs" / "own-stream.md"


class Collector:
    """A producer that hands nothing over before it is flushed, and then the labels last."""

    arrived: list[tuple[str, dict[str, Any]]]

    def __init__(self, **_: object) -> None:
        self._sent: list[tuple[str, dict[str, Any]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.flush()

    async def send(self, topic: str, value: bytes, key: bytes) -> None:
        assert key
        self._sent.append((topic, json.loads(value)))

    async def flush(self) -> None:
        self.arrived += sorted(self._sent, key=lambda sent: sent[0])  # payments.events, payments.labels
        self._sent = []


def test_the_guides_producer_has_each_label_there_before_any_later_event() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (program,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "AIOKafkaProducer" in code]
    program = program.replace("asyncio.run(main(*sys.argv[1:]))", "")
    names: dict[str, Any] = {}
    exec(compile(program, str(GUIDE), "exec"), names)  # noqa: S102  # what a reader runs
    Collector.arrived = []
    names["AIOKafkaProducer"] = Collector
    asyncio.run(names["main"]("kafka", "2026-09-01", "2026-09-06"))
    events = [value for topic, value in Collector.arrived if topic == "payments.events"]
    labels = [value for topic, value in Collector.arrived if topic == "payments.labels"]
    assert (len(events), len(labels)) == (5 * 400, 3 * 400)
    assert {label["event_id"] for label in labels} == {event["payment_id"] for event in events[: 3 * 400]}
    latest_ms = 0
    for topic, value in Collector.arrived:
        if topic == "payments.events":
            latest_ms = max(latest_ms, value["at_ms"])
        else:
            assert value["label_time_ms"] > latest_ms, value
