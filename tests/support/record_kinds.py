"""Every kind of record that is read from a topic: good ones, how each is decoded, and who reads what was decoded.

The good ones are what a partition, and a cluster of them, put out for some busy hours. A reader takes records one by
one, as a process does in its life, and is settled now and then: it does what a process does with what it was told.

Over 350 lines: what there is to know of all kinds, in one place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import shared_cluster
from core_setting import DAY_MS, HOUR_MS, START_MS, Setting, batch, build, event, label
from memory_warehouse import MemoryWarehouse
from record_attacks import Codec, Raw

from app.core.batches import RecordBatch
from app.core.counts.calendar import Window
from app.core.counts.sketch_rules import read_sketch
from app.core.entities.directory import EntityDirectory
from app.core.entities.log import EntityLog
from app.core.hooks.alerts import alert_cleared, alert_raised
from app.core.hooks.delivery import Delivery
from app.core.hooks.ledger import Ledger
from app.core.hooks.queue import HookQueue
from app.core.hooks.requests import slack, webhook
from app.core.hooks.schedule import Schedule
from app.core.monitoring.core import MonitorCore
from app.core.records.entities import read_entities
from app.core.records.hooks import read_delivery, read_state
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules
from app.core.replay.letter_selection import Wanted, address, select
from app.core.scoring import ChampionTimeline
from app.core.shared.answerer import Answerer
from app.core.shared.board import SharedBoard
from app.flow.step import FlowOutput
from app.monitor.rows import (
    dead_letter_block,
    findings_columns,
    findings_records,
    score_block,
    status_columns,
    update_columns,
    version_columns,
)
from app.monitor.takeover import Saved
from app.pipeline import PartitionPipeline
from models.versions.registry import RegistryError, resolve
from models.versions.standing import Standings
from models.versions.timeline import Begins, Timeline
from schemas.refusal import RefusedRecordError
from schemas.wire import (
    AnswersRecord,
    DeadLetter,
    DelayCounts,
    EntityChunk,
    ErrorRun,
    HookDelivery,
    HookState,
    KeyAnswers,
    KeyQuestions,
    Label,
    LabelCounts,
    ModelStatus,
    ModelUpdate,
    RepartitionRecord,
    Score,
    SentBack,
    SharedTile,
    SharedTimes,
    SketchDelta,
    SketchRecord,
    Source,
    StoreParts,
    decode_json,
    decode_packed,
    encode_json,
    encode_packed,
)

#: The clock of whoever reads.
NOW_MS = START_MS + 10 * DAY_MS
_VERSION = "1.0.0"


class Reader(Protocol):
    """Reads records of one kind, as a process does."""

    def take(self, raw: Raw) -> None:
        """Take a record; RefusedRecordError when it is none of ours."""

    def settle(self) -> None:
        """Do what follows from all that was taken."""


@dataclass(frozen=True)
class Kind:
    """A kind of record.

    Parameters
    ----------
    decode
        What each field by itself must satisfy; a value, or a RefusedRecordError.
    structs
        Of the contract: the record's, and those that are in it.
    """

    name: str
    topic: str
    structs: tuple[type[msgspec.Struct], ...]
    codec: Codec
    goods: Callable[[], Sequence[Raw]]
    decode: Callable[[Raw], object]
    reader: Callable[[], Reader]


# -- what a partition puts out ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """Records of a partition that scored for an hour."""

    scores: list[Raw]
    letters: list[Raw]
    sketches: list[Raw]
    entities: list[Raw]
    state: list[Raw]


@lru_cache(maxsize=1)
def setting() -> Setting:
    """One partition, nothing shared."""
    with tempfile.TemporaryDirectory() as folder:
        found = build(Path(folder))
    drift = replace(found.pipeline.drift, segments=("shop",))
    return replace(found, pipeline=replace(found.pipeline, drift=drift))


@lru_cache(maxsize=1)
def champion() -> Any:
    """The version that scores."""
    return setting().version(1, None)


def _flow() -> PartitionPipeline:
    flow = PartitionPipeline(setting().pipeline, setting().plan, 0, term_ms=1)
    flow.know(_VERSION, champion().reference)
    return flow


def _feed(flow: PartitionPipeline, first: int, n: int, at_ms: int, labelled: Sequence[str] = ()) -> Output:
    """Give a flow events and labels, from an offset and a time on; what it puts out. ``labelled``: of others."""
    pipeline = setting().pipeline
    times = [at_ms + number * 30_000 for number in range(n)]
    events: list[bytes | None] = [event(first + number, times[number]) for number in range(n)]
    events[n // 2 : n // 2 + 3] = [b"rubbish", None, b'{"id": 5, "x": "' + b"x" * 2_000_000 + b'"}']
    labels = [label(f"e{first + number}", times[number] + HOUR_MS, number % 2) for number in range(0, n, 2)]
    labels += [label(name, times[-1]) for name in ("nobody", *labelled)]
    headers: list[tuple[tuple[str, bytes], ...]] = [(("trace", b"1"),)] * n
    flow.receive_events(batch(pipeline.topics.events, events, times, first=first, headers=headers), NOW_MS)
    stamps = [NOW_MS] * len(labels)
    flow.receive_labels(batch(pipeline.topics.labels, list(labels), stamps, first=first), NOW_MS, NOW_MS)
    flow.merge.let_go(flow.merge.events_received)
    scores: list[Raw] = []
    letters: list[Raw] = []
    sketches: list[Raw] = []
    entities: list[Raw] = []
    state: list[Raw] = []
    timeline = ChampionTimeline([champion()])
    while (step := flow.step(timeline, 40, NOW_MS)) is not None:
        scores += [Raw(key, value) for key, value, _ in step.outgoing_scores]
        fitting = [each.fit() for each in step.dead_letters]
        letters += [Raw(each.key, each.value, tuple(each.to_headers())) for each in fitting]
        sketch = flow.drain_sketch()
        state += [Raw(*change) for change in flow.drain_state()]
        entities += [Raw(*change) for change in flow.drain_entities()]
        flow.state_committed(0, NOW_MS)
        if sketch is not None:
            sketches.append(Raw(None, encode_packed(sketch)))
    return Output(scores, letters, sketches, entities, state)


@lru_cache(maxsize=1)
def output() -> Output:
    return _feed(_flow(), 0, 500, START_MS)


@lru_cache(maxsize=1)
def cluster_setting() -> shared_cluster.Setting:
    """Three partitions, with windows that are shared and some that are repartitioned."""
    with tempfile.TemporaryDirectory() as folder:
        return shared_cluster.Setting.read(Path(folder), "nynyy")


@lru_cache(maxsize=1)
def cluster() -> shared_cluster.Cluster:
    """A cluster in the middle of its work, with all that it has committed."""
    generator = np.random.default_rng(5)
    found = shared_cluster.Cluster(cluster_setting(), shared_cluster.busy_logs(generator), [0, 1, 2])
    for _ in range(600):
        shared_cluster.act(found, generator, may_crash=False)
    return found


# -- outputs of workers, as a monitor reads them ---------------------------------------------------------------------


def _records(topic: str, raws: Sequence[Raw]) -> RecordBatch:
    n = len(raws)
    offsets = np.arange(n, dtype=np.int64)
    headers = [raw.headers for raw in raws]
    return RecordBatch(
        topic, 0, offsets, np.full(n, NOW_MS), [raw.key for raw in raws], [raw.value for raw in raws], headers
    )


class OutputsReader:
    """A block of rows for each settling: as many rows as records were taken."""

    def __init__(self, table: str, make: Callable[..., Any], read: Callable[[OutputReader, Raw], object]) -> None:
        self._table, self._make, self._read = table, make, read
        self._reader = OutputReader(RecordRules.of(setting().pipeline))
        self._warehouse = MemoryWarehouse()
        self._raws: list[Raw] = []
        self._taken = 0

    def take(self, raw: Raw) -> None:
        self._raws.append(raw)
        found = self._read(self._reader, raw)
        if isinstance(found, DeadLetter):  # whoever sends it back
            assert address(found, setting().pipeline.topics)
            found.fit().to_headers()
            select([((0, 0), found)], Wanted(), set())
        self._taken += 1

    def settle(self) -> None:
        if not self._raws:
            return
        block = self._make("cards", self._reader, [_records("x", self._raws)])
        assert block.rows == self._taken
        assert block.refused.counts.total() == len(self._raws) - self._taken
        if block.rows:
            assert self._warehouse.insert(self._table, block.columns, block.token) == block.rows
            self._warehouse.read(self._table, {"pipeline": "cards"})
        self._raws, self._taken = [], 0


class SentBackReader:
    def __init__(self) -> None:
        self._done: set[tuple[int, int]] = set()

    def take(self, raw: Raw) -> None:
        found = decode_json(raw.value, SentBack)
        self._done.add((found.partition, found.offset))

    def settle(self) -> None:
        letters = [((0, at), DeadLetter.from_record(*raw)) for at, raw in enumerate(output().letters)]
        select(letters, Wanted(), self._done)


class DeliveryReader:
    """A sender that takes over what is parked, and tries it; or a command that sends again what is dead."""

    def __init__(self) -> None:
        self._ledger = Ledger({}, {}, ())
        self._queue = HookQueue(Schedule(), lambda _: self._ledger)

    def take(self, raw: Raw) -> None:
        record = read_delivery(setting().pipeline.topics, 0, raw.key, raw.value)
        self._queue.restore([Delivery(record, NOW_MS, is_parked=True)], NOW_MS)

    def settle(self) -> None:
        now_ms = NOW_MS
        for _ in range(40):
            while (delivery := self._queue.take(now_ms)) is not None:
                webhook(delivery.record, now_ms, [bytes(32)])
                slack(delivery.record)
                self._queue.failed(delivery, now_ms, "It is down.")
            self._queue.tidy(now_ms)
            now_ms += HOUR_MS
        for record in self._ledger.drain().dead:
            encode_json(record)


class HookStateReader:
    def __init__(self) -> None:
        self._states: list[HookState] = []

    def take(self, raw: Raw) -> None:
        self._states.append(read_state(raw.key, raw.value))

    def settle(self) -> None:
        for state in self._states:
            encode_json(alert_raised(setting().pipeline, state))
            encode_json(alert_cleared(setting().pipeline, state, NOW_MS, "ann"))


@lru_cache(maxsize=2)
def deliveries(*, dead: bool) -> tuple[Raw, ...]:
    topics = setting().pipeline.topics
    found = [
        HookDelivery(
            "crm",
            Source(topic, 0, at),
            "e",
            kind,
            START_MS,
            msgspec.Raw(raw.value or b"{}"),
            START_MS,
            why="It is down.",
        )
        for topic, kind, raws in (
            (topics.scores, "score.published", output().scores[:5]),
            (topics.model_status, "model.loaded", statuses()),
        )
        for at, raw in enumerate(raws)
    ]
    if dead:
        found = [msgspec.structs.replace(each, given_up_at_ms=NOW_MS) for each in found]
    return tuple(Raw(each.id.encode(), encode_json(each)) for each in found)


class ModelsReader:
    """Both topics of models: a monitor's standings and rows, a worker's timeline, a replay's beginnings."""

    def __init__(self, kind: type[ModelUpdate | ModelStatus]) -> None:
        self._kind = kind
        self._standings = Standings()
        self._updates: list[ModelUpdate] = []
        self._statuses: list[ModelStatus] = []
        self._warehouse = MemoryWarehouse()
        if kind is ModelStatus:
            for raw in updates():
                self._standings.observe_update(decode_json(raw.value, ModelUpdate))

    def take(self, raw: Raw) -> None:
        found = decode_json(raw.value, self._kind)
        if isinstance(found, ModelUpdate):
            self._updates.append(found)
            self._standings.observe_update(found)
            with suppress(RegistryError):
                resolve(found.uri)
        else:
            self._statuses.append(found)
            self._standings.observe_status(found)

    def settle(self) -> None:
        timeline = Timeline(self._updates)
        for span in timeline.spans():
            timeline.champion_at(span.from_ms or 0)
        begins = Begins(self._updates, START_MS)
        begins.of([(0, update.version) for update in self._updates[:9]])
        rows = [(standing, None) for standing in self._standings.all()]
        self._standings.champion()
        self._standings.refused()
        for table, columns in (
            ("model_versions", version_columns("cards", rows)),
            ("model_events", update_columns("cards", [(str(at), one) for at, one in enumerate(self._updates)])),
            ("model_events", status_columns("cards", [(str(at), one) for at, one in enumerate(self._statuses)])),
        ):
            if next(iter(columns.values())):
                self._warehouse.insert(table, columns)
        self._updates, self._statuses = [], []


@lru_cache(maxsize=1)
def updates() -> tuple[Raw, ...]:
    plain = ModelUpdate(
        "fraud", _VERSION, "champion", "file:///nowhere/fraud/1.0.0", "0" * 64, "f", START_MS, by="x", why="y"
    )
    change = msgspec.structs.replace
    later = change(plain, version="1.1.0", valid_from_ms=START_MS, announced_at_ms=START_MS + 1)
    back = change(plain, announced_at_ms=START_MS + 2, is_rollback=True)
    canary = change(plain, version="1.2.0", role="canary", share=0.5, announced_at_ms=START_MS + 3)
    gone = change(later, role="unusable", announced_at_ms=START_MS + 4)
    return tuple(Raw(each.version.encode(), encode_json(each)) for each in (plain, later, back, canary, gone))


@lru_cache(maxsize=1)
def statuses() -> tuple[Raw, ...]:
    found = (
        ModelStatus("w", "fraud", _VERSION, "loaded", START_MS, seconds=0.5, uri="file:///n", sha256="0" * 64),
        ModelStatus("w", "fraud", "1.1.0", "refused", START_MS, why="digest", sha256="0" * 64),
        ModelStatus("v", "fraud", _VERSION, "serving", START_MS, partition=1, offset=7),
        ModelStatus("v", "fraud", None, "began", START_MS, partition=1, offset=7, label_offset=9),
    )
    return tuple(Raw(each.worker.encode(), encode_json(each)) for each in found)


class SketchReader:
    """A monitor, from counts to rows, records and checkpoints."""

    def __init__(self) -> None:
        self._core = MonitorCore(setting().pipeline)
        self._core.register_version(_VERSION, champion().reference, {}, Window(0, 1))
        self._warehouse = MemoryWarehouse()

    def take(self, raw: Raw) -> None:
        self._core.observe(read_sketch(0, raw.value), NOW_MS)

    def settle(self) -> None:
        core = self._core
        core.calibrate()
        findings = core.collect(NOW_MS)
        for table, columns in findings_columns(findings).items():
            self._warehouse.insert(table, columns)
        findings_records(setting().pipeline.topics, findings)
        saved = decode_packed(encode_packed(Saved(core.snapshot(), findings)), Saved)
        again, twice = MonitorCore(setting().pipeline), MonitorCore(setting().pipeline)
        again.restore(saved.core)  # drops what many records together have made of a window, and none of them alone
        twice.restore(again.snapshot())
        assert twice.snapshot() == again.snapshot()


class EntitiesReader:
    """A directory of what all tell, and the next owner of the partition."""

    def __init__(self) -> None:
        pipeline = setting().pipeline
        self._rules = RecordRules.of(pipeline)
        self._directory = EntityDirectory(pipeline.drift.slice_ms, self._rules)
        self._core = MonitorCore(pipeline)
        self._log: list[tuple[bytes, bytes | None]] = []

    def take(self, raw: Raw) -> None:
        if raw.key is not None:
            self._log.append((raw.key, raw.value))
        self._directory.hear(1, raw.key, raw.value)

    def settle(self) -> None:
        directory, pipeline = self._directory, setting().pipeline
        directory.settle()
        names = ["c0", "c1", "new"]
        log = EntityLog(pipeline.remember_ms, self._rules)
        log.restore(self._log)
        assert log.knows([name.encode() for name in names]).shape == (3,)
        for generation in range(4):  # a new one clears what is older
            log.see(names, np.full(3, START_MS + generation * pipeline.remember_ms))
            for key, value in log.drain():
                read_entities(key, value, self._rules)
        directory.examples()
        self._core.inputs.look_up(directory)
        self._core.inputs.rows(NOW_MS)
        self._log = []


# -- between workers -------------------------------------------------------------------------------------------------


class SharedReader:
    """A board that hears of a partition, another partition that reads from it, and the next owner of the first."""

    def __init__(self) -> None:
        self._board = SharedBoard(cluster_setting().plan.shared, range(shared_cluster.PARTITIONS))
        for partition, log in enumerate(cluster().topic):
            for record in log:
                self._board.hear(partition, *record)

    def take(self, raw: Raw) -> None:
        self._board.hear(1, raw.key, raw.value, NOW_MS)

    def settle(self) -> None:
        work(0, self._board)
        work(1, self._board, list(cluster().state[1].items()))


def work(partition: int, board: SharedBoard, state: Sequence[tuple[bytes, bytes | None]] = ()) -> PartitionPipeline:
    """Take a partition over, read on and commit what can be; the flow."""
    setting, logs = cluster_setting(), cluster().logs
    flow = PartitionPipeline(
        setting.pipeline, setting.plan, partition, outputs=FlowOutput.STATE, board=board, term_ms=9
    )
    if state:
        flow.restore(list(state))
    else:
        flow.shared.contributor.begin_anew()  # type: ignore[union-attr]  # it has
    run_on(flow, logs)
    board.sweep()
    return flow


def run_on(flow: PartitionPipeline, logs: shared_cluster.Logs) -> None:
    position = flow.position()
    first_event, first_label = ((at or 0) // 2 for at in (position.events, position.labels))
    for kind, first in (("labels", first_label), ("events", first_event)):
        found = logs.batch(kind, flow.partition, first, first + 50)
        if len(found) and kind == "events":
            flow.receive_events(found)
        elif len(found):
            flow.receive_labels(found, NOW_MS)
    flow.merge.let_go(flow.merge.events_received)
    for _ in range(3):
        flow.step(None, 10, NOW_MS)
        changes = flow.drain_state()
        flow.drain_shared()
        flow.drain_repartition()
        flow.drain_sketch()
        flow.state_committed(0, NOW_MS)
        assert all(isinstance(key, bytes) for key, _ in changes)
    assert flow.shared is None or flow.shared.awaited


class AskedReader:
    """The owner of keys: adds up, answers, and says what may be deleted."""

    def __init__(self) -> None:
        plan = cluster_setting().plan.shared.repartitioned()
        self._answerer = Answerer(plan, cluster_setting().pipeline.feature_set, range(shared_cluster.PARTITIONS))
        self._place = 0

    def take(self, raw: Raw) -> None:
        self._place += 1
        self._answerer.hear(self._place, raw.value, NOW_MS, NOW_MS)
        if self._answerer.is_outdated:
            self._answerer = self._answerer.begin_anew()

    def settle(self) -> None:
        for _, value in self._answerer.answer():
            decode_packed(value, AnswersRecord)
        self._answerer.needed_place()
        self._answerer.entries()


class AnswersReader:
    """A partition that waits for answers."""

    def __init__(self) -> None:
        state = list(cluster().state[0].items())
        board = SharedBoard(cluster_setting().plan.shared, range(shared_cluster.PARTITIONS))
        self._flow = work(0, board, state)
        self._place = 0

    def take(self, raw: Raw) -> None:
        self._place += 1
        assert self._flow.shared is not None
        assert self._flow.shared.repartition is not None
        self._flow.shared.repartition.hear(self._place, raw.value, NOW_MS)

    def settle(self) -> None:
        run_on(self._flow, cluster().logs)
        self._flow.shared.repartition.answers.position(0)  # type: ignore[union-attr]  # they are there


# -- what one owner of a partition leaves to the next ----------------------------------------------------------------


class StateReader:
    """The next owner: restores, and goes on."""

    def __init__(self, *, is_shared: bool, with_state: bool = True) -> None:
        self._is_shared, self._with_state = is_shared, with_state
        self._begin()

    def _begin(self) -> None:
        if self._is_shared:
            board = SharedBoard(cluster_setting().plan.shared, range(shared_cluster.PARTITIONS))
            setting = cluster_setting()
            self._flow = PartitionPipeline(
                setting.pipeline, setting.plan, 0, outputs=FlowOutput.STATE, board=board, term_ms=9
            )
        else:
            self._flow = _flow()
        self._reader = self._flow.state_reader(NOW_MS)
        if self._with_state:
            self.give(states(is_shared=self._is_shared))
        assert not self._reader.refused

    def give(self, raws: Sequence[Raw]) -> None:
        """Take records together."""
        self._reader.take(_records("cards.state", raws), NOW_MS)

    def refused(self) -> list[RefusedRecordError]:
        """What was refused of those that were given."""
        return [error for _, error in self._reader.refused]

    def goes_on_at(self) -> tuple[int | None, int | None]:
        """Offsets of events and labels that the state says."""
        events, labels = self._reader.meta["position"]
        return events, labels

    def take(self, raw: Raw) -> None:
        self.give([raw])
        if self._reader.refused:
            raise self._reader.refused.pop()[1]

    def entries(self) -> int:
        """How many events wait for their labels."""
        return len(self._reader.pending)

    def settle(self) -> None:
        restored = self._flow.go_on_from(self._reader)
        assert restored.records
        if self._is_shared:
            run_on(self._flow, cluster().logs)
        else:
            waiting = [event_id for event_id, _ in self._reader.pending.entries()]
            out = _feed(self._flow, 10_000, 60, output_end_ms(), waiting)
            assert len(out.scores) == 57
            monitor = MonitorCore(setting().pipeline)
            monitor.register_version(_VERSION, champion().reference, {}, Window(0, 1))
            for sketch in out.sketches:
                monitor.observe(read_sketch(0, sketch.value), NOW_MS)
            again = _flow()
            reader = again.state_reader(NOW_MS)
            reader.take(_records("cards.state", out.state), NOW_MS)
            assert not reader.refused
        self._begin()


def output_end_ms() -> int:
    """After what `output` has seen, and before its events are forgotten."""
    return START_MS + 500 * 30_000


@lru_cache(maxsize=2)
def states(*, is_shared: bool) -> tuple[Raw, ...]:
    """The whole changelog of a partition."""
    if is_shared:
        return tuple(Raw(*change) for change in cluster().state[0].items())
    return tuple({raw.key: raw for raw in output().state}.values())


def some(raws: Sequence[Raw]) -> list[Raw]:
    """A few records of each part of a state."""
    parts: dict[bytes, list[Raw]] = {}
    for raw in raws:
        parts.setdefault((raw.key or b"")[:1], []).append(raw)
    return [raw for part in parts.values() for raw in part[-4:]]


class LabelsReader:
    """A partition that reads labels: none is ever refused as a record; a bad one is a dead letter."""

    def __init__(self) -> None:
        self._flow = _flow()
        self._offset = 0

    def take(self, raw: Raw) -> None:
        self._offset += 1
        one = batch("cards.labels", [raw.value], [NOW_MS], first=self._offset, keys=[raw.key], headers=[raw.headers])
        self._flow.receive_labels(one, NOW_MS, NOW_MS)

    def settle(self) -> None:
        timeline = ChampionTimeline([champion()])
        self._flow.receive_events(batch("cards.events", [event(1, NOW_MS)], [NOW_MS], first=self._offset), NOW_MS)
        self._flow.merge.let_go(self._flow.merge.events_received)
        while (step := self._flow.step(timeline, 40, NOW_MS)) is not None:
            assert all(len(letter.reason) > 0 for letter in step.dead_letters)
        self._flow.drain_state()
        self._flow.drain_sketch()
        self._flow.state_committed(0, NOW_MS)


# -- all of them -----------------------------------------------------------------------------------------------------


def _unpack(kind: type[msgspec.Struct]) -> Callable[[Raw], object]:
    return lambda raw: decode_packed(raw.value, kind)


def _parse(kind: type[msgspec.Struct]) -> Callable[[Raw], object]:
    return lambda raw: decode_json(raw.value, kind)


def _letter(raw: Raw) -> DeadLetter:
    return DeadLetter.from_record(*raw)


def _tiles_or_times(*, times: bool) -> tuple[Raw, ...]:
    found = [Raw(*record) for log in cluster().topic for record in log]
    return tuple(raw for raw in found if (raw.key or b"")[:1] == (b"w" if times else b"t"))


def _labels() -> tuple[Raw, ...]:
    return tuple(Raw(b"c", label(f"e{number}", START_MS + number, number % 2)) for number in range(9))


KINDS = (
    Kind(
        "score",
        "scores",
        (Score, Source),
        "json",
        lambda: output().scores[:50],
        _parse(Score),
        partial(OutputsReader, "scores", score_block, lambda reader, raw: reader.score(0, raw.value)),
    ),
    Kind(
        "dead letter",
        "dead_letters",
        (DeadLetter, Source),
        "bytes",
        lambda: output().letters,
        _letter,
        partial(OutputsReader, "dead_letters", dead_letter_block, lambda reader, raw: reader.letter(0, *raw)),
    ),
    Kind(
        "sent back",
        "replayed",
        (SentBack,),
        "json",
        lambda: [Raw(b"0/7", encode_json(SentBack(0, 7, START_MS)))],
        _parse(SentBack),
        SentBackReader,
    ),
    Kind(
        "parked delivery",
        "hooks_retry",
        (HookDelivery, Source),
        "json",
        partial(deliveries, dead=False),
        _parse(HookDelivery),
        DeliveryReader,
    ),
    Kind(
        "dead delivery",
        "hooks_dead",
        (HookDelivery, Source),
        "json",
        partial(deliveries, dead=True),
        _parse(HookDelivery),
        DeliveryReader,
    ),
    Kind(
        "hook state",
        "hooks_state",
        (HookState,),
        "json",
        lambda: [Raw(b"crm", encode_json(HookState("crm", START_MS, "0" * 64, "It is gone.")))],
        _parse(HookState),
        HookStateReader,
    ),
    Kind(
        "model update",
        "model_updates",
        (ModelUpdate,),
        "json",
        updates,
        _parse(ModelUpdate),
        partial(ModelsReader, ModelUpdate),
    ),
    Kind(
        "model status",
        "model_status",
        (ModelStatus,),
        "json",
        statuses,
        _parse(ModelStatus),
        partial(ModelsReader, ModelStatus),
    ),
    Kind(
        "sketch",
        "sketches",
        (SketchRecord, SketchDelta, ErrorRun, LabelCounts, DelayCounts),
        "packed",
        lambda: output().sketches,
        _unpack(SketchRecord),
        SketchReader,
    ),
    Kind(
        "entities",
        "entities",
        (EntityChunk,),
        "packed",
        lambda: output().entities,
        _unpack(EntityChunk),
        EntitiesReader,
    ),
    Kind(
        "shared tile",
        "shared",
        (SharedTile,),
        "packed",
        lambda: _tiles_or_times(times=False),
        _unpack(SharedTile),
        SharedReader,
    ),
    Kind(
        "shared times",
        "shared",
        (SharedTimes,),
        "packed",
        lambda: _tiles_or_times(times=True),
        _unpack(SharedTimes),
        SharedReader,
    ),
    Kind(
        "repartition",
        "repartition",
        (RepartitionRecord, StoreParts, KeyQuestions),
        "packed",
        lambda: [Raw(None, value) for _, log in cluster().asked for value in log],
        _unpack(RepartitionRecord),
        AskedReader,
    ),
    Kind(
        "answers",
        "answers",
        (AnswersRecord, KeyAnswers),
        "packed",
        lambda: [Raw(None, value) for value in cluster().answers[0][1]],
        _unpack(AnswersRecord),
        AnswersReader,
    ),
    Kind(
        "state",
        "state",
        (),
        "packed",
        lambda: some(states(is_shared=False)),
        lambda _: None,
        partial(StateReader, is_shared=False),
    ),
    Kind(
        "state with shared windows",
        "state",
        (),
        "packed",
        lambda: some(states(is_shared=True)),
        lambda _: None,
        partial(StateReader, is_shared=True),
    ),
    Kind("label", "labels", (Label,), "json", _labels, lambda _: None, LabelsReader),
)


def run(kind: Kind, raws: Sequence[Raw], every: int) -> dict[str, int]:
    """Have records read, with a settling after so many; how many there were of each refusal; of "" those taken."""
    reader = kind.reader()
    counts: dict[str, int] = {}
    for number, raw in enumerate(raws):
        reason = take(kind, reader, raw)
        counts[reason] = counts.get(reason, 0) + 1
        if number % every == every - 1:
            reader.settle()
    reader.settle()
    return counts


def decode(kind: Kind, raw: Raw) -> tuple[object, str]:
    """What the bytes of a record say, and the reason of their refusal, "" for none."""
    try:
        return kind.decode(raw), ""
    except RefusedRecordError as error:
        return None, error.reason


def take(kind: Kind, reader: Reader, raw: Raw) -> str:
    """Have a record read; the reason of its refusal, "" for none."""
    try:
        reader.take(raw)
    except RefusedRecordError as error:
        return error.reason
    return ""
