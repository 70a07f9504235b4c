"""What is refused where `wrong_partition = "refuse"`: held against what two or more partitions have told by then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core_setting import CARD_EVENTS, HOUR_MS, MINUTE_MS, MONITORED, START_MS
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import RecordBatch
from app.core.entities.directory import EntityDirectory
from app.core.features.plan import FeaturePlan
from app.core.records.rules import RecordRules
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Limits, Pipeline

NOW_MS = START_MS + 1000 * HOUR_MS
SPECIFICATION = f"""
name = "cards"
partitions = 3
[model]
name = "fraud"
{CARD_EVENTS.replace("[events]", "[events]" + chr(10) + 'wrong_partition = "refuse"')}
[events.fields]
id = "string"
card = "string"
at = "int"
[[features]]
name = "count_1h"
type = "int"
window = {{ of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "count" }}
{MONITORED}
"""
PARTITIONS = 3
#: A partition, a card, minutes since the event before.
EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)), max_size=40)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path: Path = tmp_path_factory.mktemp("refuse") / "cards.toml"
    path.write_text(SPECIFICATION)
    return replace(load(path), limits=Limits(10**6, 1.0, 10))


class Cluster:
    """Partitions that hear of each other at each `commit`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.directory = EntityDirectory(HOUR_MS, RecordRules.of(pipeline))
        plan = FeaturePlan.compile(pipeline, {}, {})
        self.flows = [
            PartitionPipeline(pipeline, plan, partition, outputs=FlowOutput.STATE, directory=self.directory)
            for partition in range(PARTITIONS)
        ]
        self.offsets = [0] * PARTITIONS

    def send(self, partition: int, card: int, time_ms: int) -> str:
        """Why the event was refused; "" when it was not."""
        value = json.dumps({"id": f"e{time_ms}", "card": f"c{card}", "at": time_ms}).encode()
        offset, flow = self.offsets[partition], self.flows[partition]
        self.offsets[partition] += 1
        stamps = np.array([NOW_MS], dtype=np.int64)
        flow.receive_events(RecordBatch("cards.events", partition, stamps * 0 + offset, stamps, [None], [value]))
        step = flow.step(None, 10, NOW_MS)
        assert step is not None
        assert len(step.events) + len(step.dead_letters) == 1
        if not step.dead_letters:
            return ""
        letter = step.dead_letters[0]
        assert (letter.stage, letter.reason, letter.value, letter.source.offset) == (
            "validate",
            "wrong_partition",
            value,
            offset,
        )
        return letter.detail

    def commit(self) -> None:
        for partition, flow in enumerate(self.flows):
            for key, value in flow.drain_entities():
                self.directory.hear(partition, key, value)
        self.directory.settle()


@given(events=EVENTS, every=st.integers(1, 7))
def test_nothing_is_refused_while_each_entity_stays_in_its_partition(
    pipeline: Pipeline, *, events: list[tuple[int, int, int]], every: int
) -> None:
    cluster, time_ms = Cluster(pipeline), START_MS
    homes: dict[int, int] = {}
    for number, (partition, card, minutes) in enumerate(events):
        time_ms += minutes * MINUTE_MS
        assert cluster.send(homes.setdefault(card, partition), card, time_ms) == ""
        if number % every == 0:
            cluster.commit()
    cluster.commit()
    assert cluster.directory.straying == 0


@pytest.mark.slow
@given(events=EVENTS, every=st.integers(1, 7))
def test_an_event_is_refused_as_soon_as_its_entity_is_known_to_have_been_elsewhere_before(
    pipeline: Pipeline, *, events: list[tuple[int, int, int]], every: int
) -> None:
    cluster, time_ms = Cluster(pipeline), START_MS
    came_to = [0] * PARTITIONS
    seen: dict[int, dict[int, int]] = {}  # card -> partition -> effective time
    told: dict[int, dict[int, int]] = {}
    for number, (partition, card, minutes) in enumerate(events):
        time_ms += minutes * MINUTE_MS
        came_to[partition] = max(came_to[partition], time_ms)
        is_first = partition not in seen.setdefault(card, {})
        seen[card].setdefault(partition, came_to[partition])
        where = told.get(card, {})
        home = min(where, key=lambda each: (where[each], each), default=partition)
        why = cluster.send(partition, card, time_ms)
        if why or (home != partition and (is_first or partition in where)):
            assert home != partition
            assert why == f"c{card} belongs to partition {home}, which saw it first; this is partition {partition}."
        if number % every == 0:
            cluster.commit()
            told = {each: dict(partitions) for each, partitions in seen.items()}
    cluster.commit()
    assert cluster.directory.straying == sum(len(partitions) > 1 for partitions in seen.values())


def test_what_is_refused_leaves_the_windows_of_its_home_alone(pipeline: Pipeline) -> None:
    cluster = Cluster(pipeline)
    assert cluster.send(1, 4, START_MS) == ""
    cluster.commit()
    assert cluster.send(2, 4, START_MS + MINUTE_MS) != ""
    cluster.commit()
    assert [str(each) for each in cluster.directory.examples()] == ["c4 is in partitions 1 and 2"]
    assert cluster.send(1, 4, START_MS + 2 * MINUTE_MS) == ""
