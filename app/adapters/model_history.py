"""What became of the model versions: the model topics, followed, as rows and as references for the monitor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from app.adapters.effects import status_columns, training_metrics, update_columns, version_columns
from app.adapters.topic_reader import follow
from app.adapters.warehouse_thread import WarehouseThread
from app.core.batches import RecordBatch
from app.core.drift_calendar import Window
from models.manifest import Manifest, ManifestError
from models.reference import Reference
from models.registry import RegistryError, resolve
from models.timeline import Timeline
from schemas.pipeline import Pipeline
from schemas.wire import ModelStatus, ModelUpdate

log = logging.getLogger("streamgauge.models")

T = TypeVar("T", bound=msgspec.Struct)

#: How long to wait before looking again for a manifest that the registry did not have.
_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True)
class KnownVersion:
    """What the monitor must know of a version to judge its windows."""

    version: str
    reference: Reference
    training_metrics: dict[str, float]
    training: Window


class ModelHistory:
    """Follows the model topics from their beginning; rows are keyed by records, so writing them again is harmless.

    Parameters
    ----------
    known
        Called, in the event loop, with each version whose manifest has been read.
    """

    def __init__(
        self, pipeline: Pipeline, bootstrap: str, warehouse: WarehouseThread, known: Callable[[KnownVersion], None]
    ) -> None:
        self.timeline = Timeline()
        #: Versions announced without a manifest that could be read, and why.
        self.unreadable: dict[str, str] = {}
        self._pipeline = pipeline
        self._bootstrap = bootstrap
        self._warehouse = warehouse
        self._known = known
        self._manifests: dict[str, Manifest] = {}  # by URI: a version never changes
        self._waiting: dict[str, ModelUpdate] = {}
        self._standing: dict[str, ModelUpdate] = {}  # by version: what its row says
        self._look_at = 0.0

    async def follow_updates(self) -> None:
        """Write versions and events of the model-update topic, for ever."""
        loop = asyncio.get_running_loop()
        async for batch in follow(self._bootstrap, self._pipeline.topics.model_updates):
            if batch is not None:
                updates = list(_decode(batch, ModelUpdate))
                columns = update_columns(self._pipeline.name, updates)
                await self._warehouse.call(lambda w, c=columns: w.insert("model_events", c))  # type: ignore[misc]
                for _, update in updates:
                    await self._take(update)
            elif self._waiting and loop.time() >= self._look_at:
                self._look_at = loop.time() + _LOOK_AGAIN_S
                for update in list(self._waiting.values()):
                    await self._look_up(update)

    async def follow_statuses(self) -> None:
        """Write what workers say on the model-status topic, for ever."""
        async for batch in follow(self._bootstrap, self._pipeline.topics.model_status):
            if batch is not None:
                columns = status_columns(self._pipeline.name, list(_decode(batch, ModelStatus)))
                await self._warehouse.call(lambda w, c=columns: w.insert("model_events", c))  # type: ignore[misc]

    async def _take(self, update: ModelUpdate) -> None:
        before = self.timeline.newest()
        self.timeline.observe(update)
        after = self.timeline.newest()
        if before is not None and after is not None and before.version != update.version == after.version:
            # The row says what a version is now; whose events it scored, the timeline and `scores` say.
            words = f"rolled back to {update.version}" if update.is_rollback else f"superseded by {update.version}"
            retired = msgspec.structs.replace(
                before, role="retired", announced_at_ms=update.announced_at_ms, by=update.by, why=words
            )
            await self._write(retired)
        await self._write(update)
        await self._look_up(update)

    async def _look_up(self, update: ModelUpdate) -> None:
        if update.uri not in self._manifests:
            try:
                manifest, _ = await asyncio.to_thread(resolve, update.uri)
                reference = manifest.read_reference()
            except (RegistryError, ManifestError) as error:
                if update.version not in self.unreadable:
                    log.warning("Windows of version %s wait for its manifest: %s", update.version, error)
                self.unreadable[update.version] = str(error)
                self._waiting[update.version] = update
                return
            self._manifests[update.uri] = manifest
            training = Window(manifest.training.from_ms, manifest.training.to_ms)
            if update.model == self._pipeline.model.name:
                self._known(KnownVersion(update.version, reference, training_metrics(manifest), training))
        self._waiting.pop(update.version, None)
        self.unreadable.pop(update.version, None)
        await self._write(self._standing[update.version])

    async def _write(self, update: ModelUpdate) -> None:
        self._standing[update.version] = update
        columns = version_columns(self._pipeline.name, [(update, self._manifests.get(update.uri))])
        await self._warehouse.call(lambda warehouse: warehouse.insert("model_versions", columns))


def _decode(batch: RecordBatch, kind: type[T]) -> Iterator[tuple[str, T]]:
    for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
        if value is None:
            continue
        event_id = f"{batch.topic}/{batch.partition}/{offset}"
        try:
            yield event_id, msgspec.json.decode(value, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s is no %s and is passed over: %s", event_id, kind.__name__, error)
