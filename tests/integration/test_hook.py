"""The scoring hook of real workers: what it answers is what the stream gives, or a problem with a fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hook_bench import Asker, asking, event, label
from worker_bench import N_PARTITIONS, Bench

from app.kafka_access import KafkaAccess

CARDS = [f"card-{number}" for number in range(400)]


async def test_a_preview_has_the_bits_of_the_stream_whichever_worker_is_asked(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench, rounds = Bench(kafka, tmp_path, with_labels=True), 26
    await bench.prepare()
    async with asking(bench) as asker:
        with bench.worker(), bench.worker():
            await bench.until(bench.is_shared)
            addresses = [await asker.until_ready(worker) for worker in (1, 2)]
            previews: dict[str, Any] = {}
            number = 0
            for turn in range(rounds):
                events = [event(number + place, card) for place, card in enumerate(CARDS)]
                if turn:
                    results = await ask_all(asker, addresses[turn % 2], events)
                    assert {result["partition"] for result in results} == set(range(N_PARTITIONS))
                    previews |= {result["event_id"]: result for result in results}
                known = [(card, label(number - len(CARDS) + place)) for place, card in enumerate(CARDS) if turn]
                await asker.send(events, labels=[])
                number += len(CARDS)
                await bench.until_committed(number)
                await asker.send([], labels=known)
                await until_labels_are_read(asker, addresses[0], turn)
        scores = {score.event_id: score for score in await bench.scores()}
    assert len(scores) == number
    assert len(previews) >= 10_000
    for event_id, preview in previews.items():
        score = scores[event_id]
        said = (preview["score"], preview["version"], preview["decision"], preview["feature_set"], preview["features"])
        assert said == (score.score, score.version, score.decision, score.feature_set, score.features), event_id
        assert not preview["stale"]
        assert preview["offset"] <= score.source.offset


async def ask_all(asker: Asker, address: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    status, body, _ = await asker.ask(address, events, features="true")
    assert status == 200, body
    return [result["answer"] for result in body["results"]]


async def until_labels_are_read(asker: Asker, address: str, turn: int) -> None:
    """Wait until the previews of all partitions have looked at all labels sent."""
    probes = [event(10**6, card) for card in CARDS]

    async def are_read() -> bool:
        answers = await ask_all(asker, address, [dict(probe, id=f"p{k}") for k, probe in enumerate(probes)])
        return sum({answer["partition"]: answer["labels_offset"] for answer in answers}.values()) >= turn * len(CARDS)

    await asker.bench.until(are_read)
