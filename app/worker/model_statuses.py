"""What a worker tells the status topic of model versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_producer
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelStatus, ModelUpdate, encode_json

log = logging.getLogger("streamgauge.models")


class ModelStatuses:
    """The status records of one worker.

    Parameters
    ----------
    worker
        Name that this process signs its records with.
    """

    def __init__(self, pipeline: Pipeline, kafka: KafkaAccess, worker: str, now_ms: Callable[[], int]) -> None:
        self._kafka = kafka
        self._topic = pipeline.topics.model_status
        self._model = pipeline.model.name
        self._worker = worker
        self._now_ms = now_ms
        self._untold: list[ModelStatus] = []
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        self._producer = new_producer(self._kafka)
        await self._producer.start()

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def tell_serving(self, version: str, partition: int, offset: int) -> None:
        """Say where a version scored its first event of a partition."""
        await self._tell(self._status(version, "serving", partition=partition, offset=offset))

    def describe_beginning(self, partition: int, offset: int, label_offset: int | None) -> bytes:
        """A record for the topic: where a partition begins of which nothing was processed before."""
        about = {"partition": partition, "offset": offset, "label_offset": label_offset}
        return encode_json(self._status(None, "began", **about))

    def note(self, update: ModelUpdate, status: str, why: str, seconds: float) -> None:
        """Take note of what became of an announced version; `tell_the_rest` tells it."""
        log.info("Model %s %s %s %s", update.model, update.version, status, why)
        record = self._status(
            update.version, status, why=why[:2_000], seconds=seconds, uri=update.uri, sha256=update.sha256
        )
        self._untold.append(record)

    async def tell_the_rest(self) -> None:
        """Tell all at once, in their order; one by one, each would wait for Kafka's answer to the one before."""
        telling, self._untold = self._untold, []
        answers = await asyncio.gather(*map(self._tell, telling), return_exceptions=True)
        failed = {place: answer for place, answer in enumerate(answers) if isinstance(answer, BaseException)}
        self._untold[:0] = [telling[place] for place in failed]
        for error in failed.values():
            if not isinstance(error, KafkaError):
                raise error
        if failed:
            log.warning("What became of %d versions cannot be told now: %r", len(failed), next(iter(failed.values())))

    def _status(self, version: str | None, status: str, **about: object) -> ModelStatus:
        return ModelStatus(
            worker=self._worker,
            model=self._model,
            version=version,
            status=status,  # type: ignore[arg-type]  # one of the words of the contract
            at_ms=self._now_ms(),
            **about,  # type: ignore[arg-type]  # fields of the record
        )

    async def _tell(self, record: ModelStatus) -> None:
        if self._producer is not None:
            await self._producer.send_and_wait(self._topic, encode_json(record), key=self._worker.encode())
