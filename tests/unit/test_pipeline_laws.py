"""What a step of the flow says of each record, and what becomes of events that are left unscored or rejected late.

Over 300 lines: each part of the flow has its laws here, and all of them share the same few steps.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from core_setting import HOUR_MS, MINUTE_MS, START_MS, Setting, batch, build, event, label
from hypothesis import given
from hypothesis import strategies as st
from shared_cluster import Setting as SharedSetting
from shared_cluster import bits, collect, cut, naive
from shared_logs import NOW_MS as SHARED_NOW_MS
from shared_logs import Logs
from shared_logs import event as shared_event
from shared_logs import label as shared_label

from app.core.batches import EventBatch, Floats, RecordBatch
from app.core.entities.copies import origin_header
from app.core.entities.directory import EntityDirectory
from app.core.errors.stream import Errors
from app.core.features.plan import FeaturePlan
from app.core.intake.joining import JoinedLabels
from app.core.intake.pending import PREFIX, REJECTED, Scored
from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.records.rules import RecordRules
from app.core.scoring import ActiveModel, ChampionTimeline
from app.core.shared.board import SharedBoard
from app.flow.marks import Position
from app.flow.step import FlowOutput, Step
from app.pipeline import PartitionPipeline
from schemas.pipeline.spec import Limits, Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import DeadLetter, Score, Source

NOW_MS = START_MS + 1000 * HOUR_MS


# -- steps by hand -----------------------------------------------------------------------------------------------------


def model(version: str) -> ActiveModel:
    of_no_use: Any = None
    return ActiveModel("m", version, "champion", "f", 0.5, of_no_use, of_no_use)


MODELS = [model("1.0.0"), model("2.0.0")]
#: Of each event who scores it: None leaves it unscored.
CHOICES = st.lists(st.sampled_from([None, *MODELS]), max_size=10)


def make_step(choices: list[ActiveModel | None], rejected: set[int]) -> Step:
    """Events of these choices; the rows that are rejected have no score, whoever is chosen."""
    n = len(choices)
    ids, at = [f"e{row}" for row in range(n)], np.arange(n, dtype=np.int64)
    events = EventBatch(at * 3, at + 100, [f"c{row}" for row in range(n)], ids, {"x": at / 2})
    runs: list[tuple[int, int, ActiveModel]] = []
    for row, choice in enumerate(choices):
        if choice is None or row in rejected:
            continue
        if runs and runs[-1][1:] == (row, choice):
            runs[-1] = runs[-1][0], row + 1, choice
        else:
            runs.append((row, row + 1, choice))
    scores = np.array([row / 16 if choice else -1.0 for row, choice in enumerate(choices)])
    labels = JoinedLabels([0], [0], ["z"], [1.0], [7], [Scored(1, 1, REJECTED, np.nan, ())], [])
    return Step(0, events, np.stack([at / 2, at / 4], axis=1), scores, runs, labels, events)


def rows_of(step: Step) -> list[tuple[Any, ...]]:
    """Each event of a step with all that is said of it, and who has scored it."""
    by: list[str | None] = [None] * len(step.events)
    for start, stop, of in step.runs:
        assert start < stop
        by[start:stop] = [of.version] * (stop - start)
    events = step.events
    columns = (
        events.offsets,
        events.event_time_ms,
        events.entity,
        events.event_id,
        events.columns["x"],
        step.scores,
        by,
    )
    return [(*row, *values.tolist()) for *row, values in zip(*columns, step.matrix, strict=True)]


@given(choices=CHOICES)
def test_the_scored_events_of_a_step_are_those_that_have_a_score(choices: list[ActiveModel | None]) -> None:
    step = make_step(choices, set())
    expected = [row for row, choice in zip(rows_of(step), choices, strict=True) if choice is not None]
    assert step.n_scored == len(expected)
    scored = step.scored()
    assert rows_of(scored) == expected
    assert (scored is step) == (len(expected) == len(choices))
    assert len(scored.labels) == (len(expected) == len(choices))
    assert (step.applied, len(step.events), len(step.labels)) == (scored.applied, len(choices), 1)


@given(choices=CHOICES, chosen=st.sets(st.integers(0, 9)))
def test_a_step_without_rejected_events_is_that_of_the_others_alone(
    choices: list[ActiveModel | None], chosen: set[int]
) -> None:
    rejected = {row for row in chosen if row < len(choices)}
    step, whole = make_step(choices, rejected), make_step(choices, set())
    step.leave_out(sorted(rejected))
    assert rows_of(step) == [row for place, row in enumerate(rows_of(whole)) if place not in rejected]
    assert step.applied.event_id == whole.events.event_id
    assert len(step.labels) == 0  # that label is of an event that was rejected before
    left = [choice for row, choice in enumerate(choices) if row not in rejected]
    assert step.runs == make_step(left, set()).runs


# -- steps of a flow ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    found = build(tmp_path_factory.mktemp("laws"))
    return Setting(replace(found.pipeline, publish_features=True), found.plan)


def receive(flow: PartitionPipeline, values: list[bytes | None], first: int = 0) -> RecordBatch:
    """Events of a topic whose offsets begin at ``first``; all may go at once."""
    records = batch("cards.events", values, [NOW_MS + row for row in range(len(values))], first=first)
    flow.receive_events(records)
    flow.merge.let_go(flow.merge.events_received)
    return records


def step(flow: PartitionPipeline, models: ChampionTimeline | None, most: int = 99, stale: range = range(0)) -> Step:
    found = flow.step(models, most, NOW_MS, stale)
    assert found is not None
    return found


def scores_of(found: Step) -> list[Score]:
    return [msgspec.json.decode(value or b"", type=Score) for _, value, _ in found.outgoing_scores]


def test_a_score_says_what_was_scored_by_whom_and_how(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    version = replace(setting.version(1, None), threshold=0.55)
    values: list[bytes | None] = [
        event(number, START_MS + number * MINUTE_MS, amount=amount) for number, amount in enumerate((1.0, 8.0, -5.0))
    ]
    receive(flow, values, first=40)
    found = step(flow, ChampionTimeline([version]))
    scores = version.scorer.score(found.matrix).tolist()
    names = setting.pipeline.feature_names
    assert scores_of(found) == [
        Score(
            event_id=f"e{row}",
            entity=f"c{row}",
            event_time_ms=START_MS + row * MINUTE_MS,
            score=scores[row],
            decision=scores[row] >= 0.55,
            model="fraud",
            version="1.0.0",
            role="champion",
            feature_set=setting.pipeline.feature_set,
            source=Source("cards.events", 0, 40 + row),
            scored_at_ms=NOW_MS,
            features={name: None if np.isnan(value) else value for name, value in zip(names, values_of, strict=True)},
            reasons=[],
            stale=False,
        )
        for row, values_of in enumerate(found.matrix.tolist())
    ]
    assert {score.decision for score in scores_of(found)} == {True, False}
    assert [(key, at_ms) for key, _, at_ms in found.outgoing_scores] == [
        (f"c{row}".encode(), NOW_MS) for row in range(3)
    ]

    silent = PartitionPipeline(setting.pipeline, setting.plan, 0, outputs=FlowOutput.SCORES | FlowOutput.STATE)
    receive(silent, values)
    alone = step(silent, ChampionTimeline([version]))
    assert (alone.outgoing_scores, alone.scores.tolist()) == ([], scores)

    plain = PartitionPipeline(replace(setting.pipeline, publish_features=False), setting.plan, 0)
    receive(plain, values)
    assert [score.features for score in scores_of(step(plain, ChampionTimeline([version])))] == [{}] * 3


def test_what_goes_although_labels_may_be_missing_says_so_and_nothing_else_does(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    models = ChampionTimeline([setting.version(1, None)])
    receive(flow, [event(number, START_MS) for number in range(4)])
    steps = [step(flow, models, 1, range(1, 3)) for _ in range(4)]
    assert [found.is_stale for found in steps] == [False, True, True, False]
    assert [score.stale for found in steps for score in scores_of(found)] == [False, True, True, False]


def test_events_wait_until_a_model_is_there_and_are_scored_then(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    receive(flow, [event(0, START_MS), b"rubbish"])
    assert flow.step(None, 99, NOW_MS) is flow.step(ChampionTimeline(), 99, NOW_MS) is None
    assert flow.takes_no_more
    assert flow.position() == Position(None, None)
    assert len(scores_of(step(flow, ChampionTimeline([setting.version(1, None)])))) == 1
    assert not flow.takes_no_more
    assert flow.position() == Position(2, None)


def test_events_older_than_any_version_are_left_unscored_counted_once_and_known_to_windows(setting: Setting) -> None:
    """Two events, then the version is valid, then one older event in between; a label of an unscored event counts."""
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    models = ChampionTimeline([setting.version(1, START_MS + HOUR_MS)])
    minutes = [0, 10, 70, 20, 80]
    receive(
        flow, [event(3 * number, START_MS + minute * MINUTE_MS, amount=1.0) for number, minute in enumerate(minutes)]
    )
    found = step(flow, models)
    assert np.isnan(found.scores).tolist() == [True, True, False, True, False]
    assert [score.event_id for score in scores_of(found)] == ["e6", "e12"]
    assert [(start, stop) for start, stop, _ in found.runs] == [(2, 3), (4, 5)]
    assert found.scored().events.event_id == ["e6", "e12"]
    assert [score.features["amount_2h"] for score in scores_of(found)] == [2.0, 4.0]  # type: ignore[index]  # they are published
    record = flow.drain_sketch()
    assert record is not None
    assert (record.unscored, sum(delta.n for delta in record.deltas)) == (3, 2)
    assert record.unscored_since_ms == START_MS
    assert flow.drain_sketch() is None

    labels = batch(
        "cards.labels", [label("e0", START_MS + 90 * MINUTE_MS), label("e6", START_MS + 90 * MINUTE_MS)], [NOW_MS] * 2
    )
    flow.receive_labels(labels, NOW_MS)
    receive(flow, [event(15, START_MS + 91 * MINUTE_MS)], first=5)
    found = step(flow, models)
    assert found.labels.event_id == ["e0", "e6"]
    assert [score.features["fraud_2h"] for score in scores_of(found)] == [1.0]  # type: ignore[index]  # they are published
    record = flow.drain_sketch()
    assert record is not None
    (errors,) = record.errors  # of the one that has a score
    assert (errors.version, len(errors.decisions), record.unscored) == ("1.0.0", 1, 0)
    assert record.unscored_since_ms is None


def test_one_stray_of_many_unscored_events_does_not_say_since_when_they_are(setting: Setting) -> None:
    """Of forty, a twentieth is two; the time is that of the third."""
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    models = ChampionTimeline([setting.version(1, START_MS + HOUR_MS)])
    receive(flow, [event(number, START_MS + number * MINUTE_MS) for number in range(40)])
    step(flow, models)
    record = flow.drain_sketch()
    assert record is not None
    assert (record.unscored, record.unscored_since_ms) == (40, START_MS + 2 * MINUTE_MS)


def test_a_dead_letter_has_all_of_its_record_and_when_it_was_rejected(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    headers: list[tuple[tuple[str, bytes], ...]] = [(), (("trace", b"1"), ("trace", b"2")), ()]
    records = RecordBatch(
        "cards.events", 0, np.array([4, 7, 9]), np.array([NOW_MS, NOW_MS + 5, NOW_MS + 6]), [b"a", b"b", None],
        [event(0, START_MS), b"rubbish", None], headers, {2: ("the batch is damaged", 1234)},
    )  # fmt: skip
    flow.receive_events(records)
    flow.merge.let_go(1)
    first, second = step(flow, ChampionTimeline([setting.version(1, None)])).dead_letters
    assert first == DeadLetter(
        Source("cards.events", 0, 7), "decode", "not_json", first.detail, b"b", b"rubbish", NOW_MS + 5, NOW_MS,
        headers=headers[1],
    )  # fmt: skip
    assert (second.source.offset, second.key, second.value, second.cut_bytes) == (9, None, None, 1234)
    assert (second.record_time_ms, second.rejected_at_ms, second.headers) == (NOW_MS + 6, NOW_MS, ())
    assert "the batch is damaged" in second.detail


def test_a_partition_begins_where_it_is_told_to_until_something_was_processed(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    assert flow.position() == Position(None, None)
    flow.begin_at(17, 5)
    assert flow.position() == Position(17, 5)
    again = PartitionPipeline(setting.pipeline, setting.plan, 0)
    again.restore(flow.drain_state())
    assert again.position() == Position(17, 5)
    receive(again, [event(0, START_MS)], first=20)
    step(again, ChampionTimeline([setting.version(1, None)]))
    assert again.position() == Position(21, 5)
    flow.begin_at(17, None)
    assert flow.position() == Position(17, None)


def test_nothing_is_said_where_nothing_has_moved(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    assert flow.drain_sketch() is None
    assert flow.finish(NOW_MS) is None
    assert flow.drain_sketch() is None
    flow.keep_promise(START_MS, NOW_MS)
    record = flow.drain_sketch()
    assert record is not None
    assert (record.watermark_ms, record.label_watermark_ms, record.deltas, record.unscored) == (
        START_MS,
        START_MS,
        [],
        0,
    )
    assert flow.drain_sketch() is None
    flow.keep_promise(START_MS - 1, NOW_MS)  # less than was promised says nothing new
    assert flow.drain_sketch() is None
    flow.keep_promise(START_MS + 1, NOW_MS)
    assert flow.drain_sketch() is not None


def test_where_nothing_is_drained_nothing_is_kept_to_be_drained_and_scores_are_the_same(setting: Setting) -> None:
    models = ChampionTimeline([setting.version(1, None)])
    values: list[bytes | None] = [event(number, START_MS + number * MINUTE_MS) for number in range(6)]
    found = []
    for outputs in (FlowOutput.ALL, FlowOutput.REPLAYED):
        with_drain = FlowOutput.STATE in outputs
        flow = PartitionPipeline(setting.pipeline, setting.plan, 0, outputs=outputs)
        receive(flow, values)
        flow.receive_labels(batch("cards.labels", [label("e1", START_MS + 3 * MINUTE_MS)], [NOW_MS]), NOW_MS)
        found.append(step(flow, models))
        assert (flow.entities is not None) == bool(flow.drain_entities()) == with_drain
        record = flow.drain_sketch()
        assert record is not None
        assert bool(record.deltas) == bool(record.errors) == bool(record.labels) == with_drain
        waiting = [key for key, _ in flow.drain_state() if key.startswith(PREFIX)]
        assert len(waiting) == 5 * with_drain
        assert flow.drain_shared() == flow.drain_repartition() == []
    assert found[0].outgoing_scores == found[1].outgoing_scores
    assert found[0].labels == found[1].labels


# -- topics by entity --------------------------------------------------------------------------------------------------


def by_entity(setting: Setting) -> Pipeline:
    return replace(setting.pipeline, events=replace(setting.pipeline.events, repartition=True))


@pytest.mark.parametrize(("before", "now"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_state_knows_whether_its_events_were_read_by_entity(setting: Setting, before: bool, now: bool) -> None:
    pipelines = {False: setting.pipeline, True: by_entity(setting)}
    first, second = (PartitionPipeline(pipelines[each], setting.plan, 0) for each in (before, now))
    assert not second.has_other_input
    second.restore(first.drain_state())
    assert second.has_other_input == (before != now)
    assert not first.has_other_input


def test_the_letter_of_a_copy_says_where_its_record_was_sent(setting: Setting) -> None:
    origins: list[tuple[tuple[str, bytes], ...]] = [(origin_header(3, 17),), (), (("trace", b"1"), origin_header(0, 4))]

    def details(pipeline: Pipeline, headers: list[tuple[tuple[str, bytes], ...]] | None) -> list[str]:
        flow = PartitionPipeline(pipeline, setting.plan, 0)
        rubbish: list[bytes | None] = [b"rubbish"] * 3
        flow.receive_events(batch(pipeline.topics.events, rubbish, [NOW_MS] * 3, headers=headers))
        flow.receive_labels(batch(pipeline.topics.labels, rubbish, [NOW_MS] * 3, headers=headers), NOW_MS)
        letters = step(flow, ChampionTimeline([setting.version(1, None)])).dead_letters
        assert [letter.source.topic for letter in letters] == [pipeline.topics.labels] * 3 + [
            pipeline.topics.events
        ] * 3
        return [letter.detail for letter in letters]

    plain = details(setting.pipeline, origins)
    assert plain == details(setting.pipeline, None) == details(by_entity(setting), None)
    said = details(by_entity(setting), origins)
    told = [found.removeprefix(alone) for found, alone in zip(said, plain, strict=True)]
    assert told == [
        " It was sent to cards.labels 3/17.", "", " It was sent to cards.labels 0/4.",
        " It was sent to cards.events 3/17.", "", " It was sent to cards.events 0/4.",
    ]  # fmt: skip  # a line a topic


# -- without labels ----------------------------------------------------------------------------------------------------


def test_without_labels_events_go_at_once_and_nothing_waits_for_any(setting: Setting) -> None:
    over_labels = setting.pipeline.windows_over("labels")
    kept = tuple(feature for feature in setting.pipeline.features if feature.name not in over_labels)
    pipeline = replace(setting.pipeline, labels=None, features=kept)
    alone = Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))
    flow = PartitionPipeline(pipeline, alone.plan, 0)
    flow.receive_events(batch("cards.events", [event(0, START_MS), event(1, START_MS + HOUR_MS)], [NOW_MS] * 2))
    found = step(flow, ChampionTimeline([alone.version(1, None)]))
    assert [score.event_id for score in scores_of(found)] == ["e0", "e1"]
    assert flow.finish(NOW_MS) is None
    record = flow.drain_sketch()
    assert record is not None
    assert (record.watermark_ms, record.label_watermark_ms) == (START_MS + HOUR_MS, START_MS + HOUR_MS)
    assert [key for key, _ in flow.drain_state() if key.startswith(PREFIX)] == []


# -- entities of other partitions --------------------------------------------------------------------------------------


def test_an_event_of_a_strange_entity_is_refused_among_others_and_is_seen_all_the_same(setting: Setting) -> None:
    """c1 is of partition 5. Its events are letters, in the order of the log with others, and count in no window."""
    directory = EntityDirectory(HOUR_MS, RecordRules.of(setting.pipeline))
    home = PartitionPipeline(setting.pipeline, setting.plan, 5)
    receive(home, [event(1, START_MS)])
    models = ChampionTimeline([setting.version(1, None)])
    step(home, models)
    for key, value in home.drain_entities():
        directory.hear(5, key, value)
    directory.settle()

    flow = PartitionPipeline(setting.pipeline, setting.plan, 2, directory=directory)
    receive(flow, [event(0, START_MS + HOUR_MS)], first=10)
    step(flow, models)
    flow.drain_entities()
    values = [
        b"rubbish",
        event(1, START_MS + MINUTE_MS),
        event(3, START_MS + HOUR_MS),
        None,
        event(4, START_MS + 2 * HOUR_MS),
        event(2, START_MS + HOUR_MS),
    ]
    receive(flow, values, first=11)
    found = step(flow, models)
    assert [(letter.source.offset, letter.stage, letter.reason, letter.value) for letter in found.dead_letters] == [
        (11, "decode", "not_json", b"rubbish"),
        (12, "validate", "wrong_partition", values[1]),
        (14, "decode", "tombstone", None),
        (15, "validate", "wrong_partition", values[4]),
    ]
    assert found.dead_letters[1].detail == "c1 belongs to partition 5, which saw it first; this is partition 2."
    assert (found.events.event_id, found.events.offsets.tolist()) == (["e3", "e2"], [13, 16])
    silent = PartitionPipeline(setting.pipeline, setting.plan, 2, directory=directory, outputs=FlowOutput.REPLAYED)
    receive(silent, values, first=11)
    assert [letter.source.offset for letter in step(silent, models).dead_letters] == [11, 12, 14, 15]
    assert found.matrix[:, 1].tolist() == [1, 0]
    # It was here, and not before the events that had been scored by then: the watermark was an hour.
    for key, value in flow.drain_entities():
        directory.hear(2, key, value)
    directory.settle()
    assert [(stray.name, stray.partitions, stray.time_ms) for stray in directory.examples()] == [
        ("c1", (2, 5), START_MS + HOUR_MS)
    ]


# -- labels alone, and errors ------------------------------------------------------------------------------------------


def receive_labels(flow: PartitionPipeline, values: list[bytes | None], first: int = 0) -> None:
    flow.receive_labels(batch("cards.labels", values, [NOW_MS] * len(values), first=first), NOW_MS)


def test_labels_that_come_to_nothing_new_are_told_all_the_same_and_never_as_stale(setting: Setting) -> None:
    """Counts of labels, of events and of events that are left unscored are told though no time has passed."""
    models = ChampionTimeline([setting.version(1, START_MS)])
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    receive(flow, [event(0, START_MS + HOUR_MS)])
    step(flow, models)
    flow.keep_promise(START_MS + 2 * HOUR_MS, NOW_MS)
    assert flow.drain_sketch() is not None
    receive(flow, [event(1, START_MS + HOUR_MS)], first=1)
    step(flow, models)
    record = flow.drain_sketch()
    assert record is not None
    assert (sum(delta.n for delta in record.deltas), record.labels, record.unscored) == (1, [], 0)

    receive(flow, [event(2, START_MS - HOUR_MS)], first=2)
    step(flow, models)
    record = flow.drain_sketch()
    assert record is not None
    assert (record.deltas, record.labels, record.unscored) == ([], [], 1)

    receive_labels(flow, [label("stranger", START_MS + HOUR_MS)])
    alone = flow.keep_promise(START_MS + 2 * HOUR_MS, NOW_MS)
    assert alone is not None
    record = flow.drain_sketch()
    assert record is not None
    assert (record.deltas, sum(each.n for each in record.labels), record.unscored) == ([], 1, 0)

    receive_labels(flow, [label("e0", START_MS + HOUR_MS)], first=1)
    last = flow.finish(NOW_MS)
    assert last is not None
    assert (alone.is_stale, last.is_stale, last.labels.event_id) == (False, False, ["e0"])
    assert (len(last.events), len(last.matrix), len(last.scores)) == (0, 0, 0)


def test_too_many_rejected_labels_in_a_row_stop_the_flow_though_each_comes_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    strict = build(tmp_path_factory.mktemp("strict"), Limits(consecutive=3, share=1.0, of_last=100))
    flow = PartitionPipeline(strict.pipeline, strict.plan, 0)
    for number, value in enumerate([b"rubbish", b"rubbish", label("e0", START_MS), b"rubbish", b"rubbish"]):
        receive_labels(flow, [value], first=number)
        found = flow.finish(NOW_MS)
        assert found is not None
        assert [letter.source.offset for letter in found.dead_letters] == [number] * (value == b"rubbish")
        assert (len(found.events), len(found.matrix), len(found.scores), found.is_stale) == (0, 0, 0, False)
    receive_labels(flow, [b"rubbish"], first=5)
    with pytest.raises(TooManyDeadLettersError, match="3 labels in a row"):
        flow.finish(NOW_MS)


def test_watermarks_are_those_of_the_last_event_and_label_that_were_applied_over_a_restart_too(
    setting: Setting,
) -> None:
    """Whatever is older than the label before it has that one's time."""
    models = ChampionTimeline([setting.version(1, None)])
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    receive(flow, [event(at, START_MS + minute * MINUTE_MS) for at, minute in enumerate((10, 5, 40, 30))])
    receive_labels(flow, [label(f"e{at}", START_MS + minute * MINUTE_MS) for at, minute in enumerate((12, 20, 15, 90))])
    step(flow, models)
    record = flow.drain_sketch()
    assert record is not None
    assert (record.watermark_ms, record.label_watermark_ms) == (START_MS + 40 * MINUTE_MS, START_MS + 20 * MINUTE_MS)
    again = PartitionPipeline(setting.pipeline, setting.plan, 0)
    again.restore(flow.drain_state())
    assert again.position() == Position(4, 3)
    assert (again.merge.event_watermark_ms, again.merge.label_watermark_ms) == (
        record.watermark_ms,
        record.label_watermark_ms,
    )
    told = again.drain_sketch()
    assert told is not None
    assert (told.watermark_ms, told.label_watermark_ms) == (record.watermark_ms, record.label_watermark_ms)


class HalfScorer:
    """No number for every other event."""

    def score(self, matrix: Floats) -> Floats:
        return np.where(np.arange(len(matrix)) % 2 == 0, np.nan, 0.75)


def test_a_score_that_is_no_number_is_no_decision_that_could_be_wrong(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    models = ChampionTimeline([replace(setting.version(1, None), scorer=HalfScorer())])
    receive(flow, [event(number, START_MS + number) for number in range(4)])
    step(flow, models)
    receive_labels(flow, [label(f"e{number}", START_MS + MINUTE_MS + number, number // 2) for number in range(4)])
    flow.finish(NOW_MS)
    record = flow.drain_sketch()
    assert record is not None
    (errors,) = record.errors
    maturity_ms = setting.pipeline.performance.maturity_ms
    assert Errors.of(errors).times_ms.tolist() == [START_MS + maturity_ms + 1, START_MS + maturity_ms + 3]
    assert Errors.of(errors).wrong.tolist() == [1, 0]


# -- windows that are shared -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedSetting:
    return SharedSetting.read(tmp_path_factory.mktemp("shared"), "nnnnn")


def shared_flow(
    shared: SharedSetting, board: SharedBoard | None = None, outputs: FlowOutput = FlowOutput.STATE
) -> PartitionPipeline:
    return PartitionPipeline(shared.pipeline, shared.plan, 0, outputs=outputs, board=board)


def shared_events(minutes: list[int], first: int = 0) -> RecordBatch:
    values: list[bytes | None] = [
        json.dumps(shared_event(f"e{first + at}", minute, "a", 0.5)).encode() for at, minute in enumerate(minutes)
    ]
    return batch("cards.events", values, [SHARED_NOW_MS] * len(values), first=first)


def drain(flow: PartitionPipeline, most: int = 99, stale: range = range(0)) -> list[Step]:
    found = []
    while (taken := flow.step(None, most, NOW_MS, stale)) is not None:
        found.append(taken)
    return found


@pytest.mark.parametrize("outputs", [FlowOutput.STATE, FlowOutput.NONE])
def test_a_partition_that_is_alone_waits_for_nobody(shared: SharedSetting, outputs: FlowOutput) -> None:
    logs = Logs.empty(3)
    logs.events[0] = [shared_event(f"e{at}", 7 * at, "ab"[at % 2], at / 8) for at in range(20)]
    logs.labels[0] = [shared_label(f"e{at}", 7 * at + 30, at % 2) for at in range(0, 20, 3)]
    flow = shared_flow(shared, outputs=outputs)
    for found in cut(logs, "events", 0, [99]):
        flow.receive_events(found)
    for found in cut(logs, "labels", 0, [99]):
        flow.receive_labels(found, NOW_MS)
    flow.merge.let_go(20)
    steps = drain(flow, 3)
    flow.come_to()
    steps += drain(flow, 3)
    assert flow.shared is not None
    assert not flow.shared.held
    assert bits(collect(iter(steps))) == bits(naive(logs))
    assert [found.is_stale for found in steps] == [False] * len(steps)


def test_what_nobody_reads_any_more_is_forgotten_where_nothing_is_drained(shared: SharedSetting) -> None:
    board = SharedBoard(shared.plan.shared, [0])
    flow = shared_flow(shared, board, FlowOutput.NONE)
    for at in range(40):
        flow.receive_events(shared_events([20 * at], first=at))
        flow.merge.let_go(at + 1)
        assert len(drain(flow)) == 1
        kept = [tile * shared.plan.shared.stores[store].hop_ms for store, tile in board.pieces(0)]
        assert kept
        assert min(kept) > START_MS + (20 * at - 180) * MINUTE_MS  # the largest window has two hours
    flow.come_to(START_MS + 2000 * MINUTE_MS)
    assert len(drain(flow)) == 1
    assert board.pieces(0) == {}  # nothing that follows is so old
    assert [store for store in flow.drain_shared() if store[1] is not None] == []


def test_events_that_wait_for_others_fill_up_and_say_whether_they_went_stale(
    shared: SharedSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pipeline._MOST_HELD", 4)
    board = SharedBoard(shared.plan.shared, [0, 1])
    flow, other = (
        shared_flow(shared, board),
        PartitionPipeline(shared.pipeline, shared.plan, 1, outputs=FlowOutput.STATE, board=board),
    )
    flow.receive_events(shared_events([0, 100, 200, 300, 400, 500]))
    flow.merge.let_go(6)
    assert drain(flow, 99, range(4, 9)) == []
    assert flow.shared is not None
    assert (flow.shared.held.events, flow.takes_no_more, flow.merge.has_events) == (4, True, True)
    assert flow.position() == Position(None, None)
    other.come_to(START_MS + 250 * MINUTE_MS)
    assert other.step(None, 99, NOW_MS) is not None  # no event: it says how far it has come
    went = drain(flow, 99, range(4, 9))
    assert [found.events.event_id for found in went] == [["e0", "e1", "e2"]]
    other.come_to()
    went += drain(flow, 99, range(4, 9))
    assert [name for found in went for name in found.events.event_id] == [f"e{at}" for at in range(6)]
    assert [(found.is_stale, name) for found in went for name in found.events.event_id][3:] == [
        (False, "e3"),
        (True, "e4"),
        (True, "e5"),
    ]
    assert (flow.takes_no_more, flow.position()) == (False, Position(6, None))


def test_a_promise_of_a_partition_with_shared_windows_goes_in_its_turn(shared: SharedSetting) -> None:
    board = SharedBoard(shared.plan.shared, [0, 1])
    flow, other = (
        shared_flow(shared, board),
        PartitionPipeline(shared.pipeline, shared.plan, 1, outputs=FlowOutput.STATE, board=board),
    )
    flow.receive_events(shared_events([0, 100]))
    flow.merge.let_go(2)
    assert drain(flow) == []
    receive_labels(flow, [label("e0", START_MS + 110 * MINUTE_MS)])
    promised_ms = START_MS + 120 * MINUTE_MS
    assert flow.keep_promise(promised_ms, NOW_MS) is None
    assert flow.position() == Position(None, 0)  # the label is held, not applied
    record = flow.drain_sketch()
    assert record is None
    other.come_to()
    (events, labels) = drain(flow)
    assert (events.events.event_id, labels.labels.event_id) == (["e0", "e1"], ["e0"])
    record = flow.drain_sketch()
    assert record is not None
    assert (record.watermark_ms, record.label_watermark_ms) == (promised_ms, promised_ms)
    assert flow.position() == Position(2, 1)


# -- what a state must be ----------------------------------------------------------------------------------------------


def waiting_changed(
    changes: list[tuple[bytes, bytes | None]], place: int, value: object
) -> list[tuple[bytes, bytes | None]]:
    """A changelog whose waiting events have another value in this place of `Scored`."""
    changed = []
    for key, record in changes:
        if key.startswith(PREFIX) and record is not None:
            fields = msgspec.msgpack.decode(record)
            fields[place] = value
            record = msgspec.msgpack.encode(fields)  # noqa: PLW2901  # the same record
        changed.append((key, record))
    return changed


@pytest.mark.parametrize(
    ("what", "value", "clock_ms"),
    [
        (
            "effective_ms",
            START_MS + 60 * HOUR_MS,
            START_MS,
        ),  # as far as a clock, an hour, a day and the horizon let it be
        ("event_time_ms", 10**12, None),
        ("fields", ("c0", 1.5), None),
        ("fields", ("c0",), None),
        ("segments", (0,), None),
    ],
)
def test_a_state_whose_events_cannot_be_of_this_pipeline_is_refused(
    setting: Setting, what: str, value: object, clock_ms: int | None
) -> None:
    first = PartitionPipeline(setting.pipeline, setting.plan, 0)
    receive(first, [event(0, START_MS)])
    step(first, ChampionTimeline([setting.version(1, None)]))
    changes = first.drain_state()
    second = PartitionPipeline(setting.pipeline, setting.plan, 0)
    second.state_reader(clock_ms).take_changes(changes)
    place = Scored._fields.index(what)
    with pytest.raises(RefusedRecordError):
        second.state_reader(clock_ms).take_changes(waiting_changed(changes, place, value))


@pytest.mark.parametrize("repartitioned", ["nnnnn", "ynnnn"])
def test_a_state_that_says_nothing_of_what_is_shared_is_refused(tmp_path: Path, repartitioned: str) -> None:
    shared = SharedSetting.read(tmp_path, repartitioned)
    flow = PartitionPipeline(shared.pipeline, shared.plan, 0, outputs=FlowOutput.STATE)
    changes = flow.drain_state()
    flow.state_reader().take_changes(changes)
    meta = msgspec.msgpack.decode(changes[-1][1] or b"")
    assert ("shared" in meta, "repartition" in meta) == (True, repartitioned == "ynnnn")
    for name in {"shared", "repartition"} & meta.keys():
        without = {key: value for key, value in meta.items() if key != name}
        with pytest.raises(RefusedRecordError):
            flow.state_reader().take_changes([*changes[:-1], (changes[-1][0], msgspec.msgpack.encode(without))])


def test_where_nothing_is_drained_a_state_that_was_read_keeps_no_changes_either(setting: Setting) -> None:
    models = ChampionTimeline([setting.version(1, None)])
    first = PartitionPipeline(setting.pipeline, setting.plan, 0)
    receive(first, [event(0, START_MS)])
    step(first, models)
    changes = first.drain_state()
    flows = [PartitionPipeline(setting.pipeline, setting.plan, 0, outputs=FlowOutput.REPLAYED) for _ in range(2)]
    flows[1].restore(changes)
    for flow in flows:
        receive(flow, [event(number, START_MS + MINUTE_MS) for number in range(3, 9)])
        step(flow, models)
    fresh, read = ([key for key, _ in flow.drain_state()] for flow in flows)
    assert set(read) <= set(fresh)  # the names of its stores are known already
