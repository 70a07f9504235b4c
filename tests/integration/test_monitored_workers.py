"""What a monitor says of a topic does not depend on how many workers scored it, nor on which of them died.

With everything at once: segments, windows that overlap, events that are late (5 %), occur twice or are no events,
labels, two versions, and detectors (CUSUM and ADWIN) on the errors of all partitions.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from chaos_load import Load, Sent, new_random, to_batch
from chaos_monitor import TABLES, Monitoring, wrong_errors, wrong_rows
from chaos_pipeline import START_MS, Setup, render_toml, train_version

from app.adapters.sources.features import compile_features
from app.core.features.plan import FeaturePlan
from app.core.scoring import ActiveModel, ChampionTimeline
from app.pipeline import PartitionPipeline
from app.replay.models import load_model
from models.versions.registry import Registry
from schemas.pipeline.file import load as load_pipeline
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord

PARTITIONS = 8
LOAD = Load(seed=11, n=3_000, partitions=PARTITIONS, with_labels=True, late=0.05)


@dataclass(frozen=True)
class Scene:
    """A pipeline, its versions, the logs of each partition, and the monitor of who ran through in one go."""

    pipeline: Pipeline
    plan: FeaturePlan
    models: list[ActiveModel]
    events: dict[int, list[Sent]]
    labels: dict[int, list[Sent]]
    undisturbed: list[SketchRecord]
    expected: Monitoring


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("monitored")
    path = folder / "monitored.toml"
    path.write_text(render_toml("monitored", Setup(with_labels=True, partitions=PARTITIONS, monitored=True)))
    pipeline = load_pipeline(path)
    registry, models = Registry(folder / "registry"), []
    for number, valid_from_ms in ((1, None), (2, START_MS + 70_000)):
        trained = train_version(pipeline, f"{number}.0.0", seed=number)
        registry.register(trained.manifest, trained.artifact)
        models.append(replace(load_model(pipeline, registry, f"{number}.0.0"), valid_from_ms=valid_from_ms))
    scene = Scene(
        pipeline,
        compile_features(pipeline),
        models,
        by_partition([LOAD.event(pipeline.topics, number) for number in range(LOAD.n)]),
        by_partition(LOAD.labels(pipeline.topics)),
        [],
        Monitoring(pipeline, models),
    )
    for number in range(PARTITIONS):
        scene.undisturbed.extend(Partition(scene, number, {}).commit_all())
    scene.expected.read(scene.undisturbed)
    return scene


def by_partition(sent: list[Sent]) -> dict[int, list[Sent]]:
    found = defaultdict(list)
    for one in sent:
        found[one.partition].append(one)
    return found


class Partition:
    """A partition in the hands of a worker; ``state`` is the changelog, all that outlives it."""

    def __init__(self, scene: Scene, number: int, state: dict[bytes, bytes | None]) -> None:
        self._timeline = ChampionTimeline(scene.models)
        self._events, self._labels = scene.events[number], scene.labels[number]
        self._state = state
        self._flow = PartitionPipeline(scene.pipeline, scene.plan, number)
        self._flow.restore(state.items())
        for model in scene.models:
            self._flow.know(model.version, model.reference)
        position = self._flow.position()
        self._next_event, self._next_label = position.events or 0, position.labels or 0

    @property
    def is_done(self) -> bool:
        return self._next_event == len(self._events)

    def take(self, n: int) -> None:
        """Score the next ``n`` events, of which nothing is committed yet."""
        here = self._events[self._next_event : self._next_event + n]
        self._flow.receive_events(to_batch(here, self._next_event))
        self._next_event += len(here)
        self._step()
        while self._flow.merge.has_events:
            more = self._labels[self._next_label : self._next_label + n]
            if more:
                self._flow.receive_labels(to_batch(more, self._next_label), 0)
                self._next_label += len(more)
            else:
                self._flow.merge.let_go(self._flow.merge.events_received)
            self._step()

    def _step(self) -> None:
        while self._flow.step(self._timeline, 50, 0) is not None:
            pass

    def commit(self) -> Iterator[SketchRecord]:
        self._state.update(self._flow.drain_state())
        record = self._flow.drain_sketch()
        if record is not None:
            yield record

    def commit_all(self) -> Iterator[SketchRecord]:
        self.take(len(self._events))
        yield from self.commit()


def score(scene: Scene, workers: int, chance: random.Random) -> tuple[list[SketchRecord], int]:
    """What workers commit, in the order in which they do, and how often one of them was killed.

    Each has its share of the partitions. They take turns, each for any number of events and transactions; one that is
    killed loses what it did not commit, and others, or itself, go on from the changelogs.
    """
    states: list[dict[bytes, bytes | None]] = [{} for _ in range(PARTITIONS)]
    owned = {k: {number: Partition(scene, number, states[number]) for number in range(k, PARTITIONS, workers)}
             for k in range(workers)}  # fmt: skip
    records, kills = [], 0
    while any(not partition.is_done for mine in owned.values() for partition in mine.values()):
        worker = chance.randrange(workers)
        for partition in owned[worker].values():
            if not partition.is_done and chance.random() < 0.7:
                partition.take(chance.randrange(1, 90))
                records += partition.commit() if chance.random() < 0.8 else ()
        if chance.random() < 0.2:
            kills += 1
            heir = chance.randrange(workers)
            numbers, owned[worker] = list(owned[worker]), {}
            owned[heir] |= {number: Partition(scene, number, states[number]) for number in numbers}
    for mine in owned.values():
        for partition in mine.values():
            records += partition.commit()
    return records, kills


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_rows_are_the_same_for_any_workers_and_kills_bit_for_bit(scene: Scene, workers: int) -> None:
    records, kills = score(scene, workers, new_random(workers))
    assert kills > 2
    assert wrong_errors(records, scene.undisturbed) == {}
    live = Monitoring(scene.pipeline, scene.models)
    live.read_live(records)
    assert wrong_rows(live, scene.expected) == []
    assert any(row["revision"] > 1 for row in live.tables.read("drift_reports")), "nothing was late"


def test_it_is_all_there(scene: Scene) -> None:
    rows = {table: scene.expected.tables.read(table) for table in TABLES}
    segments = {"all", "kind=a", "kind=b", "kind=c", "kind=unseen", "kind=missing"}
    for table in ("model_metadata", "drift_reports", "performance"):
        assert {(row["version"], row["segment"]) for row in rows[table]} == {
            (version, segment) for version in ("1.0.0", "2.0.0") for segment in segments
        }
    windows = {(row["window_start"], row["window_end"]) for row in rows["verdicts"]}
    assert any(start < other < end for start, end in windows for other, _ in windows)
    found = {(row["version"], row["test"]) for row in rows["drift_reports"] if row["metric"] == "error"}
    assert found == {(version, test) for version in ("1.0.0", "2.0.0") for test in ("cusum", "adwin")}
    assert any(row["realised"] is not None for row in rows["performance"])
