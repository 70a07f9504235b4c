"""The ledger of a chaos run: every input record against what came of it, and every count against the input log.

Three oracles, from plain to exact: the ledger itself (each event one score or one dead letter), the windows from their
definition (`chaos_windows`, `chaos_shared`), and one undisturbed run of the flow over the same logs, bit for bit
(scores, features, drift counts, errors in their order, state), and what a monitor makes of it (`chaos_monitor`). A
record is told apart by where it was read, (partition, offset).

Over 350 lines: what a run is held against is read in one go.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from chaos_monitor import Monitoring, wrong_errors, wrong_rows
from chaos_shared import expected_shared, shared_windows
from chaos_windows import PlainRecord, expected_windows

from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.sources.features import compile_features
from app.core.batches import RecordBatch
from app.core.counts.sketches import Sketch
from app.core.scoring import ActiveModel
from app.flow.step import FlowOutput, Step
from app.kafka_access import KafkaAccess
from app.pipeline import STEP_EVENTS, PartitionPipeline, new_board
from app.replay.drive import RecordedSelector
from schemas.pipeline.spec import Limits, Pipeline
from schemas.wire import DeadLetter, Score, SketchRecord, decode_packed

#: Header of an input record that must become a dead letter.
POISON_HEADER = "chaos-poison"

#: Keys of a partition whose state is asked for.
_MOST_PROBED = 10_000

Place = tuple[int, int]
Change = tuple[bytes, bytes | None]
#: Version, start of the slice, segment.
Counted = tuple[str, int, str]


@dataclass
class Logs:
    """What the topics of one pipeline hold; of outputs, what was committed. Each partition in its order."""

    pipeline: Pipeline
    events: dict[int, list[RecordBatch]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[int, list[RecordBatch]] = field(default_factory=lambda: defaultdict(list))
    scores: list[Score] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    sketches: list[SketchRecord] = field(default_factory=list)
    state: dict[int, list[Change]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Findings:
    """What is wrong. ``examples``: a few of each kind, in words."""

    events: int = 0
    scored: int = 0
    dead_letters: int = 0
    lost: int = 0
    doubled: int = 0
    conflicting: int = 0
    unknown: int = 0
    reordered: int = 0
    misjudged: int = 0
    wrong_windows: int = 0
    wrong_scores: int = 0
    wrong_state: int = 0
    wrong_drift_counts: int = 0
    wrong_errors: int = 0
    wrong_rows: int = 0
    stale: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def wrong_counts(self) -> int:
        """All that is counted wrong, or follows from such counts, and what was judged or read wrongly.

        No record of a run is late: a stale score is wrong.
        """
        counted = self.wrong_windows + self.wrong_scores + self.wrong_state + self.wrong_drift_counts + self.stale
        judged = self.misjudged + self.unknown + self.reordered
        return counted + self.wrong_errors + self.wrong_rows + judged

    def describe(self) -> str:
        """All counts above nought, and the examples."""
        counts = {name: value for name, value in vars(self).items() if name != "examples" and value}
        return ", ".join(f"{name} {value}" for name, value in counts.items()) + "".join(
            f"\n  {line}" for line in self.examples
        )

    def say(self, text: str, most: int = 12) -> None:
        if len(self.examples) < most:
            self.examples.append(text)


async def read_logs(kafka: KafkaAccess, pipeline: Pipeline) -> Logs:
    """Everything that the topics hold now, committed records only."""
    topics, logs = pipeline.topics, Logs(pipeline)
    names = [topics.events, topics.scores, topics.dead_letters, topics.sketches, topics.state]
    decode = msgspec.json.Decoder(Score).decode
    async for batch in read_to_end(kafka, [*names, topics.labels]):
        if batch.topic == topics.events:
            logs.events[batch.partition].append(batch)
        elif batch.topic == topics.labels:
            logs.labels[batch.partition].append(batch)
        elif batch.topic == topics.scores:
            logs.scores.extend(decode(value) for value in batch.values if value is not None)
        elif batch.topic == topics.dead_letters:
            logs.dead.extend(map(DeadLetter.from_record, batch.keys, batch.values, batch.headers or []))
        elif batch.topic == topics.sketches:
            logs.sketches.extend(decode_packed(value, SketchRecord) for value in batch.values if value is not None)
        else:
            changes = zip(batch.keys, batch.values, strict=True)
            logs.state[batch.partition].extend((key, value) for key, value in changes if key is not None)
    return logs


def check(logs: Logs, models: Mapping[str, ActiveModel] | None) -> Findings:
    """Hold all outcomes against the input.

    Parameters
    ----------
    models
        The versions that may have scored, ready to score again; None: only the ledger and the windows are checked.
    """
    found = Findings()
    lasts = _check_ledger(logs, found)
    _check_windows(logs, lasts, found)
    if models is None:
        return found
    for score in logs.scores:
        if score.version not in models:
            place = score.source.partition, score.source.offset
            found.misjudged += 1
            found.say(f"misjudged {place}: scored by {score.version}, which no worker may use")
            lasts.pop(place, None)
    undisturbed: list[SketchRecord] = []
    for partition, flow in sorted(_check_scores(logs, lasts, models, found).items()):
        record = flow.drain_sketch()
        undisturbed.extend([record] if record else [])
        _check_state(logs, partition, flow, found)
    _check_drift_counts(logs, undisturbed, found)
    _check_monitor(logs, undisturbed, models, found)
    return found


def _check_ledger(logs: Logs, found: Findings) -> dict[Place, Score]:
    """Each event one outcome, of the right kind, in order; the last score of each."""
    lasts, times = _check_order(logs, found)
    poison = dict(_places(logs.events))
    found.events = len(poison)
    letters = [(dead.source.partition, dead.source.offset) for dead in logs.dead if dead.stage != "label"]
    found.dead_letters = len(letters)
    for place in letters:
        if place in lasts:
            found.conflicting += 1
            found.say(f"conflicting {place}: scored, and a dead letter")
        times[place] += 1
    rejected = set(letters)
    for place, is_poison in poison.items():
        if place not in times:
            found.lost += 1
            found.say(f"lost {place}")
        elif is_poison != (place in rejected):
            found.misjudged += 1
            found.say(f"misjudged {place}: poison {is_poison}, dead letter {place in rejected}")
    for place, count in times.items():
        if place not in poison:
            found.unknown += 1
            found.say(f"unknown {place}: no such event")
        elif count > 1:
            found.doubled += count - 1
            found.say(f"doubled {place}: {count} times")
    return lasts


def _check_order(logs: Logs, found: Findings) -> tuple[dict[Place, Score], Counter[Place]]:
    """Last score of each event, and how many it has; repetitions must be the same, and first ones in order.

    Where a repetition is allowed, so is one by a version that was swapped in before it, of the same features: the last
    one stands, as in ClickHouse, and is the one whose counts were committed.
    """
    lasts: dict[Place, Score] = {}
    furthest: dict[int, int] = {}
    times: Counter[Place] = Counter()
    for score in logs.scores:
        place = score.source.partition, score.source.offset
        times[place] += 1
        found.stale += score.stale
        before, lasts[place] = lasts.get(place), score
        if before is not None:
            mine = () if before.version == score.version else _OF_A_VERSION
            if _content(before, mine) != _content(score, mine):
                found.conflicting += 1
                found.say(f"conflicting {place}: {_content(before)} and {_content(score)}")
        elif place[1] < furthest.get(place[0], -1):
            found.reordered += 1
            found.say(f"reordered {place}: after offset {furthest[place[0]]}")
        else:
            furthest[place[0]] = place[1]
    found.scored = len(logs.scores)
    return lasts, times


#: What the version that scores an event decides, and may differ where another one did.
_OF_A_VERSION = ("version", "score", "decision", "reasons")


def _content(score: Score, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """All of a score but the time at which it was made; NaN has become None in JSON."""
    values = msgspec.structs.asdict(score)
    return {name: value for name, value in values.items() if name not in {"scored_at_ms", *without}}


def _places(batches: Mapping[int, Sequence[RecordBatch]]) -> Iterator[tuple[Place, bool]]:
    for partition, parts in batches.items():
        for part in parts:
            headers = part.headers or [()] * len(part)
            for offset, words in zip(part.offsets.tolist(), headers, strict=True):
                yield (partition, offset), any(name == POISON_HEADER for name, _ in words)


def _good(batches: Sequence[RecordBatch]) -> list[PlainRecord]:
    """The records that are not poison."""
    found = []
    for part in batches:
        headers = part.headers or [()] * len(part)
        for offset, value, words in zip(part.offsets.tolist(), part.values, headers, strict=True):
            if value is not None and not any(name == POISON_HEADER for name, _ in words):
                found.append(PlainRecord(offset, value))
    return found


def _check_windows(logs: Logs, scores: Mapping[Place, Score], found: Findings) -> None:
    events = {partition: _good(batches) for partition, batches in sorted(logs.events.items())}
    labels = {partition: _good(logs.labels[partition]) for partition in events}
    shared = expected_shared(logs.pipeline, events, labels) if shared_windows(logs.pipeline) else {}
    for partition, mine in events.items():
        for offset, local in expected_windows(logs.pipeline, mine, labels[partition]):
            place = partition, offset
            score = scores.get(place)
            if score is None or score.stale:
                continue
            expected = {**local, **shared.get(place, {})}
            served = {name: score.features.get(name, math.inf) for name in expected}
            if served != expected:
                found.wrong_windows += 1
                differ = sorted(name for name in expected if served[name] != expected[name])
                values = ", ".join(f"{name} {served[name]}, not {expected[name]}" for name in differ)
                found.say(f"wrong windows of {place}: {values}")


def _check_scores(
    logs: Logs, scores: Mapping[Place, Score], models: Mapping[str, ActiveModel], found: Findings
) -> dict[int, PartitionPipeline]:
    """Run all partitions once more without any fault, and compare bit for bit; the flows at their ends."""
    pipeline = replace(undivided(logs.pipeline), limits=Limits(sys.maxsize, share=1.0, of_last=sys.maxsize))
    plan = compile_features(pipeline)
    board = new_board(plan, logs.events)
    runs = {
        partition: Undisturbed(PartitionPipeline(pipeline, plan, partition, board=board), selector)
        for partition, selector in _selectors(logs, scores, models).items()
    }
    names = pipeline.feature_names
    for step in run_all(runs, logs):
        rows = step.matrix.tolist()
        for offset, expected, row in zip(step.events.offsets.tolist(), step.scores.tolist(), rows, strict=True):
            place = step.partition, offset
            score = scores.get(place)
            if score is None or score.stale:
                continue
            served = [score.features.get(name) for name in names]
            wanted = [None if math.isnan(value) else value for value in row]
            if score.score != expected or served != wanted:
                found.wrong_scores += 1
                differ = [pair for pair in zip(names, served, wanted, strict=True) if pair[1] != pair[2]]
                found.say(f"wrong score {place}: {score.score}, not {expected}; features that differ: {differ}")
    return {partition: run.flow for partition, run in runs.items()}


def _selectors(
    logs: Logs, scores: Mapping[Place, Score], models: Mapping[str, ActiveModel]
) -> dict[int, RecordedSelector]:
    """The versions that scored each partition."""
    found = {}
    for partition in sorted(logs.events):
        starts: list[tuple[int, str]] = []
        for offset in sorted(offset for at, offset in scores if at == partition):
            version = scores[partition, offset].version
            if not starts or starts[-1][1] != version:
                starts.append((offset, version))
        found[partition] = RecordedSelector(starts or [(0, min(models))], models)
    return found


@dataclass
class Undisturbed:
    """The flow of a partition, and who scores."""

    flow: PartitionPipeline
    selector: RecordedSelector

    def steps(self) -> Iterator[Step]:
        while (step := self.flow.step(self.selector, STEP_EVENTS, 0)) is not None:
            yield step


def undivided(pipeline: Pipeline) -> Pipeline:
    """The pipeline with all keys in one place: repartitioned windows have the values of those that are not."""
    features = tuple(
        replace(feature, window=replace(feature.window, repartition=False)) if feature.window else feature
        for feature in pipeline.features
    )
    return replace(pipeline, features=features)


def run_all(runs: Mapping[int, Undisturbed], logs: Logs) -> Iterator[Step]:
    """Run all events, those of the partition that is furthest behind first; labels after the last event stay queued."""
    events = {partition: _pieces(logs.events[partition]) for partition in runs}
    labels = {partition: iter(logs.labels[partition]) for partition in runs}
    while events:
        partition = min(events, key=lambda number: runs[number].flow.merge.event_watermark_ms)
        batch = next(events[partition], None)
        if batch is None:
            del events[partition]
            continue
        flow = runs[partition].flow
        flow.receive_events(batch)
        flow.share()
        while flow.merge.has_events:
            more = next(labels[partition], None)
            if more is None:
                flow.merge.let_go(flow.merge.events_received)
            else:
                flow.receive_labels(more, 0)
            yield from runs[partition].steps()
        for run in runs.values():
            yield from run.steps()
    for run in runs.values():
        assert run.flow.shared is None or not run.flow.shared.held, "A partition ends before the others."


def _pieces(batches: Sequence[RecordBatch], most: int = 2_000) -> Iterator[RecordBatch]:
    """The batches in pieces, so that no partition gets far ahead of the others."""
    for batch in batches:
        for start in range(0, len(batch), most):
            rows = slice(start, start + most)
            yield RecordBatch(
                batch.topic,
                batch.partition,
                batch.offsets[rows],
                batch.timestamps_ms[rows],
                batch.keys[rows],
                batch.values[rows],
                batch.headers[rows] if batch.headers is not None else None,
            )


def _merge(records: Sequence[SketchRecord]) -> dict[Counted, Sketch]:
    merged: dict[Counted, Sketch] = defaultdict(Sketch)
    for record in records:
        for delta in record.deltas:
            merged[delta.version, delta.slice_start_ms, delta.segment].add(delta)
    return merged


def _check_drift_counts(logs: Logs, undisturbed: Sequence[SketchRecord], found: Findings) -> None:
    expected, served = _merge(undisturbed), _merge(logs.sketches)
    for place in sorted(expected.keys() | served.keys()):
        wanted, given = expected.get(place, Sketch()), served.get(place, Sketch())
        if not _same(wanted, given):
            found.wrong_drift_counts += max(1, abs(wanted.n - given.n))
            found.say(f"wrong drift counts {place}: {given.n} events, not {wanted.n}")


def _check_monitor(
    logs: Logs, undisturbed: Sequence[SketchRecord], models: Mapping[str, ActiveModel], found: Findings
) -> None:
    for version, count in wrong_errors(logs.sketches, undisturbed).items():
        found.wrong_errors += count
        found.say(f"wrong errors of {version}: {count} decisions are otherwise, or elsewhere")
    live, expected = (Monitoring(logs.pipeline, models.values()) for _ in range(2))
    live.read_live(logs.sketches)
    expected.read(undisturbed)
    for table, row, wanted in wrong_rows(live, expected):
        found.wrong_rows += 1
        found.say(f"wrong row of {table}: {row}, not {wanted}")


def _same(one: Sketch, other: Sketch) -> bool:
    """Equal but for zeros at the end of the cells."""
    width = max(len(one.cells), len(other.cells))
    cells = [np.pad(sketch.cells, (0, width - len(sketch.cells))) for sketch in (one, other)]
    pairs = [cells, *((getattr(one, name), getattr(other, name)) for name in ("sums", "minima", "maxima", "outcomes"))]
    numbers = [(s.n, s.log_loss_sum, s.n_correct) for s in (one, other)]
    return numbers[0] == numbers[1] and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _check_state(logs: Logs, partition: int, flow: PartitionPipeline, found: Findings) -> None:
    """Restore the changelog, and the state of the undisturbed flow: the same questions must get the same answers."""
    if not _good(logs.events[partition]):
        return
    at_end = flow.merge.event_watermark_ms, flow.merge.label_watermark_ms
    of_one_entity = [
        number
        for number, feature in enumerate(logs.pipeline.features)
        if feature.window is None or feature.window.delay_ms is None
    ]
    answers = []
    for pipeline, changes in (
        (logs.pipeline, logs.state[partition]),
        (undivided(logs.pipeline), flow.drain_state()),
    ):
        # Scores are not asked for, so no model is needed; windows and waiting events are what was restored.
        probed = PartitionPipeline(pipeline, compile_features(pipeline), partition, outputs=FlowOutput.NONE)
        probed.restore(changes)
        reached = probed.merge.event_watermark_ms, probed.merge.label_watermark_ms
        answers.append((reached, _probe(logs, partition, probed)[:, of_one_entity]))
    if answers[0][0] != at_end:
        found.wrong_state += 1
        found.say(f"wrong state of partition {partition}: watermarks {answers[0][0]}, not {at_end}")
    differ = int((~np.isclose(answers[0][1], answers[1][1], rtol=0, atol=0, equal_nan=True)).any(axis=1).sum())
    if differ:
        found.wrong_state += differ
        found.say(f"wrong state of partition {partition}: {differ} of {len(answers[0][1])} probes answered otherwise")


def _probe(logs: Logs, partition: int, flow: PartitionPipeline) -> np.ndarray[Any, Any]:
    """Features of new events: of every key, with the windows as they are, and again after the last events' labels."""
    pipeline = logs.pipeline
    bodies = [json.loads(record.value) for record in _good(logs.events[partition])]
    time, entity, name = pipeline.events.time, pipeline.events.entity, pipeline.events.event_id
    newest_ms = max(body[time] for body in bodies)
    templates = list({body[entity]: body for body in bodies}.values())
    templates = templates[:: len(templates) // _MOST_PROBED + 1]
    if pipeline.labels is not None:
        labels = [
            {"event_id": body[name], "label": 1.0, "label_time_ms": newest_ms + 1_500} for body in bodies[-2_000:]
        ]
        flow.receive_labels(_batch(pipeline.topics.labels, partition, labels, newest_ms), 0)
    probes = [
        {**body, time: at_ms, name: f"probe-{number}-{at_ms}"}
        for at_ms in (newest_ms - 40_000, newest_ms - 20_000, newest_ms, newest_ms + 2_000)
        for number, body in enumerate(templates)
    ]
    flow.receive_events(_batch(pipeline.topics.events, partition, probes, newest_ms))
    flow.merge.let_go(flow.merge.events_received)
    found = []
    while (step := flow.step(None, STEP_EVENTS, 0)) is not None:
        found.append(step.matrix)
    return np.concatenate(found)


def _batch(topic: str, partition: int, bodies: Sequence[Mapping[str, Any]], time_ms: int) -> RecordBatch:
    """Records after all others."""
    offsets = np.arange(len(bodies), dtype=np.int64) + 2**40
    values: list[bytes | None] = [json.dumps(body).encode() for body in bodies]
    stamps = np.full(len(bodies), time_ms + 10_000, dtype=np.int64)
    return RecordBatch(topic, partition, offsets, stamps, [None] * len(bodies), values, None)
