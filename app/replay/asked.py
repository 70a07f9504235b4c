"""Answers of the scoring hook, held against a replay up to the offsets that they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from app.adapters.recordings.file import EVENTS, LABELS, RecordedLog, RecordingError
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ActiveModel, ChampionTimeline
from app.pipeline import STEP_EVENTS
from app.replay.drive import new_flow
from schemas.pipeline.spec import Pipeline
from schemas.serving import ScoreAnswer

_MOST_EXAMPLES = 5


class AskedEvent(msgspec.Struct):
    """A line of the file: an event as it was sent, and the answer to it."""

    event: msgspec.Raw
    answer: ScoreAnswer


@dataclass
class AskedParity:
    """What a comparison found. ``stale``, ``published``: answers that are not compared, as they say so."""

    compared: int = 0
    stale: int = 0
    published: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.different


def read_asked(path: Path) -> list[AskedEvent]:
    """The events and answers of a file of JSON lines.

    Raises
    ------
    RecordingError
        When a line is not ``{"event": {…}, "answer": {…}}``.
    """
    decode = msgspec.json.Decoder(AskedEvent).decode
    asked = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            asked.append(decode(line))
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise RecordingError(
                f'{path}, line {number}: {error}. Write a line {{"event": …, "answer": …}} for each event asked.'
            ) from error
    return asked


def check_asked(
    pipeline: Pipeline,
    plan: FeaturePlan,
    recording: RecordedLog,
    load: Callable[[str], ActiveModel],
    asked: Sequence[AskedEvent],
) -> AskedParity:
    """Ask again, each after the events and with the labels before its offsets.

    Parameters
    ----------
    load
        Gives a version that has answered.

    Raises
    ------
    RecordingError
        When partitions share windows: what one knew of another at that moment is in no log.
    """
    if plan.shared:
        raise RecordingError(f"{pipeline.name} has windows that partitions share: its answers cannot be replayed.")
    found = AskedParity()
    models = {version: ChampionTimeline([load(version)]) for version in {one.answer.version for one in asked}}
    parts: dict[int, list[AskedEvent]] = defaultdict(list)
    for one in asked:
        found.stale += one.answer.stale
        found.published += one.answer.source is not None
        if not one.answer.stale and one.answer.source is None:
            parts[one.answer.partition].append(one)
    for partition, of_part in sorted(parts.items()):
        flow = new_flow(pipeline, plan, partition, None)
        events = _Log(recording.read(EVENTS, partition, pipeline))
        labels = _Log(recording.read(LABELS, partition, pipeline) if pipeline.labels is not None else iter(()))
        for one in sorted(of_part, key=lambda one: (one.answer.offset, one.answer.labels_offset or 0)):
            answer = one.answer
            for batch in labels.until(answer.labels_offset or 0):
                flow.receive_labels(batch, answer.served_at_ms)
            for batch in events.until(answer.offset):
                flow.receive_events(batch)
            flow.merge.let_go(flow.merge.events_received)
            while flow.step(None, STEP_EVENTS, answer.served_at_ms) is not None:
                pass
            records = RecordBatch.unsent(pipeline.topics.events, partition, [bytes(one.event)], answer.served_at_ms)
            preview = flow.preview(records, models[answer.version], answer.served_at_ms)
            found.compared += 1
            why = _difference(pipeline, answer, preview.scores.tolist(), preview.matrix.tolist())
            if why and len(found.different) < _MOST_EXAMPLES:
                place = f"partition {partition} offset {answer.offset}"
                found.different.append(f"{answer.event_id}, {place}: {why}")
    return found


def _difference(pipeline: Pipeline, answer: ScoreAnswer, scores: list[float], rows: list[list[float]]) -> str:
    """What differs between an answer and what was computed anew; "" for nothing."""
    if not scores:
        return "answered, and refused now"
    if answer.feature_set != pipeline.feature_set:
        return f"answered by feature set {answer.feature_set}, and the pipeline's is {pipeline.feature_set}"
    for name, value in zip(pipeline.feature_names, rows[0], strict=True):
        said = (answer.features or {}).get(name)
        now = None if np.isnan(value) else value
        if answer.features is not None and said != now:
            return f"{name} was {said!r}, and is {now!r} now"
    return "" if scores[0] == answer.score else f"the score was {answer.score!r}, and is {scores[0]!r} now"


class _Log:
    """A log that is read up to one offset after the other."""

    def __init__(self, batches: Iterator[RecordBatch]) -> None:
        self._batches = batches
        self._rest: RecordBatch | None = None

    def until(self, offset: int) -> Iterator[RecordBatch]:
        """What comes next, before an offset."""
        while True:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            self._rest = None
            if batch is None:
                return
            before = batch.between(0, offset)
            if len(before):
                yield before
            if len(before) < len(batch):
                self._rest = batch.cut(len(before), len(batch))
                return
