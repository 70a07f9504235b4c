"""Which records of a batch a hook tells, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from app.core.batches import Column, RecordBatch
from app.core.features.expressions import Columns, compile_expression
from app.core.hooks.delivery import Delivery
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules, check_readable
from schemas.pipeline.expression import EVENT_TIME
from schemas.pipeline.hook_filter import parse_where
from schemas.pipeline.spec import Hook, HookSubject, Pipeline
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import Alert, HookDelivery, ModelStatus, Score, Source, WindowVerdict, decode_json, encode_json

#: Is told of a record that is none of ours: its offset, and why.
Refuse = Callable[[int, RefusedRecordError], None]


def topic_of(topics: Topics, on: HookSubject) -> str:
    """The topic whose records a hook tells of."""
    return {
        "scores": topics.scores,
        "alerts": topics.alerts,
        "verdicts": topics.verdicts,
        "models": topics.model_status,
    }[on]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told of one record: type, the entity in whose order, when it happened, and the record itself."""

    offset: int
    type: str
    entity: str
    time_ms: int
    record: msgspec.Struct


class Selection:
    """Turns the records of a pipeline's topics into deliveries of its hooks."""

    def __init__(self, pipeline: Pipeline) -> None:
        topics = pipeline.topics
        self._reader = OutputReader(RecordRules.of(pipeline))
        self._hooks: dict[str, list[tuple[Hook, _Filter | None]]] = {}
        for hook in pipeline.hooks:
            where = _Filter(hook.where, pipeline) if hook.where else None
            self._hooks.setdefault(topic_of(topics, hook.on), []).append((hook, where))
        self._read: dict[str, Callable[[RecordBatch, int], _Told]] = {
            topics.scores: self._score,
            topics.alerts: _alert,
            topics.verdicts: _verdict,
            topics.model_status: _model,
        }

    @property
    def topics(self) -> list[str]:
        """The topics that hooks tell of."""
        return sorted(self._hooks)

    def select(self, batch: RecordBatch, now_ms: int, refuse: Refuse) -> Iterator[Delivery]:
        """What the hooks have to tell of a batch, in its order."""
        read = self._read[batch.topic]
        told: list[_Told] = []
        for position, value in enumerate(batch.values):
            if value is None and position not in batch.unreadable:
                continue
            try:
                check_readable(batch, position)
                told.append(read(batch, position))
            except RefusedRecordError as error:
                refuse(int(batch.offsets[position]), error)
        hooks = [(hook, where.passes(told) if where is not None else None) for hook, where in self._hooks[batch.topic]]
        for place, each in enumerate(told):
            names = [hook.name for hook, passes in hooks if passes is None or passes[place]]
            if not names:
                continue
            data = msgspec.Raw(encode_json(each.record))
            source = Source(batch.topic, batch.partition, each.offset)
            for name in names:
                delivery = HookDelivery(name, source, each.entity, each.type, each.time_ms, data, now_ms)
                yield Delivery(delivery, now_ms)

    def _score(self, batch: RecordBatch, position: int) -> _Told:
        score = self._reader.score(batch.partition, batch.values[position])
        return _Told(int(batch.offsets[position]), "score.published", score.entity, score.scored_at_ms, score)


def _alert(batch: RecordBatch, position: int) -> _Told:
    alert = decode_json(batch.values[position], Alert)
    return _Told(int(batch.offsets[position]), f"alert.{alert.state}", alert.alert_id, alert.at_ms, alert)


def _verdict(batch: RecordBatch, position: int) -> _Told:
    verdict = decode_json(batch.values[position], WindowVerdict)
    time_ms = int(batch.timestamps_ms[position])
    return _Told(int(batch.offsets[position]), "verdict.reached", verdict.version, time_ms, verdict)


def _model(batch: RecordBatch, position: int) -> _Told:
    status = decode_json(batch.values[position], ModelStatus)
    return _Told(int(batch.offsets[position]), f"model.{status.status}", status.worker, status.at_ms, status)


class _Filter:
    """The filter ``where`` of a hook on scores."""

    def __init__(self, where: str, pipeline: Pipeline) -> None:
        expression = parse_where(where, pipeline)
        self._names = expression.names
        self._evaluate = compile_expression(expression)

    def passes(self, told: Sequence[_Told]) -> list[bool]:
        """Which scores fulfil it; where something is missing that decides, none does."""
        scores = [each.record for each in told if isinstance(each.record, Score)]
        columns: Columns = {name: _column(name, scores) for name in self._names}
        values = self._evaluate(columns, len(scores))
        return [bool(passes) for passes in (values != 0) & ~np.isnan(values)]


def _column(name: str, scores: Sequence[Score]) -> Column:
    if name == "version":
        return np.array([score.version for score in scores], dtype=object)
    if name == "entity":
        return np.array([score.entity for score in scores], dtype=object)
    if name == "score":
        return np.array([score.score for score in scores], dtype=np.float64)
    if name == "decision":
        return np.array([score.decision for score in scores], dtype=np.float64)
    if name == EVENT_TIME:
        return np.array([score.event_time_ms for score in scores], dtype=np.float64)
    return np.array([score.features.get(name) for score in scores], dtype=np.float64)  # None is NaN
