"""The scoring hook of real workers: what it answers is what the stream gives, or a problem with a fix."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from asked_workers import Asker, asking, event, label
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
            asked: list[str] = []
            number = 0
            for turn in range(rounds):
                events = [event(number + place, card) for place, card in enumerate(CARDS)]
                if turn:
                    results = await ask_all(asker, addresses[turn % 2], events)
                    assert {result["partition"] for result in results} == set(range(N_PARTITIONS))
                    previews |= {result["event_id"]: result for result in results}
                    asked += [
                        json.dumps({"event": one, "answer": said}) for one, said in zip(events, results, strict=True)
                    ]
                known = [(card, label(number - len(CARDS) + place)) for place, card in enumerate(CARDS) if turn]
                await asker.send(events, labels=[])
                number += len(CARDS)
                await bench.until_committed(number)
                await asker.send([], labels=known)
                await until_labels_are_read(asker, addresses[0], turn)
        scores = {score.event_id: score for score in await bench.scores()}
    await check_by_replay(bench, asked)
    assert len(scores) == number
    assert len(previews) >= 10_000
    for event_id, preview in previews.items():
        score = scores[event_id]
        said = (preview["score"], preview["version"], preview["decision"], preview["feature_set"], preview["features"])
        assert said == (score.score, score.version, score.decision, score.feature_set, score.features), event_id
        assert not preview["stale"]
        assert preview["offset"] <= score.source.offset


async def test_each_event_that_is_committed_counts_once_and_is_answered_though_workers_are_killed(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench, n, kills = Bench(kafka, tmp_path, with_labels=False), 400, 3
    await bench.prepare()
    async with asking(bench) as asker, AsyncExitStack() as stack:
        workers = [stack.enter_context(bench.worker()) for _ in range(2)]
        addresses = [await asker.until_ready(worker) for worker in (1, 2)]
        await bench.until(bench.is_shared)
        answers: dict[str, Any] = {}
        todo = iter(range(n))

        async def ask_until_answered() -> None:
            for number in todo:
                body, limit = event(number, CARDS[number % 40]), time.monotonic() + 60
                said: list[Any] = []
                while body["id"] not in answers:
                    assert time.monotonic() < limit, (body, said[-20:], bench.logs())
                    try:
                        status, answer, _ = await asker.ask(random.choice(addresses), body, commit="wait")  # noqa: S311
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        said.append(repr(error))
                        await asyncio.sleep(0.05)
                        continue
                    said.append((status, answer.get("code"), answer.get("detail")))
                    if status == 200:
                        answers[body["id"]] = answer
                    else:
                        assert status == 503, answer
                        await asyncio.sleep(0.1)

        tasks = [asyncio.create_task(ask_until_answered()) for _ in range(8)]
        for kill in range(kills):
            goal = n * (kill + 1) // (kills + 1)

            async def has_come(goal: int = goal) -> bool:
                return len(answers) >= goal

            await bench.until(has_come, 120)
            workers[kill % 2].kill()
            workers[kill % 2].wait()
            workers[kill % 2] = stack.enter_context(bench.worker())
            addresses[kill % 2] = await asker.address(bench.workers)
        await asyncio.gather(*tasks)
        scores = {score.event_id: score for score in await bench.scores()}
        assert len(await bench.scores()) == len(scores) == n
        assert {letter.reason for letter in await bench.dead_letters()} <= {"duplicate"}
    for event_id, answer in answers.items():
        said = (answer["score"], answer["version"], answer["source"]["offset"], answer["committed"])
        assert said == (scores[event_id].score, scores[event_id].version, scores[event_id].source.offset, True)


async def test_a_worker_that_stood_still_does_not_answer_from_what_it_had(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    async with asking(bench) as asker:
        with bench.worker() as still, bench.worker():
            first, second = [await asker.until_ready(worker) for worker in (1, 2)]
            await bench.until(bench.is_shared)
            events = [event(number, card) for number, card in enumerate(CARDS[:40])]
            results = (await asker.ask(first, events))[1]["results"]
            assert all("answer" in result for result in results)
            still.send_signal(signal.SIGSTOP)
            try:
                waiting = [asyncio.create_task(asker.ask(first, one)) for one in events[:4]]

                async def has_all() -> bool:
                    return len(bench.partitions_of(2)) == bench.pipeline.partitions

                await bench.until(has_all)

                async def answers_all() -> bool:
                    return all("answer" in result for result in (await asker.ask(second, events))[1]["results"])

                await bench.until(answers_all)
            finally:
                still.send_signal(signal.SIGCONT)
            for status, answer, headers in await asyncio.gather(*waiting):
                if answer.get("code"):
                    assert (status, answer["code"]) in {(503, "kafka-away"), (503, "partition-moving"), (503, "busy")}
                    assert "Retry-After" in headers
                else:  # it was passed on: only who has the partition now may have answered
                    assert answer["partition"] not in bench.partitions_of(1)


async def test_while_a_partition_moves_it_is_told_so_at_once_and_served_again_soon(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    async with asking(bench) as asker:
        with bench.worker():
            address = await asker.until_ready(1)
            await asker.send([event(number, CARDS[number % 40]) for number in range(4_000)])
            await bench.until_committed(4_000)
            with bench.worker():
                asked: list[tuple[float, float, str]] = []
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    began = time.monotonic()
                    _, answer, _ = await asker.ask(address, event(5_000 + len(asked), CARDS[len(asked) % 40]))
                    asked.append((began, time.monotonic() - began, answer.get("code", "")))
                    if await bench.is_shared() and all(not code for *_, code in asked[-80:]) and len(asked) > 80:
                        break
                    await asyncio.sleep(0.005)
    codes = {code for *_, code in asked}
    assert codes <= {"", "partition-moving", "no-owner", "kafka-away"}
    refused = [(began, took) for began, took, code in asked if code]
    assert asked[-1][2] == ""
    if refused:
        assert refused[-1][0] - refused[0][0] < 10
        assert sorted(took for _, took in refused)[len(refused) // 2] < 0.05


async def check_by_replay(bench: Bench, asked: list[str]) -> None:
    """Replayed to its offsets, each answer is the same; and one that is not is found."""
    recording, answers = bench.folder / "all.parquet", bench.folder / "asked.jsonl"
    environment = {**os.environ, **bench.settings.to_environment()}

    async def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-P", "-m", "app", *words, "--pipeline", str(bench.pipeline.path)]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    code, said = await run("record", str(recording))
    assert code == 0, said
    answers.write_text("\n".join(asked))
    code, said = await run("parity", str(recording), "--answers", str(answers))
    assert code == 0, said
    assert f"{len(asked):,} answers: answered = computed after a replay, bit for bit." in said
    wrong = json.loads(asked[0])
    wrong["answer"]["offset"] += 40
    answers.write_text("\n".join([json.dumps(wrong), *asked[1:10]]))
    code, said = await run("parity", str(recording), "--answers", str(answers))
    assert code == 1, said
    assert wrong["answer"]["event_id"] in said


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
