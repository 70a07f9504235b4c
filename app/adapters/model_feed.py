"""The shelf of a worker: follows the model-update topic, verifies what it names, keeps the champions ready to score.

Reading, checking and warming up happen in a thread, beside the event loop; what is refused leaves the champions as
they are, and the status topic says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from aiokafka import AIOKafkaProducer

from app.adapters.topic_reader import follow
from app.core.scoring import ActiveModel, ChampionTimeline
from models.reference import Reference
from models.registry import RegistryError, resolve
from models.timeline import Timeline
from models.trial import Trial
from models.verify import RefusedModelError, verify
from schemas.pipeline import Pipeline
from schemas.wire import ModelStatus, ModelUpdate, encode_json

log = logging.getLogger("streamgauge.models")


@dataclass(frozen=True)
class _Verdict:
    model: ActiveModel | None
    why: str = ""
    seconds: float = 0.0


class ModelShelf:
    """Keeps the champions of a pipeline loaded.

    Parameters
    ----------
    worker
        Name that this process signs its status records with.
    trial
        Tries the versions that are there at the start, and is closed after them; later ones have their own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        bootstrap: str,
        worker: str,
        now_ms: Callable[[], int],
        trial: Trial | None = None,
    ) -> None:
        self.champions = ChampionTimeline()
        self.references: dict[str, Reference] = {}
        self._pipeline = pipeline
        self._bootstrap = bootstrap
        self._worker = worker
        self._now_ms = now_ms
        self._timeline = Timeline()
        self._verdicts: dict[str, _Verdict] = {}  # by artifact digest and version
        #: Shared by all that is to be verified at a time: its start takes seconds.
        self._trial = trial
        self._producer: AIOKafkaProducer | None = None
        self._following: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None

    async def start(self, changed: Callable[[], None]) -> None:
        """Read the timeline up to now, then go on following it; ``changed`` is called after each swap."""
        self._changed = changed
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, enable_idempotence=True)
        await self._producer.start()
        caught_up = asyncio.Event()
        self._following = asyncio.create_task(self._follow(caught_up), name="model-updates")
        reached = asyncio.create_task(caught_up.wait())
        await asyncio.wait([reached, self._following], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if self._following.done():
            await self._following

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        self._end_trial()
        if self._producer is not None:
            await self._producer.stop()

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    async def tell_serving(self, version: str, partition: int, offset: int) -> None:
        """Say on the status topic where a version scored its first event of a partition."""
        await self._tell(version, "serving", partition=partition, offset=offset)

    def describe_beginning(self, partition: int, offset: int, label_offset: int | None) -> bytes:
        """A record for the status topic: where a partition begins of which nothing was processed before."""
        return encode_json(
            ModelStatus(
                worker=self._worker,
                model=self._pipeline.model.name,
                version=None,
                status="began",
                at_ms=self._now_ms(),
                partition=partition,
                offset=offset,
                label_offset=label_offset,
            )
        )

    async def _follow(self, caught_up: asyncio.Event) -> None:
        pending: list[ModelUpdate | None] = []
        async for batch in follow(self._bootstrap, self._pipeline.topics.model_updates):
            if batch is not None:
                pending.extend(self._read(value) for value in batch.values if value is not None)
                continue
            if pending:
                fresh, pending = [update for update in pending if update is not None], []
                for update in fresh:
                    self._timeline.observe(update)
                await self._load_champions()
            self._end_trial()
            caught_up.set()

    @staticmethod
    def _read(value: bytes) -> ModelUpdate | None:
        try:
            return msgspec.json.decode(value, type=ModelUpdate)
        except msgspec.DecodeError as error:
            log.warning("A record of the model-update topic is not a model update and is passed over: %s", error)
        return None

    async def _load_champions(self) -> None:
        for update in self._timeline.announced:  # who was rolled back, too: labels of what it scored are to come
            verdict = await self._judge(update)
            if verdict.model is not None:
                self.references[update.version] = verdict.model.reference
        ready = [
            replace(verdict.model, valid_from_ms=update.valid_from_ms)
            for update in self._timeline.champions
            if (verdict := await self._judge(update)).model is not None
        ]
        self.champions = ChampionTimeline(ready, self._pipeline.model.score_from_ms)
        self._changed()

    async def _judge(self, update: ModelUpdate) -> _Verdict:
        verdict = self._verdicts.get(update.sha256 + update.version)
        if verdict is None:
            verdict = await asyncio.to_thread(self._verify, update)
            self._verdicts[update.sha256 + update.version] = verdict
            status = "refused" if verdict.model is None else "loaded"
            log.info("Model %s %s %s %s", update.model, update.version, status, verdict.why)
            await self._tell(update.version, status, why=verdict.why, seconds=verdict.seconds)
        return verdict

    def _verify(self, update: ModelUpdate) -> _Verdict:
        started = time.monotonic()
        try:
            manifest, artifact = resolve(update.uri)
            self._trial = self._trial or Trial()
            verified = verify(
                manifest,
                artifact,
                self._pipeline.feature_set,
                expected_sha256=update.sha256,
                expected_names=self._pipeline.feature_names,
                expected_model=(update.model, update.version),
                trial=self._trial,
            )
            reference = manifest.read_reference()
        except (RegistryError, RefusedModelError) as error:
            return _Verdict(None, str(error), time.monotonic() - started)
        except ValueError as error:
            return _Verdict(None, f"reference: {error}", time.monotonic() - started)
        model = ActiveModel(
            model=update.model,
            version=update.version,
            role="champion",
            feature_set=manifest.feature_set,
            threshold=self._pipeline.model.threshold,
            scorer=verified.scorer,
            reference=reference,
        )
        return _Verdict(model, seconds=time.monotonic() - started)

    async def _tell(
        self,
        version: str,
        status: str,
        *,
        why: str = "",
        partition: int | None = None,
        offset: int | None = None,
        seconds: float | None = None,
    ) -> None:
        record = ModelStatus(
            worker=self._worker,
            model=self._pipeline.model.name,
            version=version,
            status=status,  # type: ignore[arg-type]  # one of the three words above
            at_ms=self._now_ms(),
            why=why,
            partition=partition,
            offset=offset,
            seconds=seconds,
        )
        if self._producer is not None:
            topic = self._pipeline.topics.model_status
            await self._producer.send_and_wait(topic, encode_json(record), key=self._worker.encode())
