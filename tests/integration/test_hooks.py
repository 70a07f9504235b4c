"""Hooks on a real Kafka, to real receivers that fail, hang, go, and show wrong certificates."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from click.testing import CliRunner, Result
from hook_bench import (
    EARLIEST,
    FAST,
    HOOK,
    OTHER_SECRET,
    SECRET,
    HookBench,
    Receiver,
    failing,
    receiving,
    until,
)

from app.adapters.http.hooks import METRICS, HooksHttp
from app.adapters.http.place import HttpPlace
from app.adapters.kafka.topic_reader import read_to_end
from app.cli import main
from app.cli.utc_time import LATEST_MS
from app.core.hooks.schedule import Schedule
from app.hooks.sender import HookSender, sender_group
from app.hooks.start import send
from app.hooks.starts import Beginning
from app.kafka_access import KafkaAccess
from schemas.wire import Alert, Score, decode_json


async def values_of(kafka: KafkaAccess, topic: str) -> list[bytes]:
    return [value async for batch in read_to_end(kafka, [topic]) for value in batch.values if value is not None]


async def committed(bench: HookBench, partition: int) -> int | None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bench.kafka.servers, group_id=sender_group(bench.name), enable_auto_commit=False
    )
    await consumer.start()
    try:
        place = TopicPartition(bench.pipeline.topics.scores, partition)
        consumer.assign([place])
        offset: int | None = await consumer.committed(place)
        return offset
    finally:
        await consumer.stop()


def check_order(receiver: Receiver, scores: list[Score]) -> None:
    """Each entity was told of its scores in their order, repetitions aside."""
    told: dict[str, list[str]] = {}
    for _, body in receiver.taken:
        data: Any = body["data"]
        of_entity = told.setdefault(data["entity"], [])
        if data["event_id"] not in of_entity:
            of_entity.append(data["event_id"])
    for entity, events in told.items():
        assert events == [score.event_id for score in scores if score.entity == entity]


async def run_command(bench: HookBench, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """Run ``streamgauge hooks`` as a person does."""
    for name, value in {**bench.environment, "STREAMGAUGE_KAFKA": bench.kafka.servers}.items():
        monkeypatch.setenv(name, value)
    command, *more = words
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["hooks", command, "--pipeline", str(bench.path), *more], catch_exceptions=False
    )


async def test_each_score_is_told_signed_and_in_the_order_of_its_entity_though_a_fifth_fails(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async with receiving(Receiver(answer=failing(0.2, seed=1))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        scores = [bench.score(f"card-{number % 7}", partition=number % 7 % 2) for number in range(300)]
        async with bench.sending():
            await bench.publish(*scores)
            await until(lambda: len(crm.taken) == 300, 60)
    assert crm.forged == 0
    assert len(set(crm.ids)) == 300
    check_order(crm, scores)
    assert await bench.parked() == {}
    assert await bench.dead() == {}
    assert [await committed(bench, partition) is not None for partition in (0, 1)] == [True, True]


async def test_a_receiver_that_hangs_holds_up_no_other_one_and_is_told_when_it_answers_again(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    is_back = asyncio.Event()

    async def hang(_: str) -> int:
        await is_back.wait()
        return 200

    async with receiving(Receiver(answer=hang)) as slow, receiving(Receiver()) as fast:
        hooks = HOOK.format(name="slow", url=slow.url) + HOOK.format(name="fast", url=fast.url)
        bench = HookBench(kafka, tmp_path, hooks)
        await bench.prepare()
        scores = [bench.score(f"card-{number % 50}", partition=number % 50 % 2) for number in range(2_000)]
        async with bench.sending() as sender:
            await bench.publish(*scores)
            await until(lambda: len(fast.taken) == 2_000, 60)
            assert slow.taken == []
            await until(lambda: _sample(sender, "streamgauge_hooks_parked", "slow") == 2_000)
            is_back.set()
            # What hung is taken too, after the sender has given that try up: then it comes twice.
            await until(lambda: len(set(slow.ids)) == 2_000, 60)
        assert len(fast.ids) == 2_000
        for receiver in (slow, fast):
            check_order(receiver, scores)
        assert await bench.parked() == {}


def _sample(sender: HookSender, name: str, hook: str) -> float:
    return next((each.value for each in sender.samples() if each.name == name and each.labels.get("hook") == hook), 0)


async def test_what_waits_in_memory_is_bounded_and_the_rest_waits_in_kafka(kafka: KafkaAccess, tmp_path: Path) -> None:
    async with receiving(Receiver(answer=failing(1.0, seed=1))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url), partitions=1)
        await bench.prepare()
        pace = replace(
            FAST, most_bytes=200_000, inbox_bytes=100_000, schedule=replace(FAST.schedule, later_ms=(500,) * 40)
        )
        async with bench.sending(pace) as sender:
            for _ in range(10):
                await bench.publish(*(bench.score(f"card-{number % 9}") for number in range(500)))
            await until(lambda: _held(sender) > 200_000)
            await asyncio.sleep(1.0)
            assert _held(sender) < 2_000_000  # what one fetch may hold beyond it
            assert (await committed(bench, 0) or 0) < 5_000
            crm.answer = failing(0.0, seed=1)
            await until(lambda: len(set(crm.ids)) == 5_000, 120)
        assert await bench.parked() == {}


def _held(sender: HookSender) -> float:
    return next(each.value for each in sender.samples() if each.name == "streamgauge_hooks_held_bytes")


async def test_a_destination_that_is_gone_disables_its_hook_and_what_it_had_to_tell_is_sent_when_it_is_enabled(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        receiving(Receiver(answer=failing(1.0, seed=1, status=410))) as crm,
        receiving(Receiver(keys=())) as chat,
    ):
        alerts = f'\n[[hooks]]\nname = "chat"\non = "alerts"\nform = "slack"\nurl = "{chat.url}"\n'
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url) + alerts)
        await bench.prepare()
        async with bench.sending() as sender:
            await bench.publish(*(bench.score(f"card-{number}") for number in range(30)))
            await until(lambda: len(chat.taken) == 1, 30)
            assert _sample(sender, "streamgauge_hooks_disabled", "crm") == 1
            await bench.publish(bench.score("card-1"))
            await until(lambda: _sample(sender, "streamgauge_hooks_dead_total", "crm") == 31)
        (alert,) = [decode_json(value, Alert) for value in await values_of(kafka, bench.pipeline.topics.alerts)]
        assert (alert.rule, alert.state, alert.severity) == ("hook-disabled", "raised", "critical")
        assert alert.message in chat.taken[0][1]["text"]  # type: ignore[operator]
        assert "The receiver answered 410: this address is gone." in alert.message

        # Nothing is sent there by another process, either.
        asked = sum(crm.asked.values())
        async with bench.sending() as sender:
            await bench.publish(bench.score("card-2"))
            await until(lambda: _sample(sender, "streamgauge_hooks_dead_total", "crm") == 1)
            assert sum(crm.asked.values()) == asked

            listed = await run_command(bench, monkeypatch, "list", "--limit", "1")
            assert listed.exit_code == 0
            assert "crm is disabled since" in listed.output
            assert "crm: 32 given up" in listed.output
            refused = await run_command(bench, monkeypatch, "resend")
            assert refused.exit_code == 1
            assert (
                "The hook crm is disabled: mend its destination, then `streamgauge hooks enable crm`." in refused.output
            )

            crm.answer = failing(0.0, seed=1)
            assert (await run_command(bench, monkeypatch, "enable", "crm", "--by", "ann")).output == "crm is enabled.\n"
            again = await run_command(bench, monkeypatch, "enable", "crm")
            assert (again.exit_code, again.output) == (0, "crm is not disabled.\n")
            await until(lambda: _sample(sender, "streamgauge_hooks_disabled", "crm") == 0)
            await bench.publish(bench.score("card-3"))
            await until(lambda: len(crm.taken) == 1)

            resent = await run_command(bench, monkeypatch, "resend", "--json")
            assert resent.exit_code == 0, resent.output
            assert json.loads(resent.output)["told"] == {"crm": 32}
            assert len(set(crm.ids)) == len(crm.ids) == 33
            nothing = await run_command(bench, monkeypatch, "resend")
            assert (nothing.exit_code, nothing.output) == (0, "Nothing is given up that could be sent.\n")
            assert len(crm.ids) == 33
            cleared = [decode_json(value, Alert) for value in await values_of(kafka, bench.pipeline.topics.alerts)][-1]
            assert (cleared.alert_id, cleared.state, cleared.by) == (alert.alert_id, "cleared", "ann")


async def test_a_wrong_certificate_is_told_in_one_sentence_and_what_waits_is_told_when_it_is_mended(
    kafka: KafkaAccess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving(Receiver(), "elsewhere.pem") as wrong:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=wrong.url))
        await bench.prepare()
        async with bench.sending():
            await bench.publish(*(bench.score("ann") for _ in range(3)))
            await until(lambda: _all_parked(bench, 3))
    said = {record.getMessage() for record in caplog.records if record.name == "streamgauge.hooks"}
    assert any(
        each.startswith("Hook crm: localhost shows a certificate that is not trusted")
        and each.endswith("name its authority by ca in [destinations].")
        for each in said
    )
    assert {record.why for record in (await bench.parked()).values()} & {
        each.removeprefix("Hook crm: ") for each in said
    }
    assert wrong.asked == {}
    async with receiving(Receiver(), "localhost.pem") as right:
        bench.write(HOOK.format(name="crm", url=right.url))
        async with bench.sending():
            await until(lambda: len(right.taken) == 3)
    assert right.forged == 0
    assert await bench.parked() == {}


async def _all_parked(bench: HookBench, n: int) -> bool:
    return len(await bench.parked()) == n


async def test_a_secret_that_is_rotated_between_two_tries_signs_the_next_one(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async with receiving(Receiver(keys=(OTHER_SECRET,))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        async with bench.sending():
            await bench.publish(*(bench.score("ann") for _ in range(3)))
            await until(lambda: _all_parked(bench, 3))
        assert crm.forged > 0
        assert crm.taken == []
        bench.environment = {"CRM_SECRET": SECRET, "CRM_SECRET_NEW": OTHER_SECRET}
        async with bench.sending():
            await until(lambda: len(crm.taken) == 3)
            # Now who receives has the old one again, and both sign.
            crm.keys = (SECRET,)
            forged = crm.forged
            await bench.publish(bench.score("ann"))
            await until(lambda: len(crm.taken) == 4)
        assert crm.forged == forged
    assert len(set(crm.ids)) == 4


async def test_a_destination_that_asks_for_a_pause_is_left_alone(kafka: KafkaAccess, tmp_path: Path) -> None:
    async with receiving(Receiver(answer=failing(1.0, seed=1, status=503), headers={"Retry-After": "1"})) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        pace = replace(FAST, schedule=Schedule(soon_ms=(10, 10), later_ms=(10,) * 500, most_wait_ms=1_000), under_way=1)
        async with bench.sending(pace):
            await bench.publish(*(bench.score(f"card-{number}") for number in range(4)))
            await until(lambda: sum(crm.asked.values()) >= 4)
            times = sorted(time for of_one in crm.times.values() for time in of_one)
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert min(gaps) > 0.9
            crm.answer = failing(0.0, seed=1)
            await until(lambda: len(crm.taken) == 4)


async def test_what_nobody_takes_for_as_long_as_it_is_retried_is_given_up_and_sent_again_once(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving(Receiver(answer=failing(1.0, seed=1))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        pace = replace(FAST, schedule=replace(FAST.schedule, later_ms=(100, 200)))
        async with bench.sending(pace):
            await bench.publish(*(bench.score("ann") for _ in range(3)))
            await until(lambda: _all_dead(bench, 3))
        first = f"{bench.name}/scores/0/0/crm"
        assert crm.asked[first] == 5
        assert await bench.parked() == {}
        assert {record.why for record in (await bench.dead()).values()} == {"The receiver answered 500."}

        failed = await run_command(bench, monkeypatch, "resend", "--hook", "crm")
        assert failed.exit_code == 1
        assert "crm: 0 arrived, 3 failed, 0 left. The receiver answered 500." in failed.output
        unknown = await run_command(bench, monkeypatch, "resend", "--id", "nobody/knows/0/0/it")
        assert unknown.exit_code == 1
        assert "nobody/knows/0/0/it is not among what was given up" in unknown.output
        dry = await run_command(bench, monkeypatch, "resend", "--dry-run", "--id", first)
        assert (dry.exit_code, dry.output) == (0, f"1 would be sent.\n{first}\n")

        crm.answer = failing(0.0, seed=1)
        one = await run_command(bench, monkeypatch, "resend", "--id", first)
        assert (one.exit_code, one.output) == (0, "crm: 1 arrived, 0 failed, 0 left\n")
        rest = await run_command(bench, monkeypatch, "resend")
        assert (rest.exit_code, rest.output) == (0, "crm: 2 arrived, 0 failed, 0 left\n")
        assert crm.ids == [f"{bench.name}/scores/0/{offset}/crm" for offset in range(3)]
        assert await bench.dead() == {}
        usage = await run_command(bench, monkeypatch, "resend", "--from", "2026-01-02", "--to", "2026-01-01")
        assert usage.exit_code == 2


async def _all_dead(bench: HookBench, n: int) -> bool:
    return len(await bench.dead()) == n


async def test_a_hook_to_kafka_tells_each_score_that_passes_once_and_by_its_entity(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = HookBench(kafka, tmp_path, "")
    where = 'where = "score > 0.5 and amount > 50"\n'
    bench.write(f'[[hooks]]\nname = "high"\non = "scores"\nform = "kafka"\ntopic = "{bench.name}-high"\n{where}')
    await bench.prepare(f"{bench.name}-high")
    scores = [bench.score(f"card-{number % 9}", value=number / 100) for number in range(100)]
    for part in (scores[:50], scores[50:]):  # a sender, and the one after it
        async with bench.sending() as sender:
            await bench.publish(*part)
            wanted = sum(score.score > 0.5 for score in part)
            await until(lambda: _sample(sender, "streamgauge_hooks_told_total", "high") == wanted)  # noqa: B023  # awaited here
    batches = [batch async for batch in read_to_end(kafka, [f"{bench.name}-high"])]
    records = [
        (batch.partition, key, msgspec.json.decode(value or b""), dict(headers))
        for batch in batches
        for key, value, headers in zip(batch.keys, batch.values, batch.headers or [], strict=True)
    ]
    assert Counter(body["data"]["event_id"] for _, _, body, _ in records) == Counter(
        score.event_id for score in scores if score.score > 0.5
    )
    assert len({(key, partition) for partition, key, _, _ in records}) == 9
    assert all(key == body["data"]["entity"].encode() for _, key, body, _ in records)
    assert len({headers["webhook-id"] for *_, headers in records}) == 49


async def test_two_senders_share_the_partitions_and_whoever_goes_leaves_nothing_behind(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async with receiving(Receiver(answer=failing(0.2, seed=1))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        scores = [bench.score(f"card-{number % 8}", partition=number % 8 % 2) for number in range(400)]
        async with bench.sending() as one:
            async with bench.sending() as other:
                await until(lambda: _partitions(one) == _partitions(other) == 1, 60)
                await bench.publish(*scores[:200])
                await until(lambda: len(set(crm.ids)) == 200, 60)
            await bench.publish(*scores[200:])
            await until(lambda: len(set(crm.ids)) == 400, 60)
        assert await bench.parked() == {}


def _partitions(sender: HookSender) -> float:
    return next(each.value for each in sender.samples() if each.name == "streamgauge_hooks_partitions")


async def test_a_new_hook_begins_with_what_comes_from_then_on(kafka: KafkaAccess, tmp_path: Path) -> None:
    async with receiving(Receiver()) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        await bench.publish(bench.score("ann"), bench.score("ann"))
        async with bench.sending(beginning=Beginning(LATEST_MS)):
            await until(lambda: _is_committed(bench, 2))
        # Where it began is committed, so what came while nobody was there is not passed over.
        await bench.publish(bench.score("ann"))
        async with bench.sending(beginning=Beginning(LATEST_MS)):
            await until(lambda: len(crm.taken) == 1)
    assert crm.ids == [f"{bench.name}/scores/0/2/crm"]


async def _is_committed(bench: HookBench, offset: int) -> bool:
    return await committed(bench, 0) == offset


async def test_records_of_strangers_are_passed_over_and_counted(kafka: KafkaAccess, tmp_path: Path) -> None:
    async with receiving(Receiver()) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url))
        await bench.prepare()
        topics = bench.pipeline.topics
        strangers = [b"{", b"[]", b'{"score": "x"}']
        await bench.write_records((topics.hooks_retry, 0, b"key", value) for value in strangers)
        await bench.write_records((topics.hooks_state, 0, b"crm", value) for value in strangers)
        await bench.write_records((topics.scores, 0, b"key", value) for value in strangers)
        await bench.publish(bench.score("ann"))
        async with bench.sending() as sender:
            await until(lambda: len(crm.taken) == 1)
            refused = {
                (each.labels["topic"].removeprefix(f"{bench.name}."), each.labels["reason"]): each.value
                for each in sender.samples()
                if each.name == "streamgauge_hooks_refused_total"
            }
            http = HooksHttp(sender.health, sender.samples)
            address = await http.start("127.0.0.1", 0)
            async with ClientSession(address) as session:
                answers = {path: await session.get(path) for path in ("/healthz", "/readyz", "/metrics")}
                assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(answers, 200)
                exposed = await answers["/metrics"].text()
            await http.stop()
    assert refused.keys() >= {("hooks-retry", "malformed"), ("hooks-state", "malformed"), ("scores", "wrong_type")}
    assert all(f"# TYPE {metric.name} {metric.kind}" in exposed for metric in METRICS)
    names = {line.split("{")[0].split(" ")[0] for line in exposed.splitlines() if not line.startswith("#")}
    assert names <= {metric.name for metric in METRICS}


async def start(bench: HookBench, beginning: Beginning = EARLIEST) -> tuple[int, str]:
    return await asyncio.wait_for(
        send(bench.pipeline, bench.kafka, HttpPlace("127.0.0.1", 0), beginning, None, pace=FAST), 60
    )


async def test_a_sender_that_cannot_work_says_why_in_one_sentence(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_SECRET", raising=False)
    crm = HookBench(kafka, tmp_path, HOOK.format(name="crm", url="http://127.0.0.1:9/x"))
    none = HookBench(kafka, tmp_path, "")
    lake = HookBench(kafka, tmp_path, '[[hooks]]\nname = "lake"\non = "scores"\nform = "kafka"\ntopic = "none-such"\n')

    for bench, sentence in (
        (crm, "none of the environment variables CRM_SECRET, CRM_SECRET_NEW is set; set one to the secret"),
        (none, "has no hooks; add a table [[hooks]]."),
        (lake, "hooks.lake.topic: there is no topic none-such at"),
    ):
        code, why = await start(bench)
        assert code == 78
        assert sentence in why
    listed = await run_command(none, monkeypatch, "list")
    assert listed.exit_code == 1
    assert "has no hooks; add a table [[hooks]]." in listed.output


async def test_records_that_retention_removed_before_they_were_told_are_not_passed_over_in_silence(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    async with receiving(Receiver()) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url), partitions=1)
        await bench.prepare()
        await bench.publish(*(bench.score("ann") for _ in range(2)))
        async with bench.sending():
            await until(lambda: _is_committed(bench, 2))
        await bench.publish(*(bench.score("ann") for _ in range(4)))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
        await admin.start()
        await admin.delete_records({TopicPartition(bench.pipeline.topics.scores, 0): RecordsToDelete(4)})
        await admin.close()

        code, why = await start(bench)

        assert code == 78
        assert "offsets 2 to 3 were removed by retention before they were told. Start with --skip-removed" in why
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                async with bench.sending(beginning=Beginning(0, skip_removed=True)):
                    await until(lambda: len(crm.taken) == 4)
    assert crm.ids[-1] == f"{bench.name}/scores/0/5/crm"
