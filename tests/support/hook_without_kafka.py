"""A hook over flows in memory: what it is told of places is what a test says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from core_setting import DAY_MS, START_MS, Setting, batch

from app.core.scoring import ChampionTimeline
from app.pipeline import PartitionPipeline
from app.serving.commits import Answer, CommitCounts, Commits
from app.serving.desk import PreviewDesk
from app.serving.hook import ScoringHook
from app.serving.places import Elsewhere, Place
from app.step_size import AskedLately
from schemas.serving import Asked, Problem, RankAnswer, RankRequest, SendFailedError, problem
from schemas.topics import ONCE_HEADER
from schemas.wire import DeadLetter

NOW_MS = START_MS + 10 * DAY_MS


@dataclass
class MemoryPlaces:
    """Card cN is at home in partition N modulo their number; what is not in ``places`` nobody has."""

    partitions: int
    places: dict[int, Place] = field(default_factory=dict)

    def find(self, partition: int) -> Place:
        return self.places.get(partition) or problem(
            "no-owner", "Nobody has this partition: start a worker.", partition=partition
        )

    def owners(self) -> dict[int, str]:
        return {number: place.url for number, place in self.places.items() if isinstance(place, Elsewhere)}

    def home_of(self, entity: str) -> int:
        return int(entity[1:]) % self.partitions


@dataclass
class Forwarded:
    """Another worker's hook, reached without HTTP."""

    answer: Callable[[Sequence[bytes]], list[Answer]]
    calls: list[tuple[str, int, int]] = field(default_factory=list)

    async def __call__(self, url: str, partition: int, events: Sequence[bytes], asked: Asked) -> list[Answer]:  # noqa: ARG002
        self.calls.append((url, partition, len(events)))
        return self.answer(events)

    async def rank(self, url: str, partition: int, request: RankRequest) -> RankAnswer | Problem:
        self.calls.append((url, partition, len(request.candidates)))
        return problem("partition-moving", "No worker answers for it: ask again.", partition=partition)


class World:
    """One worker's hook with ``partitions`` flows that it has, each with a few events of its cards."""

    def __init__(self, setting: Setting, partitions: int = 2, *, can_preview: bool = True) -> None:
        self.setting = setting
        self.models = ChampionTimeline([setting.version(1, None)])
        self.places = MemoryPlaces(partitions)
        self.forward = Forwarded(lambda events: [problem("partition-moving", "No.")] * len(events))
        self.asked = AskedLately()
        self.is_behind = self.is_kafka_away = False
        self.before_sending: Callable[[], Awaitable[object]] = _at_once
        self.counts = CommitCounts()
        self.logs: list[list[tuple[bytes, bytes]]] = [[] for _ in range(partitions)]
        self.read, self.committed = [0] * partitions, [0] * partitions
        self.changelogs: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self.letters: list[DeadLetter] = []
        self.flows = [PartitionPipeline(setting.pipeline, setting.plan, k) for k in range(partitions)]
        for k, flow in enumerate(self.flows):
            values: list[bytes | None] = [self.event(10 + n, k) for n in range(4)]
            flow.receive_events(batch("cards.events", values, [NOW_MS] * 4), NOW_MS)
            flow.merge.let_go(4)
            while flow.step(self.models, 99, NOW_MS) is not None:
                pass
            self.places.places[k] = self.desk(k)
            self.process(k)
        self.hook = ScoringHook(setting.pipeline, self.places, self.forward, lambda: NOW_MS, can_preview=can_preview)

    def desk(self, partition: int) -> PreviewDesk:
        return PreviewDesk(
            self.setting.pipeline,
            self.flows[partition],
            models=lambda: self.models,
            is_behind=lambda: self.is_behind,
            asked=self.asked,
            commits=self.commits(partition),
            make_room=lambda: None,
            now_ms=lambda: NOW_MS,
        )

    def commits(self, partition: int) -> Commits:
        flow = self.flows[partition]
        return Commits(
            self.setting.pipeline, partition, lambda: flow.sent, self.send, self.counts, now_ms=lambda: NOW_MS
        )

    async def send(self, partition: int, entity: str, event: bytes) -> None:
        """Append an event to the log of its partition."""
        await self.before_sending()
        if self.is_kafka_away:
            raise SendFailedError("away")
        self.logs[partition].append((entity.encode(), event))

    def process(self, partition: int, *, commit: bool = True) -> None:
        """Have the worker of a partition read what was sent, score it, and commit it."""
        flow, desk, log = self.flows[partition], self.places.places[partition], self.logs[partition]
        assert isinstance(desk, PreviewDesk)
        first = self.read[partition]
        if log[first:]:
            values: list[bytes | None] = [event for _, event in log[first:]]
            headers = [((ONCE_HEADER, b""),)] * len(values)
            records = batch("cards.events", values, [NOW_MS] * len(values), first=4 + first, headers=headers)
            flow.receive_events(records, NOW_MS)
        self.read[partition] = len(log)
        flow.merge.let_go(flow.merge.events_received)
        while (step := flow.step(self.models, 99, NOW_MS)) is not None:
            self.letters += step.dead_letters
        if commit:
            self.changelogs[partition] |= {key: value for key, value in flow.drain_state() if value is not None}
            self.committed[partition] = (flow.position().events or 4) - 4
            desk.commits.committed(flow.position().events or 0)

    def take_over(self, partition: int) -> None:
        """Let the worker of a partition go, and another one begin from what is committed."""
        before = self.places.places[partition]
        assert isinstance(before, PreviewDesk)
        before.commits.close()
        flow = PartitionPipeline(self.setting.pipeline, self.setting.plan, partition)
        flow.restore(list(self.changelogs[partition].items()))
        self.flows[partition], self.read[partition] = flow, self.committed[partition]
        desk = self.places.places[partition] = self.desk(partition)
        desk.commits.committed(flow.position().events or 0)

    @staticmethod
    def event(number: int, card: int, **changes: object) -> bytes:
        fields = {"id": f"e{number}", "card": f"c{card}", "at": START_MS + number * 1000, "amount": number / 8}
        return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not ...}).encode()


async def _at_once() -> None:
    pass


def code_of(answer: Answer | RankAnswer) -> str:
    """The code of a problem; "" for a score."""
    return answer.code if isinstance(answer, Problem) else ""
