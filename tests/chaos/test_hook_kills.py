"""A sender of hooks that is killed at random points, and a receiver that fails a fifth: nothing lost, doubles by id."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_load import new_random
from chaos_report import Figure, Row, record
from hook_bench import HOOK, HookBench, Receiver, failing, receiving, until

from app.kafka_access import KafkaAccess
from schemas.wire import Score

PROCESS = Path(__file__).parents[1] / "support" / "hook_process.py"
N_PARTITIONS = 4
ENTITIES = 2_000
#: Scores that are written at a time.
PART = 200


class Sender:
    """The sender, as a process that is started again whenever it is killed."""

    def __init__(self, bench: HookBench, folder: Path) -> None:
        self._bench = bench
        self._log = folder / "sender.log"
        self.deaths = 0
        self.start()

    def start(self) -> None:
        environment = {**os.environ, **self._bench.environment, "STREAMGAUGE_KAFKA": self._bench.kafka.servers}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROCESS), str(self._bench.path), "one"],
                env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self._process.poll() is None, self.said()
        self._process.kill()
        self._process.wait()
        self.deaths += 1
        self.start()

    def stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()

    def said(self) -> str:
        return self._log.read_text()[-3_000:]


async def produce(bench: HookBench, n: int, is_wanted: Callable[[int], bool]) -> list[Score]:
    """Write scores, as many at a time as the receiver has not fallen behind."""
    generator = random.Random(7)  # noqa: S311  # entities, not secrets
    scores: list[Score] = []
    while len(scores) < n:
        if not is_wanted(len(scores)):
            await asyncio.sleep(0.02)
            continue
        cards = [generator.randrange(ENTITIES) for _ in range(min(PART, n - len(scores)))]
        part = [bench.score(f"card-{card}", partition=card % N_PARTITIONS) for card in cards]
        await bench.publish(*part)
        scores += part
    return scores


@pytest.mark.parametrize(
    ("kills", "deliveries"),
    [
        pytest.param(3, 1_500, id="3-kills"),
        pytest.param(200, 100_000, id="200-kills", marks=pytest.mark.chaos_full),
    ],
)
async def test_a_killed_sender_loses_nothing_and_what_it_doubles_has_the_same_id(
    kafka: KafkaAccess, tmp_path: Path, seed: int, kills: int, deliveries: int
) -> None:
    chance = new_random(seed)
    async with receiving(Receiver(answer=failing(0.2, seed))) as crm:
        bench = HookBench(kafka, tmp_path, HOOK.format(name="crm", url=crm.url), N_PARTITIONS)
        await bench.prepare()
        sender = Sender(bench, tmp_path)
        try:
            each = deliveries // (kills + 1)
            producing = asyncio.create_task(produce(bench, deliveries, lambda n: n < len(crm.known) + 4 * PART))
            for number in range(1, kills + 1):
                # After some deliveries of its own, at a point of chance.
                await until(lambda wanted=number * each: len(crm.known) >= wanted, 120, sender.said)
                await asyncio.sleep(chance.uniform(0, 0.5))
                sender.kill()
            scores = await producing
            await until(lambda: len(crm.known) == deliveries, 300, sender.said)
            await until(lambda: _is_settled(bench), 60, sender.said)
        finally:
            code = sender.stop()
    times = Counter(crm.ids)
    bodies = dict(crm.taken)
    lost = {f"{bench.name}/scores/{partition}/{offset}/crm" for partition, offset in places(scores)} - times.keys()
    conflicting = sum(body != bodies[name] for name, body in crm.taken)
    doubled = sum(n - 1 for n in times.values())
    row = record(
        Row(
            "hooks",
            "SIGKILL of the sender, and a receiver that fails 20 %",
            seed=seed,
            delivery="at_least_once",
            events=deliveries,
            faults=sender.deaths,
            lost=len(lost),
            doubled=doubled,
            conflicting=conflicting,
            doubled_is_allowed=True,
            figures=(Figure("requests", sum(crm.asked.values()), "requests"),),
        )
    )
    assert row.passed, row.note
    assert sender.deaths == kills
    assert crm.forged == 0
    assert code == 0, sender.said()
    assert await bench.dead() == {}
    order: dict[object, list[object]] = {}
    for name in times:  # in the order in which each came first
        data = bodies[name]["data"]
        order.setdefault(data["entity"], []).append(data["event_id"])  # type: ignore[index]
    wanted: dict[object, list[object]] = {}
    for score in scores:
        wanted.setdefault(score.entity, []).append(score.event_id)
    assert order == wanted


def places(scores: list[Score]) -> list[tuple[int, int]]:
    return [(score.source.partition, score.source.offset) for score in scores]


async def _is_settled(bench: HookBench) -> bool:
    return await bench.parked() == {}
