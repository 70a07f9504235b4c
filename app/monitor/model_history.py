"""What became of the model versions: the model topics, followed, as rows and as references for the monitor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import follow
from app.adapters.own_thread import run_apart
from app.core.batches import RecordBatch
from app.core.counts.calendar import Window
from app.kafka_access import KafkaAccess
from app.monitor.rows import status_columns, to_ms, training_metrics, update_columns, version_columns
from models.reference.reference import Reference
from models.versions.attempts import Place, place_of
from models.versions.manifest import Manifest
from models.versions.registry import RegistryError, find
from models.versions.standing import Standing, Standings
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelStatus, ModelUpdate

log = logging.getLogger("streamgauge.models")

T = TypeVar("T", bound=msgspec.Struct)

#: How long to wait before looking again for a manifest that the registry did not have: longer each time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: How long a look may take; the folder may be of a server that is gone.
_LOOK_UP_S = 30.0
#: How many are looked for, the newest first, before the topic is read on.
_MOST_AT_ONCE = 20


@dataclass(frozen=True)
class KnownVersion:
    """What the monitor must know of a version to judge its windows."""

    version: str
    reference: Reference
    training_metrics: dict[str, float]
    training: Window


@dataclass
class _Waiting:
    """A version whose manifest is not known yet."""

    update: ModelUpdate
    pause_s: float = _FIRST_PAUSE_S
    due_s: float = 0.0

    def look_again(self, now_s: float) -> None:
        self.due_s, self.pause_s = now_s + self.pause_s, min(2 * self.pause_s, _LONGEST_PAUSE_S)


class ModelHistory:
    """Follows the model topics from their beginning; rows are keyed by records, so writing them again is harmless.

    Parameters
    ----------
    known
        Called, in the event loop, with each version whose manifest has been read.
    refusals
        Told of the records that are none of ours.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        kafka: KafkaAccess,
        warehouse: WarehouseThread,
        known: Callable[[KnownVersion], None],
        refusals: Refusals,
    ) -> None:
        #: How each version stands.
        self.standings = Standings()
        #: Versions announced without a manifest that could be read, and why.
        self.unreadable: dict[str, str] = {}
        self._pipeline = pipeline
        self._kafka = kafka
        self._warehouse = warehouse
        self._known = known
        self._refusals = refusals
        self._manifests: dict[Place, Manifest] = {}  # of those that hold what was announced: a version never changes
        self._waiting: dict[str, _Waiting] = {}
        self._written: dict[str, tuple[Standing, bool]] = {}  # by version: what its row says, and with a manifest
        self._row_ms: dict[tuple[str, str], int] | None = None  # by model and version: when its row says it is of
        self._lock = asyncio.Lock()

    async def follow_updates(self) -> None:
        """Write versions and events of the model-update topic, for ever."""
        async for batch in follow(self._kafka, self._pipeline.topics.model_updates):
            if batch is not None:
                updates = self._decode(batch, ModelUpdate)
                columns = update_columns(self._pipeline.name, updates)
                await self._warehouse.call(lambda w, c=columns: w.insert("model_events", c))  # type: ignore[misc]
                for _, update in updates:
                    self.standings.observe_update(update)
                    self._waiting.pop(update.version, None)  # the newest last
                    self._waiting[update.version] = _Waiting(update)
                await self._write_standings()
            await self._look_up_waiting()

    async def follow_statuses(self) -> None:
        """Write what workers say on the model-status topic, for ever."""
        async for batch in follow(self._kafka, self._pipeline.topics.model_status):
            if batch is not None:
                statuses = self._decode(batch, ModelStatus)
                columns = status_columns(self._pipeline.name, statuses)
                await self._warehouse.call(lambda w, c=columns: w.insert("model_events", c))  # type: ignore[misc]
                for _, status in statuses:
                    self.standings.observe_status(status)
                await self._write_standings()

    async def _look_up_waiting(self) -> None:
        """Look for the manifests of announced versions, of those that were not there again and again.

        The newest first, and last those that workers refuse: of these there may be thousands, and nothing waits for
        them.
        """
        now, refused = asyncio.get_running_loop().time(), self.standings.refused()
        due = [waiting for waiting in reversed(self._waiting.values()) if waiting.due_s <= now]
        due.sort(key=lambda waiting: waiting.update.version in refused)
        outcomes = [await self._look_up(waiting) for waiting in due[:_MOST_AT_ONCE]]
        if any(outcomes):
            await self._write_standings()

    async def _look_up(self, waiting: _Waiting) -> bool:
        """Read the manifest of a version; whether it is known now."""
        update = waiting.update
        if place_of(update) not in self._manifests:
            try:
                manifest, reference = await run_apart(lambda: _read(update), _LOOK_UP_S, f"look-up-{update.version}")
            except Exception as error:  # noqa: BLE001  # whatever the files make it raise, the version waits for others
                words = str(error) or f"{update.uri:.200} could not be read within {_LOOK_UP_S:g} s."
                if update.version not in self.unreadable:
                    log.warning("Windows of version %s wait for its manifest: %s", update.version, words)
                self.unreadable[update.version] = words
                waiting.look_again(asyncio.get_running_loop().time())
                return False
            self._manifests[place_of(update)] = manifest
            training = Window(manifest.training.from_ms, manifest.training.to_ms)
            if update.model == self._pipeline.model.name:
                self._known(KnownVersion(update.version, reference, training_metrics(manifest), training))
        self._waiting.pop(update.version, None)
        self.unreadable.pop(update.version, None)
        return True

    async def _write_standings(self) -> None:
        """Write the rows of versions that stand otherwise than was written last."""
        async with self._lock:  # two followers, and a row must not be overtaken by an older one
            changed = []
            for standing in self.standings.all():
                manifest = self._manifests.get(place_of(standing.update))
                said = standing, manifest is not None
                if self._written.get(standing.update.version) != said:
                    self._written[standing.update.version] = said
                    changed.append((standing, manifest))
            if changed:
                columns = version_columns(self._pipeline.name, changed)
                columns["updated_at"] = await self._forward([standing for standing, _ in changed])
                await self._warehouse.call(lambda warehouse: warehouse.insert("model_versions", columns))

    async def _forward(self, standings: list[Standing]) -> list[int]:
        """The times of rows: never before that of the row that is there, for the newest of a version counts.

        Whose refusal is heard late, or is of a clock that is behind, was champion until then, and the one before it
        had a row that says so.
        """
        if self._row_ms is None:
            name = self._pipeline.name
            columns = ("model", "version", "updated_at")  # others are long, and there may be thousands
            rows = await self._warehouse.call(lambda w: w.read("model_versions", {"pipeline": name}, columns))
            self._row_ms = {(row["model"], row["version"]): to_ms(row["updated_at"]) for row in rows}
        for standing in standings:
            version = standing.update.model, standing.update.version
            self._row_ms[version] = max(standing.at_ms, self._row_ms.get(version, standing.at_ms))
        return [self._row_ms[standing.update.model, standing.update.version] for standing in standings]

    def _decode(self, batch: RecordBatch, kind: type[T]) -> list[tuple[str, T]]:
        """The records of a batch that are of this kind, each with its identity."""
        records = self._refusals.decode(batch, kind)
        return [(f"{batch.topic}/{batch.partition}/{offset}", record) for offset, record in records]


def _read(update: ModelUpdate) -> tuple[Manifest, Reference]:
    manifest = find(update.uri).manifest
    said, written = (update.model, update.version, update.sha256), (manifest.model, manifest.version)
    if said != (*written, manifest.artifact.sha256):
        raise RegistryError(f"{update.uri:.200} holds {' '.join(written)}, and not what the update announces.")
    return manifest, manifest.read_reference()
