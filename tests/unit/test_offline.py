from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_setting import CARD_EVENTS, HOUR_MS, MONITORED, START_MS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.adapters.recordings.file import (
    EVENTS,
    LABELS,
    Recording,
    RecordingError,
    RecordingWriter,
    describe,
)
from app.adapters.sources.features import compile_features
from app.adapters.sources.source import EVENT, LABEL, EncodedRecord, cut_batches, encode, read_source
from app.cli.utc_time import UtcTime
from app.core.batches import Floats, RecordBatch
from app.core.drift.filling import say_of_training
from app.core.entities.routing import Routing
from app.core.scoring import ActiveModel, ChampionTimeline, ModelRun
from app.flow.step import Step
from app.replay.drive import NoModelError, RecordedSelector
from app.replay.models import load_recorded_models
from app.replay.offline import run, run_recording
from app.replay.training_set import build_training_set
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric
from models.versions.registry import Registry
from models.versions.timeline import Begins, Timeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.source import SourceRecord
from schemas.wire import ModelUpdate

SPECIFICATION = """
name = "cards"
partitions = 3
source = "cards_source.py:records"

[model]
name = "fraud"

[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"

[labels]
horizon = "4h"
max_wait = "5s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "fraud_3h"
type = "float"
window = { of = "labels", key = ["card"], size = "3h", hop = "1h", aggregate = "count" }

[limits]
consecutive = 3
share = 0.5
of_last = 10
"""

#: A card is used each hour; every label comes after two hours and a half; labels of multiples of three are fraud.
SOURCE = f"""
from schemas.source import SourceRecord

HOUR_MS, START_MS = {HOUR_MS}, {START_MS}

def records(from_ms=None, to_ms=None, limit=None):
    records = []
    for hour in range(40):
        for card in range(4):
            at, name = START_MS + hour * HOUR_MS, f"c{{card}}h{{hour}}"
            records.append(SourceRecord("event", f"c{{card}}", at, {{
                "id": name, "card": f"c{{card}}", "at": at, "amount": hour + card / 8}}))
            known = at + 5 * HOUR_MS // 2
            records.append(SourceRecord("label", f"c{{card}}", known, {{
                "event_id": name, "label": float(hour % 3 == 0), "label_time_ms": known}}))
    low, high = -1 if from_ms is None else from_ms, 2**62 if to_ms is None else to_ms
    records = sorted((r for r in records if low <= r.time_ms < high), key=lambda r: (r.time_ms, r.kind == "event"))
    for start in range(0, len(records), 7):
        yield records[start : start + 7]
"""


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("cards")
    (folder / "cards.toml").write_text(SPECIFICATION + CARD_EVENTS + MONITORED)
    (folder / "cards_source.py").write_text(SOURCE)
    return load(folder / "cards.toml")


class RowScorer:
    def score(self, matrix: Floats) -> Floats:
        return 1 / (1 + np.exp(-matrix.sum(axis=1) / 50))


def model(cards: Pipeline, version: str = "1.0.0") -> ActiveModel:
    return ActiveModel("fraud", version, "champion", cards.feature_set, 0.5, RowScorer(), _reference(cards))


def _reference(cards: Pipeline) -> Reference:
    matrix = np.random.default_rng(3).normal(size=(50, 2))
    labels = (matrix[:, 0] > 0).astype(np.float64)
    columns = [numeric(name) for name in cards.feature_names]
    return fit_reference(TrainingEvents(matrix, RowScorer().score(matrix), labels), columns, 8, 0.5)


def write(
    path: Path, cards: Pipeline, batches: list[RecordBatch], extra: list[tuple[str, RecordBatch]] | None = None
) -> Path:
    with RecordingWriter(path, describe(cards, 0)) as writer:
        for batch in batches:
            writer.add(EVENTS if batch.topic == cards.topics.events else LABELS, batch)
        for kind, batch in extra or []:
            writer.add(kind, batch)
    return path


def outgoing(steps: list[Step]) -> dict[int, list[Any]]:
    by_partition: dict[int, list[Any]] = {}
    for step in steps:
        by_partition.setdefault(step.partition, []).extend(step.outgoing_scores)
    return by_partition


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(order=st.randoms(use_true_random=False), size=st.integers(1, 60))
def test_a_run_is_the_same_however_partitions_and_topics_interleave(cards: Pipeline, order: Any, size: int) -> None:
    plan, models = compile_features(cards), ChampionTimeline([model(cards)])
    records = [record for chunk in read_source(cards, None, None) for record in chunk]
    plain = outgoing(list(run(cards, plan, cut_batches([records], cards), models)))
    chunks = [records[start : start + size] for start in range(0, len(records), size)]
    queues: dict[tuple[str, int], list[RecordBatch]] = {}
    for batch in cut_batches(chunks, cards):
        queues.setdefault((batch.topic, batch.partition), []).append(batch)
    turns = [log for log, batches in sorted(queues.items()) for _ in batches]
    order.shuffle(turns)
    shuffled = [queues[log].pop(0) for log in turns]
    assert outgoing(list(run(cards, plan, shuffled, models))) == plain
    assert sum(len(scores) for scores in plain.values()) == 160


def test_a_recording_gives_the_steps_of_its_logs(cards: Pipeline, tmp_path: Path) -> None:
    plan, models = compile_features(cards), ChampionTimeline([model(cards)])
    batches = list(cut_batches(read_source(cards, None, None), cards))
    recording = Recording(write(tmp_path / "r.parquet", cards, batches))
    replayed = list(run_recording(cards, plan, recording, lambda _: models))
    assert outgoing(replayed) == outgoing(list(run(cards, plan, batches, models)))
    assert sum(len(step.labels) for step in replayed) == 160  # the labels after the last event as well


def test_everything_goes_at_the_end_even_events_that_no_label_follows(cards: Pipeline) -> None:
    records = [record for chunk in read_source(cards, None, None) for record in chunk if record.kind == "event"]
    steps = list(run(cards, compile_features(cards), cut_batches([records], cards), ChampionTimeline([model(cards)])))
    assert sum(len(step.events) for step in steps) == 160


def test_rejections_have_no_limit_where_nothing_is_published(cards: Pipeline) -> None:
    rubbish = [EncodedRecord("event", b"c1", START_MS, b"rubbish")] * 50
    steps = list(run(cards, compile_features(cards), cut_batches([rubbish], cards), ChampionTimeline([model(cards)])))
    assert [letter.reason for step in steps for letter in step.dead_letters] == ["not_json"] * 50


def test_without_a_model_that_is_ready_a_run_does_not_wait_for_ever(cards: Pipeline) -> None:
    with pytest.raises(NoModelError, match="name one"):
        list(
            run(cards, compile_features(cards), cut_batches(read_source(cards, None, None), cards), ChampionTimeline())
        )


# -- recorded versions -----------------------------------------------------------------------------------------------


def test_an_event_gets_the_version_that_was_in_force_at_its_offset(cards: Pipeline) -> None:
    models = {version: model(cards, version) for version in ("1.0.0", "1.1.0")}
    selector = RecordedSelector([(10, "1.0.0"), (20, "1.1.0"), (30, "1.0.0")], models)
    offsets = np.array([3, 10, 19, 20, 29, 30, 99])
    assert selector.runs(offsets, offsets) == [
        ModelRun(0, 3, models["1.0.0"]),
        ModelRun(3, 5, models["1.1.0"]),
        ModelRun(5, 7, models["1.0.0"]),
    ]
    assert not RecordedSelector([], {}).is_ready()


TIMES = st.integers(0, 20)
#: An event of some time; or a version (0 to 3) that is promoted from some time on, or rolled back to, or refused.
STREAM = st.lists(
    st.one_of(TIMES, st.tuples(st.integers(0, 3), st.none() | TIMES, st.sampled_from(["", "", "", "back", "refused"]))),
    max_size=30,
)


@given(stream=STREAM, score_from_ms=st.none() | TIMES, first=st.none() | TIMES, lost=st.sets(st.integers(0, 29)))
def test_a_replay_scores_and_leaves_unscored_what_the_stream_did(
    stream: list[Any], score_from_ms: int | None, first: int | None, lost: set[int]
) -> None:
    """And where the stream lost a score that it owed, the replay has it."""
    updates, refused, served = [], set(), []
    times, owed = [], []
    for entry in [(9, first, ""), *stream]:
        if isinstance(entry, tuple):
            version, valid_from_ms, word = f"{entry[0]}.0.0", entry[1], entry[2]
            if version not in {update.version for update in updates}:
                refused |= {version} if word == "refused" else set()
            update = ModelUpdate("m", version, "champion", "", "", "", 0, valid_from_ms, is_rollback=word == "back")
            updates.append(update)
            served = [champion for champion in Timeline(updates).champions if champion.version not in refused]
            continue
        version = "" if score_from_ms is not None and entry < score_from_ms else _version_at(served, entry)
        times.append(entry)
        owed.append(version)
    offsets = np.arange(len(times))
    scored = [offset for offset in offsets.tolist() if owed[offset] and offset not in lost]
    starts = [(o, owed[o]) for n, o in enumerate(scored) if n == 0 or owed[scored[n - 1]] != owed[o]]
    announced = {update.version for update in updates}
    begins = Begins(updates, score_from_ms, frozenset(announced - {owed[offset] for offset in scored}))
    early = np.array([offset for offset in scored if times[offset] < begins.highest_ms], np.int64)
    versions = {
        version: ActiveModel("m", version, "champion", "", 0.5, None, None)  # type: ignore[arg-type]  # nothing is scored
        for version in announced
    }
    selector = RecordedSelector(starts or [(0, "9.0.0")], versions, begins.of(starts), early)
    replayed = [""] * len(times)
    for run_of in selector.runs(offsets, np.array(times, np.int64)):
        replayed[run_of.start : run_of.stop] = [run_of.model.version] * (run_of.stop - run_of.start)
    assert [replayed[offset] for offset in scored] == [owed[offset] for offset in scored]
    assert not any(replayed[offset] for offset in offsets.tolist() if not owed[offset])
    never_changed = len({update.valid_from_ms for update in updates}) == 1 and not refused
    for offset in offsets.tolist():
        if offset in lost and owed[offset] and never_changed:
            assert replayed[offset], "a lost score is found"


def _version_at(champions: list[ModelUpdate], time_ms: int) -> str:
    valid = [update for update in champions if update.valid_from_ms is None or update.valid_from_ms <= time_ms]
    return valid[-1].version if valid else ""


def test_a_recording_without_scores_asks_for_a_version(cards: Pipeline, tmp_path: Path) -> None:
    recording = Recording(write(tmp_path / "r.parquet", cards, []))
    with pytest.raises(RecordingError, match="--models"):
        load_recorded_models(cards, Registry(tmp_path), recording)


# -- training sets ---------------------------------------------------------------------------------------------------


def test_a_training_set_holds_the_events_of_the_range_whose_label_was_known_in_time(cards: Pipeline) -> None:
    """From 10:00 to 15:00: labels come after 2:30, so those of 13:00 and 14:00 are not known before 15:00."""
    training_set = build_training_set(cards, None, START_MS + 10 * HOUR_MS, START_MS + 15 * HOUR_MS)
    assert training_set.maturity.n_events == 20
    assert sorted(training_set.event_id) == sorted(f"c{card}h{hour}" for hour in (10, 11, 12) for card in range(4))
    assert training_set.event_time_ms.tolist() == sorted(training_set.event_time_ms.tolist())
    assert training_set.labels.tolist() == [float(event_id.endswith("h12")) for event_id in training_set.event_id]
    # Labels that arrived in the three tiles of an event's hour and the two before it: at 7:30 … and not its own.
    # At 10:00 the tiles are 8, 9 and 10: the labels of 8:30 (event 6) and 9:30 (event 7).
    assert training_set.matrix[:, 1].tolist() == [2.0] * 12
    by_id = dict(zip(training_set.event_id, training_set.matrix[:, 0].tolist(), strict=True))
    assert by_id["c3h11"] == 11.375


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(0, 40), (10, 15), (0, 5), (37, 41), (30, 40)])
def test_source_recording_and_the_whole_run_give_the_same_training_set(
    cards: Pipeline, tmp_path: Path, bounds: tuple[int, int]
) -> None:
    from_ms, to_ms = (START_MS + hour * HOUR_MS for hour in bounds)
    path = write(tmp_path / "r.parquet", cards, list(cut_batches(read_source(cards, None, None), cards)))
    by_source = build_training_set(cards, None, from_ms, to_ms)
    by_recording = build_training_set(cards, path, from_ms, to_ms)
    assert by_source.event_id == by_recording.event_id
    assert by_source.maturity.n_events == by_recording.maturity.n_events
    for name in ("matrix", "labels", "event_time_ms"):
        assert getattr(by_source, name).tobytes() == getattr(by_recording, name).tobytes()
    assert by_source.maturity.facts(0) == by_recording.maturity.facts(0)


def test_no_row_of_a_training_set_depends_on_what_came_after_its_range(cards: Pipeline, tmp_path: Path) -> None:
    whole = list(cut_batches(read_source(cards, None, None), cards))
    to_ms = START_MS + 15 * HOUR_MS
    past = list(cut_batches(read_source(cards, None, to_ms), cards))
    sets = [
        build_training_set(cards, write(tmp_path / name, cards, batches), START_MS, to_ms)
        for name, batches in (("whole.parquet", whole), ("past.parquet", past))
    ]
    assert sets[0].event_id == sets[1].event_id
    assert sets[0].matrix.tobytes() == sets[1].matrix.tobytes()
    assert [training_set.maturity.describe() for training_set in sets] == [sets[0].maturity.describe()] * 2
    assert sets[0].maturity.times.known_ms == START_MS + 29 * HOUR_MS // 2  # the last label before the end
    at_a_label = build_training_set(cards, tmp_path / "whole.parquet", START_MS, START_MS + 29 * HOUR_MS // 2)
    assert at_a_label.maturity.times.known_ms == START_MS + 27 * HOUR_MS // 2
    assert at_a_label.event_time_ms.max() == START_MS + 11 * HOUR_MS


def test_a_repeated_event_id_gives_its_label_to_the_newest_row(cards: Pipeline, tmp_path: Path) -> None:
    def event(hour: int, amount: float) -> SourceRecord:
        at = START_MS + hour * HOUR_MS
        return SourceRecord("event", "c0", at, {"id": "e", "card": "c0", "at": at, "amount": amount})

    at = START_MS + 2 * HOUR_MS
    label = SourceRecord("label", "c0", at, {"event_id": "e", "label": 1, "label_time_ms": at})
    records = encode([event(0, 1.0), event(1, 2.0), label, event(3, 3.0)])
    path = write(tmp_path / "r.parquet", cards, list(cut_batches([records], cards)))
    training_set = build_training_set(cards, path, START_MS, START_MS + 9 * HOUR_MS)
    assert (training_set.matrix[:, 0].tolist(), training_set.labels.tolist(), training_set.maturity.n_events) == (
        [2.0],
        [1.0],
        3,
    )


def test_training_on_the_beginning_of_a_stream_says_which_windows_are_filling(cards: Pipeline, tmp_path: Path) -> None:
    """A window of three hours over labels, of which people wait for maturity."""
    path = write(tmp_path / "r.parquet", cards, list(cut_batches(read_source(cards, None, None), cards)))
    full_ms = START_MS + 3 * HOUR_MS + cards.performance.maturity_ms
    (filling,) = build_training_set(cards, path, START_MS, START_MS + 40 * HOUR_MS).filling
    assert filling.metric == "fraud_3h"
    assert full_ms <= filling.until_ms <= full_ms + HOUR_MS
    assert not build_training_set(cards, path, filling.until_ms, START_MS + 40 * HOUR_MS).filling
    # A source is read from where windows reach to, and may have been there before.
    assert not build_training_set(cards, None, START_MS, START_MS + 40 * HOUR_MS).filling


def test_a_stray_event_of_long_ago_has_filled_no_window(cards: Pipeline, tmp_path: Path) -> None:
    def event(number: int, at: int) -> SourceRecord:
        return SourceRecord("event", "c0", at, {"id": f"e{number}", "card": "c0", "at": at, "amount": 1.0})

    stray = event(-1, START_MS - 90 * 24 * HOUR_MS)
    stream = [event(number, START_MS + number * HOUR_MS // 60) for number in range(600)]
    sets = [
        build_training_set(
            cards, write(tmp_path / name, cards, list(cut_batches([encode(of)], cards))), START_MS, START_MS + HOUR_MS
        )
        for name, of in (("s.parquet", [stray, *stream]), ("r.parquet", stream))
    ]
    assert sets[0].filling == sets[1].filling
    assert sets[0].filling


def test_who_is_told_when_windows_are_full_can_type_that_and_is_not_sent_beyond_the_data(
    cards: Pipeline, tmp_path: Path
) -> None:
    path = write(tmp_path / "r.parquet", cards, list(cut_batches(read_source(cards, None, None), cards)))
    training_set = build_training_set(cards, path, START_MS, START_MS + 40 * HOUR_MS)
    (said,) = say_of_training(training_set.filling, int(training_set.event_time_ms[-1]))
    advised = re.search(r"have --from be (\S+),", said)
    assert advised is not None
    from_ms = UtcTime().convert(advised[1], None, None)
    assert from_ms == training_set.filling[0].until_ms
    assert not build_training_set(cards, path, from_ms, START_MS + 40 * HOUR_MS).filling
    # Five hours of events, of which none is as new.
    early = build_training_set(cards, path, START_MS, START_MS + 5 * HOUR_MS)
    (said,) = say_of_training(early.filling, int(early.event_time_ms[-1]))
    assert (
        "none of the events that are learnt from is later: give events from earlier on, or have --to end later" in said
    )


def test_a_range_without_labels_is_an_empty_set(cards: Pipeline) -> None:
    training_set = build_training_set(cards, None, START_MS - 10 * HOUR_MS, START_MS + HOUR_MS)
    assert training_set.matrix.shape == (0, 2)
    assert (len(training_set.labels), training_set.maturity.n_events) == (0, 4)


def test_what_a_router_copies_has_the_values_of_the_rows_by_time(cards: Pipeline) -> None:
    plan, chunks = compile_features(cards), list(read_source(cards, None, None))
    by_entity = replace(cards, events=replace(cards.events, repartition=True))
    topics, records = by_entity.topics, [record for chunk in chunks for record in chunk]
    routing = Routing(by_entity)
    for kind, topic in ((EVENT, topics.sent_events), (LABEL, topics.sent_labels)):
        of_kind = [record for record in records if record.kind == kind]
        for partition in range(3):  # in turn, and events without a key
            log = of_kind[partition::3]
            keys = [None if kind == EVENT else record.key for record in log]
            offsets, times = np.arange(len(log), dtype=np.int64), np.array([record.time_ms for record in log])
            routing.add(RecordBatch(topic, partition, offsets, times, keys, [record.value for record in log]))
    copied: list[RecordBatch] = []
    ends: dict[tuple[str, int], int] = defaultdict(int)
    while (routed := routing.take(17, ())) is not None:
        for topic, by_partition in ((topics.labels, routed.labels), (topics.events, routed.events)):
            for partition, copies in by_partition.items():
                key, value, times_ms, headers = (list(column) for column in zip(*copies, strict=True))
                start = ends[topic, partition]
                ends[topic, partition] += len(copies)
                offsets = np.arange(start, start + len(copies), dtype=np.int64)
                stamps, pairs = np.array(times_ms, dtype=np.int64), [tuple(pairs) for pairs in headers]
                copied.append(RecordBatch(topic, partition, offsets, stamps, key, value, pairs))

    def rows(steps: Iterable[Step]) -> dict[str, list[float]]:
        return {
            event_id: row
            for step in steps
            for event_id, row in zip(step.events.event_id, step.matrix.tolist(), strict=True)
        }

    assert rows(run(by_entity, plan, copied, None)) == rows(run(cards, plan, cut_batches(chunks, cards), None))
