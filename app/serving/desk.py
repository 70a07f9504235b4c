"""Where one partition is asked: what comes in one turn of the event loop is scored at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.batches import RecordBatch
from app.core.scoring import ModelSelector
from app.flow.preview import Preview
from app.pipeline import PartitionPipeline
from app.serving.commits import Answer, Commits
from app.step_size import AskedLately, StepSize
from schemas.pipeline.spec import Pipeline
from schemas.serving import ScoreAnswer, problem

_NO_VERSION = "The event is older than what any version is to score: see `streamgauge model list`, valid_from."


@dataclass(frozen=True, slots=True)
class _Question:
    events: Sequence[bytes]
    with_features: bool
    future: asyncio.Future[list[Answer]]


class PreviewDesk:
    """Answers what is asked of one partition.

    Parameters
    ----------
    models
        Who scores, now.
    is_behind
        Whether the partition has not processed what it should have by now.
    commits
        What is sent as well.
    make_room
        Has the flow drained soon.
    asked
        Is told of each question, so that steps of the stream are short.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        flow: PartitionPipeline,
        *,
        models: Callable[[], ModelSelector],
        is_behind: Callable[[], bool],
        asked: AskedLately,
        commits: Commits,
        make_room: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._pipeline = pipeline
        self._flow = flow
        self._models = models
        self._is_behind = is_behind
        self._asked = asked
        self.commits = commits
        self._make_room = make_room
        self._now_ms = now_ms
        self._size = StepSize()
        self._waiting: deque[_Question] = deque()

    def ask(self, events: Sequence[bytes], *, with_features: bool) -> asyncio.Future[list[Answer]]:
        """Ask for the scores of events (JSON), as if each came next: all from one state, so not for long lists."""
        loop = asyncio.get_running_loop()
        self._asked.note()
        if not self._waiting:
            loop.call_soon(self._answer_some)
        future: asyncio.Future[list[Answer]] = loop.create_future()
        self._waiting.append(_Question(events, with_features, future))
        return future

    def _answer_some(self) -> None:
        """Answer as many as one step may hold; the rest has its turn after the stream's next step."""
        loop = asyncio.get_running_loop()
        step_s = self._asked.step_s
        questions, count, taken, most = [], 0, 0, self._size.of(step_s)
        while self._waiting and (not count or count + len(self._waiting[0].events) <= most):
            question = self._waiting.popleft()
            taken += 1
            if not question.future.done():  # who has gone needs no answer
                questions.append(question)
                count += len(question.events)
        if self._waiting:
            loop.call_soon(self._answer_some)
        loop.call_soon(self._asked.answered, taken)
        if not questions:
            return
        started = loop.time()
        try:
            answers = self._preview(questions, count)
        except Exception as error:  # noqa: BLE001  # a defect: whoever asked hears of it, and the partition lives on
            for question in questions:
                question.future.set_exception(error)
            return
        self._size.adapt(count, loop.time() - started, step_s)
        if self._flow.wants_drain:
            self._make_room()
        first = 0
        for question in questions:
            question.future.set_result(answers[first : first + len(question.events)])
            first += len(question.events)

    def _preview(self, questions: Sequence[_Question], count: int) -> list[Answer]:
        models, now_ms, partition = self._models(), self._now_ms(), self._flow.partition
        if not models.is_ready():
            detail = "No version is loaded: train and promote one with `streamgauge model`, or ask again in a moment."
            return [problem("model-not-ready", detail, partition=partition)] * count
        values = [event for question in questions for event in question.events]
        with_features = [question.with_features for question in questions for _ in question.events]
        records = RecordBatch.unsent(self._pipeline.topics.events, partition, values, now_ms)
        preview = self._flow.preview(records, models, now_ms)
        answers: list[Answer | None] = [None] * count
        for bad in preview.rejections:
            answers[bad.position] = problem("refused", bad.detail, reason=bad.reason, partition=partition)
        self._add_scores(answers, preview, with_features, now_ms)
        return [answer for answer in answers if answer is not None]

    def _add_scores(
        self, answers: list[Answer | None], preview: Preview, with_features: list[bool], now_ms: int
    ) -> None:
        events, position, is_behind = preview.events, preview.position, self._is_behind()
        labels_offset = (position.labels or 0) if self._pipeline.labels is not None else None
        for at, (row, time_ms, score, stale) in enumerate(
            zip(
                preview.rows.tolist(),
                events.event_time_ms.tolist(),
                preview.scores.tolist(),
                preview.is_stale.tolist(),
                strict=True,
            )
        ):
            model = preview.models[at]
            if model is None:
                answers[row] = problem(
                    "no-version", _NO_VERSION, event_id=events.event_id[at], partition=self._flow.partition
                )
                continue
            answers[row] = ScoreAnswer(
                events.event_id[at],
                events.entity[at],
                time_ms,
                score,
                score >= model.threshold,
                model.model,
                model.version,
                model.feature_set,
                self._flow.partition,
                position.events or 0,
                labels_offset,
                stale or is_behind,
                False,  # committed
                now_ms,
                None,
                self._features_of(preview, at) if with_features[row] else None,
            )

    def _features_of(self, preview: Preview, at: int) -> dict[str, float | None]:
        values = preview.matrix[at].tolist()
        return {
            name: None if value != value else value  # noqa: PLR0124  # NaN is missing
            for name, value in zip(self._pipeline.feature_names, values, strict=True)
        }
