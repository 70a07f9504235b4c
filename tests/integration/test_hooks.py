"""Hooks on a real Kafka, to real receivers that fail, hang, go, and show wrong certificates."""

from __future__ import annotations

from pathlib import Path

from hook_bench import HOOK, HookBench, Receiver, failing, receiving, until

from app.kafka_access import KafkaAccess


async def test_each_score_is_told_signed_and_in_the_order_of_its_entity_though_a_fifth_fails(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async with receiving(Receiver(answer=failing(0.2, seed=1))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        scores = [bench.score(f"card-{number % 7}", partition=number % 7 % 2) for number in range(300)]
        async with bench.sending() as sender:
            await bench.publish(*scores)
            await until(lambda: len(crm.taken) == 300, 60)
            await until(lambda: len(sender.health().why) == 0)
        assert crm.forged == 0
        assert len(set(crm.ids)) == 300
        for entity in {score.entity for score in scores}:
            events = [body["data"]["event_id"] for _, body in crm.taken if body["data"]["entity"] == entity]
            assert events == [score.event_id for score in scores if score.entity == entity]
        assert await bench.parked() == {}
        assert await bench.dead() == {}
