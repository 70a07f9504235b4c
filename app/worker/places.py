"""Who serves a partition, as one worker knows it: the `Places` of its scoring hook."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.sticky_assignor import StickyAssignor
from app.adapters.sources.source import Partitioner
from app.core.entities.directory import NOWHERE
from app.core.tiles.hash_runs import hash64
from app.serving.places import Elsewhere, Place
from app.worker.partition_task import PartitionTask
from schemas.pipeline.spec import Pipeline
from schemas.serving import problem

_OUT_OF_TOUCH = "This worker has not heard from Kafka for so long that another may have the partition: ask again soon."
_MOVING = "Partition {} changes hands, or its state is being restored: ask again in a second."
_NOBODY = "No worker is known to have partition {}: start one more, or give it an address by --advertise."


class WorkerPlaces:
    """The places of a worker.

    Parameters
    ----------
    app, assignor
        Say whether the worker still holds what it was given, and what others were given.
    entities
        Where each entity was seen; None: that is not followed.
    tasks, parked
        The partitions that the worker has, and those that were taken from it and may come back; both change.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        app: BatchApp,
        assignor: StickyAssignor,
        entities: EntityFeed | None,
        *,
        tasks: Mapping[int, PartitionTask],
        parked: Mapping[int, PartitionTask],
    ) -> None:
        self._app = app
        self._assignor = assignor
        self._entities = entities
        self._tasks = tasks
        self._parked = parked
        self._partition_of = Partitioner(pipeline.partitions)

    def serve_at(self, url: str) -> None:
        """Tell the other workers where this one answers; before it joins them."""
        self._assignor.url = url

    def owners(self) -> dict[int, str]:
        """Partition -> where it is served, as of the last assignment."""
        return self._assignor.owners

    def home_of(self, entity: str) -> int:
        """The partition of an entity: where it was seen first, as far as that is followed, else where its key goes."""
        key = entity.encode()
        home = NOWHERE
        if self._entities is not None:
            home = int(self._entities.directory.home_of(np.array([hash64(key)], dtype=np.int64))[0])
        return self._partition_of(key) if home == NOWHERE else home

    def find(self, partition: int) -> Place:
        """Who serves a partition: its task here, as long as nobody else can have it, or another worker."""
        task, url = self._tasks.get(partition), self._assignor.owners.get(partition, "")
        if task is not None and task.is_serving:
            if self._app.holds_its_partitions:
                return task.desk
            return problem("kafka-away", _OUT_OF_TOUCH, partition=partition)
        if url and url != self._assignor.url:
            return Elsewhere(url)
        if url or task is not None or partition in self._parked:
            return problem("partition-moving", _MOVING.format(partition), partition=partition)
        return problem("no-owner", _NOBODY.format(partition), partition=partition)
