from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pytest
from core_setting import HOUR_MS, MINUTE_MS, START_MS
from core_setting import SPECIFICATION as CARDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unpacked import unpack

from app.adapters.sources.python_features import load_functions
from app.core.batches import Floats, RecordBatch
from app.core.counts.sketches import Sketch
from app.core.errors.stream import Errors
from app.core.features.plan import FeaturePlan
from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.scoring import ActiveModel, ChampionTimeline
from app.flow.step import FlowOutput, Step
from app.pipeline import PartitionPipeline
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER
from schemas.wire import DeadLetter, Score

NOW_MS = START_MS + 1000 * HOUR_MS
SLICE_MS = HOUR_MS

SPECIFICATION = f"""
publish_features = true
{CARDS}
[limits]
consecutive = 50
share = 0.99
of_last = 500
"""


SHOP = """
[[features]]
name = "shop"
type = "category"
expression = "shop"
values = ["s0"]

[[features]]
name = "is_large"
type = "bool"
expression = "amount > 0.5"

"""


#: Features made of windows, in no order; a function among them fails for a fifth of the events or so.
DERIVED = """
[[features]]
name = "surprise"
type = "category"
expression = "'much' if ratio > 2 else where(usual, shop, 'no shop')"
values = ["much", "s0"]

[[features]]
name = "ratio"
type = "float"
expression = "amount / per_payment"

[[features]]
name = "per_payment"
type = "float"
expression = "amount_2h / count_1h"

[[features]]
name = "usual"
type = "bool"
python = "own.py:is_usual"
arguments = ["count_1h", "is_large", "event_time"]

"""

OWN = """
def is_usual(count, is_large, time):
    if ((count == 2) | (is_large == 1) & (count == 0)).any():
        raise ArithmeticError("two is one too many")
    return (count < 2) & (time // 60_000 % 2 == 0)
"""


class RowScorer:
    """The mean of what is there, squeezed into (0, 1): every feature matters."""

    def score(self, matrix: Floats) -> Floats:
        assert len(matrix), "nobody is asked to score nothing"
        filled = np.where(np.isnan(matrix), -0.25, matrix)
        return 1 / (1 + np.exp(-filled.sum(axis=1) / 5))


class Setting:
    """A pipeline with its features and two versions: the second is in force from the third hour on."""

    def __init__(self, pipeline: Pipeline, plan: FeaturePlan, models: ChampionTimeline) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.models = models
        self.references = {champion.version: champion.reference for champion in models.champions}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("flow") / "cards.toml"
    path.write_text(SPECIFICATION)
    return build(path)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("flow") / "cards.toml"
    path.write_text(SPECIFICATION.replace("[drift]", SHOP + '[drift]\nsegments = ["shop", "is_large"]'))
    return build(path)


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("flow") / "cards.toml"
    path.with_name("own.py").write_text(OWN)
    more = SHOP + DERIVED + '[drift]\nsegments = ["shop", "surprise", "usual"]'
    path.write_text(SPECIFICATION.replace("[drift]", more))
    return build(path)


@pytest.fixture(scope="module", params=["setting", "segmented", "derived"])
def either(request: pytest.FixtureRequest) -> Setting:
    found: Setting = request.getfixturevalue(request.param)
    return found


def build(path: Path) -> Setting:
    pipeline = load(path)
    plan = FeaturePlan.compile(pipeline, {}, load_functions(pipeline))
    generator = np.random.default_rng(1)
    matrix = generator.normal(size=(200, len(pipeline.features))).round(1)
    labels = (generator.random(200) < 0.5).astype(np.float64)
    sizes = plan.category_sizes
    columns = [category(name, sizes[name]) if name in sizes else numeric(name) for name in pipeline.feature_names]
    reference = fit_reference(TrainingEvents(matrix, RowScorer().score(matrix), labels), columns, 16, 0.5)
    champions = [
        ActiveModel("fraud", version, "champion", pipeline.feature_set, 0.5, RowScorer(), reference, valid_from_ms)
        for version, valid_from_ms in (("1.0.0", None), ("2.0.0", START_MS + 2 * HOUR_MS))
    ]
    return Setting(pipeline, plan, ChampionTimeline(champions))


# -- logs: one partition's events and labels -------------------------------------------------------------------------


def event(number: int, minute: int, **changes: Any) -> bytes:
    fields = {"id": f"e{number}", "card": f"c{number % 2}", "at": START_MS + minute * MINUTE_MS, "amount": number / 8}
    return json.dumps({**fields, "shop": [None, "s0", "s1"][number % 3], **changes}).encode()


def label(event_id: str, minute: int, value: float = 1) -> bytes:
    return json.dumps({"event_id": event_id, "label": value, "label_time_ms": START_MS + minute * MINUTE_MS}).encode()


@dataclass(frozen=True)
class Log:
    topic: str
    values: list[bytes | None]
    headers: list[tuple[tuple[str, bytes], ...]]

    def cut(self, cuts: list[int], start: int = 0) -> Iterator[RecordBatch]:
        """Batches of these sizes in turn; offsets have gaps, as on a transactional topic."""
        sizes = itertools.cycle(cuts)
        while start < len(self.values):
            stop = min(len(self.values), start + next(sizes))
            values, n = self.values[start:stop], stop - start
            offsets = np.arange(start, stop, dtype=np.int64) * 3
            keys = [KEYS[crc32(value or b"") % len(KEYS)] for value in values]
            yield RecordBatch(
                self.topic, 0, offsets, np.full(n, NOW_MS), keys, values, self.headers[start:stop] or None
            )
            start = stop


#: Of the records, whatever is in them: cards of the events, one that has none, and none.
KEYS = (b"c0", b"c1", b"c9", None)
MINUTES = st.integers(0, 60 * 6)
EVENTS = st.lists(
    st.builds(event, st.integers(0, 9), MINUTES) | st.sampled_from([None, b"", b"rubbish", event(1, -(10**9))]),
    max_size=25,
)
LABELS = st.lists(
    st.builds(label, st.integers(0, 11).map("e{}".format), MINUTES, st.sampled_from([0, 1]))
    | st.sampled_from([None, b"rubbish", label("e1", 3, 7)])
    | MINUTES.map(lambda minute: START_MS + minute * MINUTE_MS),  # a watermark record
    max_size=25,
)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def logs_of(events: list[Any], labels: list[Any]) -> tuple[Log, Log]:
    values = [None if isinstance(value, int) else value for value in labels]
    marks = [((WATERMARK_HEADER, str(value).encode()),) if isinstance(value, int) else () for value in labels]
    return Log("cards.events", events, [()] * len(events)), Log("cards.labels", values, marks)


# -- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class Output:
    scores: list[tuple[bytes | None, bytes | None, int]] = field(default_factory=list)
    event_letters: list[DeadLetter] = field(default_factory=list)
    label_letters: list[DeadLetter] = field(default_factory=list)
    state: dict[bytes, bytes | None] = field(default_factory=dict)
    counts: dict[tuple[str, int, str], Sketch] = field(default_factory=dict)
    joined: list[tuple[str, float, int]] = field(default_factory=list)
    watermarks: list[tuple[int, int]] = field(default_factory=list)
    errors: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    labels: Counter[tuple[int, str | int]] = field(default_factory=Counter)
    entities: dict[bytes, bytes | None] = field(default_factory=dict)
    unscored: int = 0

    def add(self, step: Step | None) -> None:
        if step is None:
            return
        assert len(step.events) == len(step.scores) == len(step.matrix)
        self.scores += step.outgoing_scores
        for letter in step.dead_letters:
            (self.label_letters if letter.stage == "label" else self.event_letters).append(letter)
        self.joined += zip(step.labels.event_id, step.labels.label, step.labels.label_time_ms, strict=True)

    def drain(self, flow: PartitionPipeline) -> None:
        for key, value in flow.drain_state():
            self.state[key] = value
        self.entities.update(flow.drain_entities())
        sketch = flow.drain_sketch()
        for counts in sketch.labels if sketch else []:
            # As with the errors: nothing before what was said, so a slice that has ended stays as it is.
            assert not self.watermarks or counts.slice_start_ms + SLICE_MS > self.watermarks[-1][1]
            named = {"n": counts.n, "too_late": counts.too_late, "unknown": counts.unknown}
            self.labels.update({(counts.slice_start_ms, name): value for name, value in named.items()})
            self.labels.update(
                (counts.slice_start_ms, each) for each in np.frombuffer(counts.strangers, "<i8").tolist()
            )
        for delta in sketch.deltas if sketch else []:
            self.counts.setdefault((delta.version, delta.slice_start_ms, delta.segment), Sketch()).add(delta)
        for run in sketch.errors if sketch else []:
            found = Errors.of(run)
            # Nothing before what was said: whoever has released that far need not go back.
            assert not self.watermarks or found.times_ms.min() >= self.watermarks[-1][1]
            self.errors.setdefault(run.version, []).extend(zip(*(c.tolist() for c in found), strict=True))
        self.unscored += sketch.unscored if sketch else 0
        if sketch:
            self.watermarks.append((sketch.watermark_ms, sketch.label_watermark_ms))

    def seen(self, references: dict[str, Reference]) -> tuple[Any, ...]:
        """What anyone outside can see, in comparable form; of the state, what does not depend on the drains."""
        counts = {
            key: tuple(_bits(value) for value in vars(sketch.to_counts(references[key[0]])).values())
            for key, sketch in self.counts.items()
        }
        # A tile that has left its ring may be in the changelog or not: no read can tell.
        state = {key: value for key, value in self.state.items() if value is not None and not key.startswith(b"t")}
        letters = [
            [msgspec.json.encode(letter) for letter in kind] for kind in (self.event_letters, self.label_letters)
        ]
        return self.scores, letters, state, counts, self.joined, self.errors, +self.labels, self.entities


def _bits(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def drain_steps(flow: PartitionPipeline, output: Output, setting: Setting, most: int) -> None:
    while (step := flow.step(setting.models, most, NOW_MS)) is not None:
        output.add(step)


def run(
    setting: Setting,
    events: Iterator[RecordBatch],
    labels: Iterator[RecordBatch],
    turns: list[bool],
    *,
    most: int = 5000,
    flow: PartitionPipeline | None = None,
    output: Output | None = None,
) -> Output:
    """Take a batch of events (True) or labels (False) at each turn, then all that is left; step whenever possible."""
    flow = flow or PartitionPipeline(setting.pipeline, setting.plan, 0)
    output = output or Output()
    is_done = False
    later = iter(turns)
    while not is_done:
        turn = next(later, None)  # None: both, until both have ended
        batch = next(events, None) if turn is not False else None
        more = next(labels, None) if turn is not True else None
        if batch is not None:
            flow.receive_events(batch)
        if more is not None:
            flow.receive_labels(more, NOW_MS)
        is_done = turn is None and batch is None and more is None
        drain_steps(flow, output, setting, most)
        output.drain(flow)
    flow.merge.let_go(flow.merge.events_received)
    drain_steps(flow, output, setting, most)
    output.add(flow.finish(NOW_MS))
    output.drain(flow)
    return output


def check_that_segments_add_up(output: Output, setting: Setting) -> None:
    for (version, start_ms, segment), whole in output.counts.items():
        reference = setting.references[version]
        for column in setting.pipeline.drift.segments if segment == "all" else ():
            parts = reference.zeros()
            for (other, start, name), part in output.counts.items():
                if (other, start) == (version, start_ms) and name.startswith(f"{column}="):
                    parts += part.to_counts(reference)
            assert list(map(_bits, vars(parts).values())) == list(map(_bits, vars(whole.to_counts(reference)).values()))


FLOW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)


@pytest.mark.slow
@FLOW
@given(
    events=EVENTS,
    labels=LABELS,
    cuts=st.tuples(CUTS, CUTS),
    turns=st.lists(st.booleans(), max_size=20),
    most=st.integers(1, 6),
)
def test_many_are_as_one_by_one(
    either: Setting,
    *,
    events: list[Any],
    labels: list[Any],
    cuts: tuple[list[int], list[int]],
    turns: list[bool],
    most: int,
) -> None:
    event_log, label_log = logs_of(events, labels)
    one_by_one = run(either, event_log.cut([1]), label_log.cut([1]), [False] * len(labels), most=1)
    many = run(either, event_log.cut([99]), label_log.cut([99]), [])
    some = run(either, event_log.cut(cuts[0]), label_log.cut(cuts[1]), turns, most=most)
    check_that_segments_add_up(many, either)
    expected = one_by_one.seen(either.references)
    assert many.seen(either.references) == expected
    assert some.seen(either.references) == expected
    assert len(many.scores) + len(many.event_letters) == len(events)
    offsets = [letter.source.offset for letter in many.event_letters]
    assert offsets == sorted(offsets)
    for version, errors in many.errors.items():
        counts = [
            sketch.to_counts(either.references[version])
            for (of, _, segment), sketch in many.counts.items()
            if (of, segment) == (version, "all")
        ]
        lost = sum(each.n_labels for each in counts) - len(errors)
        assert lost == 0 or (lost > 0 and len({score.version for score in scores_of(many)}) == 2)  # one was replaced
        wrong = sum(decision % 2 for _, decision, _ in errors)
        assert lost or wrong == sum(each.n_labels - each.n_correct for each in counts)
    assert many.watermarks == sorted(many.watermarks)
    assert some.watermarks == sorted(some.watermarks)


@pytest.mark.slow
@FLOW
@given(
    events=EVENTS,
    labels=LABELS,
    turns=st.lists(st.booleans(), max_size=20),
    most=st.integers(1, 6),
    steps=st.integers(0, 8),
    cuts=CUTS,
)
def test_what_a_changelog_restores_goes_on_the_same(
    either: Setting,
    *,
    events: list[Any],
    labels: list[Any],
    turns: list[bool],
    most: int,
    steps: int,
    cuts: list[int],
) -> None:
    event_log, label_log = logs_of(events, labels)
    whole = run(either, event_log.cut([99]), label_log.cut([99]), [])

    first, output = PartitionPipeline(either.pipeline, either.plan, 0), Output()
    event_batches, label_batches = event_log.cut(cuts), label_log.cut(cuts)
    for is_event in turns:
        batch = next(event_batches if is_event else label_batches, None)
        if batch is not None and is_event:
            first.receive_events(batch)
        elif batch is not None:
            first.receive_labels(batch, NOW_MS)
        if steps and (step := first.step(either.models, most, NOW_MS)) is not None:
            output.add(step)
            steps -= 1
    output.drain(first)
    position = first.position()

    second = PartitionPipeline(either.pipeline, either.plan, 0)
    second.restore(list(output.state.items()))
    assert second.entities is not None
    second.entities.restore(list(output.entities.items()))
    for version, reference in either.references.items():
        second.know(version, reference)
    events_left = event_log.cut(cuts, 0 if position.events is None else (position.events + 2) // 3)
    labels_left = label_log.cut(cuts, 0 if position.labels is None else (position.labels + 2) // 3)
    output = run(either, events_left, labels_left, [], most=most, flow=second, output=output)
    assert output.seen(either.references) == whole.seen(either.references)


def scores_of(output: Output) -> list[Score]:
    return [msgspec.json.decode(value, type=Score) for _, value, _ in output.scores if value is not None]


def test_features_scores_and_counts_are_those_worked_out_by_hand(setting: Setting) -> None:
    """Card c0 at 0:00, 0:30 and 2:10; the label of the first arrives at 0:30, before the second event."""
    events = [event(0, 0, amount=1.0), event(2, 30, amount=2.0), event(4, 130, amount=4.0)]
    labels = [label("e0", 30), label("e2", 131, 0)]
    output = run(setting, *(log.cut([99]) for log in logs_of(events, labels)), [])
    first, second, third = scores_of(output)
    assert first.features == {"amount": 1.0, "count_1h": 0, "amount_2h": 0, "fraud_2h": None, "shop_fraud_1h": None}
    assert second.features == {"amount": 2.0, "count_1h": 1, "amount_2h": 1, "fraud_2h": 1, "shop_fraud_1h": 0}
    # At 2:10 the 2 h window begins with the tile of 0:20 (events) or 0:15 (labels): event 0 is out, label 0:30 is in.
    assert third.features == {"amount": 4.0, "count_1h": 0, "amount_2h": 2, "fraud_2h": 1, "shop_fraud_1h": 0}
    assert [score.version for score in (first, second, third)] == ["1.0.0", "1.0.0", "2.0.0"]
    assert first.score == 1 / (1 + np.exp(-0.5 / 5))  # two of its features are missing, -0.25 each
    assert [(score.source.offset, score.scored_at_ms, score.stale) for score in (first, third)] == [
        (0, NOW_MS, False),
        (6, NOW_MS, False),
    ]
    assert output.joined == [("e0", 1.0, START_MS + 30 * MINUTE_MS), ("e2", 0.0, START_MS + 131 * MINUTE_MS)]
    counted: list[Counts] = [
        output.counts[version, START_MS + hour * HOUR_MS, "all"].to_counts(setting.references[version])
        for version, hour in (("1.0.0", 0), ("2.0.0", 2))
    ]
    # Both labelled events are of the first hour: one positive, one negative.
    assert [(counts.n, counts.n_labels) for counts in counted] == [(2, 2), (1, 0)]
    assert counted[0].outcomes.sum(axis=1).tolist() == [1, 1]


def test_a_label_counts_in_the_segments_that_its_event_was_of(segmented: Setting) -> None:
    """Shops by the event's number: none, s0, s1 (which is none of the values); amounts above 0.5 are large."""
    events = [event(number, 0, amount=amount) for number, amount in ((0, 0.1), (1, 0.2), (2, 0.9), (4, 0.7))]
    events.append(event(5, 180))
    labels = [label("e0", 1), label("e1", 100, 0), label("e4", 100), label("e2", 170)]
    whole = run(segmented, *(log.cut([1]) for log in logs_of(events, labels)), [])
    n_labels = {
        segment: sketch.to_counts(segmented.references["1.0.0"]).outcomes.sum(axis=1).tolist()
        for (version, start_ms, segment), sketch in whole.counts.items()
        if (version, start_ms) == ("1.0.0", START_MS)
    }
    assert n_labels == {
        "all": [1, 3],
        "shop=s0": [1, 1],
        "shop=unseen": [0, 1],
        "shop=missing": [0, 1],
        "is_large=false": [1, 1],
        "is_large=true": [0, 2],
    }


def test_events_that_waited_while_the_file_named_other_columns_count_where_they_are_known(segmented: Setting) -> None:
    def choose(*names: str) -> Setting:
        drift = replace(segmented.pipeline.drift, segments=names)
        return Setting(replace(segmented.pipeline, drift=drift), segmented.plan, segmented.models)

    def changes(setting: Setting, *wanted: str) -> dict[str, int]:
        events, labels = logs_of([event(1, 0)], [label("e1", 20)])
        first = PartitionPipeline(choose("shop").pipeline, setting.plan, 0)
        first.receive_events(next(events.cut([1])))
        first.merge.let_go(1)
        assert first.step(setting.models, 9, NOW_MS) is not None
        second = PartitionPipeline(choose(*wanted).pipeline, setting.plan, 0)
        second.restore(first.drain_state())
        for version, reference in setting.references.items():
            second.know(version, reference)
        second.receive_labels(next(labels.cut([1])), NOW_MS)
        assert second.finish(NOW_MS) is not None
        record = second.drain_sketch()
        assert record is not None
        return {delta.segment: unpack(delta, setting.references["1.0.0"]).n_labels for delta in record.deltas}

    assert changes(segmented, "shop") == {"all": 1, "shop=s0": 1}
    assert changes(segmented, "is_large", "shop") == {"all": 1, "shop=s0": 1}
    assert changes(segmented, "is_large") == changes(segmented) == {"all": 1}


def test_a_label_belongs_to_the_newest_event_of_its_id_and_counts_once(setting: Setting) -> None:
    events = [event(0, 0), event(0, 10), event(1, 30)]
    labels = [label("e0", 20), label("e0", 25)]
    for cuts in ([1], [99]):
        output = run(setting, *(log.cut(cuts) for log in logs_of(events, labels)), [False, False])
        assert output.joined == [("e0", 1.0, START_MS + 20 * MINUTE_MS)]
        assert output.counts["1.0.0", START_MS, "all"].to_counts(setting.references["1.0.0"]).n_labels == 1


def test_a_label_later_than_the_horizon_counts_no_more(setting: Setting) -> None:
    events = [event(0, 0), event(2, 180), event(3, 181), event(5, 200)]
    labels = [label("e0", 181), label("e2", 190)]
    for cuts in ([1], [99]):
        in_time = run(setting, *(log.cut(cuts) for log in logs_of(events[:2], labels)), [])
        late = run(setting, *(log.cut(cuts) for log in logs_of(events, [label("e0", 182), labels[1]])), [])
        assert [event_id for event_id, *_ in in_time.joined] == ["e0", "e2"]
        assert [event_id for event_id, *_ in late.joined] == ["e2"]


def test_the_error_stream_has_each_event_once_by_its_first_label_and_unknown_and_late_ones_not(
    setting: Setting,
) -> None:
    end = 30 * 24 * 60
    start = -end
    events = [event(number, start + 10 * number) for number in range(3)] + [event(4, end - 2), event(3, end)]
    labels = [
        label("e1", start + 20, 1),
        label("e1", start + 21, 0),  # contradicts it
        label("e1", start + 22, 1),  # says it again
        label("stranger", start + 23),
        label("e2", start + 24, 7),  # neither 0 nor 1: a dead letter
        label("e3", end - 1, 1),  # before its event, which nobody knows yet
        label("e0", end, 1),  # 60 days late
        label("e3", end + 1, 0),
    ]
    for cuts in ([1], [99]):
        output = run(setting, *(log.cut(cuts) for log in logs_of(events, labels)), [])
        times = {version: [time for time, *_ in errors] for version, errors in output.errors.items()}
        assert times == {
            "1.0.0": [START_MS + (start + 10 + 60) * MINUTE_MS],  # an hour after its event
            "2.0.0": [START_MS + (end + 60) * MINUTE_MS],
        }
        decisions = {score.event_id: score.decision for score in scores_of(output)}
        assert output.errors["1.0.0"][0][1] == 2 + (not decisions["e1"])
        assert output.errors["2.0.0"][0][1] == decisions["e3"]


def test_a_rejected_event_leaves_its_neighbours_scored_and_keeps_its_bytes(setting: Setting) -> None:
    events = [event(0, 0), b"rubbish", None, event(1, 5, amount=None), event(2, 6)]
    output = run(setting, *(log.cut([99]) for log in logs_of(events, [])), [])
    assert [score.event_id for score in scores_of(output)] == ["e0", "e2"]
    assert [(letter.source.offset, letter.reason, letter.value) for letter in output.event_letters] == [
        (3, "not_json", b"rubbish"),
        (6, "tombstone", None),
        (9, "wrong_type", events[3]),
    ]


@pytest.mark.parametrize("cuts", [[1], [2], [99]])
def test_an_event_that_fails_when_its_windows_are_known_has_counted_in_them_and_nowhere_else(
    derived: Setting, cuts: list[int]
) -> None:
    """The third payment of a card within an hour (e4) makes the function fail."""
    events = [event(0, 0), event(2, 1), b"rubbish", event(4, 2), b"more", event(6, 3), event(8, 40)]
    labels = [label("e2", 30, 0), label("e4", 31)]
    output = run(derived, *(log.cut(cuts) for log in logs_of(events, labels)), [])
    assert [(letter.source.offset, letter.stage, letter.reason, letter.value) for letter in output.event_letters] == [
        (6, "decode", "not_json", b"rubbish"),
        (9, "features", "derived_feature", events[3]),
        (12, "decode", "not_json", b"more"),
    ]
    assert output.event_letters[1].detail == "usual: ArithmeticError: two is one too many"
    assert output.unscored == 0  # it was rejected
    scores = {score.event_id: score for score in scores_of(output)}
    assert list(scores) == ["e0", "e2", "e6", "e8"]
    # Of its windows every later event knows: the count, the amount, and the label.
    assert [scores[name].features["count_1h"] for name in scores] == [0, 1, 3, 4]
    assert scores["e8"].features["amount_2h"] == (0 + 2 + 4 + 6) / 8
    assert scores["e8"].features["per_payment"] == (0 + 2 + 4 + 6) / 8 / 4
    assert scores["e8"].features["fraud_2h"] == 0.5
    # It has no score, so its label says nothing of a decision.
    assert [name for name, *_ in output.joined] == ["e2"]
    assert [len(errors) for errors in output.errors.values()] == [1]
    counts = output.counts["1.0.0", START_MS, "all"].to_counts(derived.references["1.0.0"])
    assert (counts.n, counts.n_labels) == (4, 1)


def test_a_step_is_of_the_events_that_have_a_score_and_says_which_have_counted(derived: Setting) -> None:
    events = [event(0, 0), event(2, 1), event(4, 2), event(6, 3), event(8, 40), event(10, 130, amount=0.1)]
    labels = [label("e4", 10), label("e8", 41)]
    event_log, label_log = logs_of(events, labels)
    flow = PartitionPipeline(derived.pipeline, derived.plan, 0)
    flow.receive_labels(next(label_log.cut([9])), NOW_MS)
    flow.receive_events(next(event_log.cut([9])))
    flow.merge.let_go(9)
    step = flow.step(derived.models, 9, NOW_MS)
    assert step is not None
    assert step.applied.event_id == ["e0", "e2", "e4", "e6", "e8", "e10"]
    assert step.events.event_id == ["e0", "e2", "e6", "e8", "e10"]
    assert step.events.offsets.tolist() == [0, 3, 9, 12, 15]
    assert [(start, stop, model.version) for start, stop, model in step.runs] == [(0, 4, "1.0.0"), (4, 5, "2.0.0")]
    assert step.scores.tolist() == RowScorer().score(step.matrix).tolist()
    # Of the labels, that of e8: event 3 of those that have a score, before event 4.
    labels_of = step.labels
    assert (labels_of.event_id, labels_of.events, labels_of.before, labels_of.own_rows) == (["e8"], [3], [4], {3})


def test_a_label_of_a_repeated_id_is_that_of_the_event_that_failed_if_it_is_the_newest(derived: Setting) -> None:
    events = [event(0, 0), event(2, 1), event(0, 2), event(6, 40)]
    for cuts in ([1], [99]):
        output = run(derived, *(log.cut(cuts) for log in logs_of(events, [label("e0", 20)])), [False])
        assert [letter.reason for letter in output.event_letters] == ["derived_feature"]
        assert output.joined == []
        assert scores_of(output)[-1].features["fraud_2h"] == 1


def test_rejections_that_come_late_count_towards_the_limit_in_the_order_of_the_log(derived: Setting) -> None:
    limits = replace(derived.pipeline.limits, consecutive=3)
    strict = Setting(replace(derived.pipeline, limits=limits), derived.plan, derived.models)
    start = [event(0, 0), event(2, 1)]
    for cuts in ([1], [99]):
        three = [*start, b"rubbish", event(4, 2), b"rubbish"]
        with pytest.raises(TooManyDeadLettersError, match="3 events in a row"):
            run(strict, *(log.cut(cuts) for log in logs_of(three, [])), [])
        apart = [*start, b"rubbish", event(4, 2), event(6, 3), b"rubbish"]
        assert len(run(strict, *(log.cut(cuts) for log in logs_of(apart, [])), []).event_letters) == 3


def test_a_rejected_label_goes_out_only_when_it_will_not_be_read_again(setting: Setting) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    _, labels = logs_of([], [b"rubbish", label("e0", 5), b"more rubbish"])
    flow.receive_labels(next(labels.cut([99])), NOW_MS)
    step = flow.step(setting.models, 9, NOW_MS)
    assert step is not None
    assert [letter.source.offset for letter in step.dead_letters] == [0]
    assert flow.position().labels == 3
    last = flow.finish(NOW_MS)
    assert last is not None
    assert [letter.source.offset for letter in last.dead_letters] == [6]
    assert flow.position().labels == 7


def test_a_rejected_label_that_has_not_gone_out_is_read_again_after_a_restart(setting: Setting) -> None:
    """A commit may fall between the reading of a label and the next step."""
    log = logs_of([], [b"rubbish", b"more rubbish"])[1]
    first = PartitionPipeline(setting.pipeline, setting.plan, 0)
    first.receive_labels(next(log.cut([9])), NOW_MS)
    assert first.position().labels == 0
    second = PartitionPipeline(setting.pipeline, setting.plan, 0)
    second.restore(first.drain_state())
    at = second.position().labels
    assert at is not None
    second.receive_labels(next(log.cut([9], at // 3)), NOW_MS)
    step = second.finish(NOW_MS)
    assert step is not None
    assert [letter.source.offset for letter in step.dead_letters] == [0, 3]
    assert second.position().labels == 4


def test_labels_that_never_come_hold_back_what_is_final_by_the_horizon_alone(setting: Setting) -> None:
    events, _ = logs_of([event(0, 0), event(1, 10)], [])
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    flow.receive_events(next(events.cut([2])))
    flow.merge.let_go(2)
    assert flow.step(setting.models, 9, NOW_MS) is not None
    record = flow.drain_sketch()
    assert record is not None
    at_ms = START_MS + 10 * MINUTE_MS
    assert (record.watermark_ms, record.label_watermark_ms) == (at_ms, at_ms - 3 * HOUR_MS)


@pytest.mark.parametrize("cuts", [[1], [2], [99]])
def test_an_error_counts_when_its_event_is_mature_or_its_label_comes_and_has_the_hour_of_its_event(
    setting: Setting, cuts: list[int]
) -> None:
    """Mature is an event after an hour; the first is of 2020-09-13, a Sunday, at noon in UTC."""
    events = [event(0, 0), event(2, 10), event(4, 40), event(6, 61)]
    labels = [label("e0", 20), label("e6", 62), label("e2", 65), label("e4", 101)]
    output = run(setting, *(log.cut(cuts) for log in logs_of(events, labels)), [])
    sunday = 6 * 24 + 12
    found = [((time - START_MS) / MINUTE_MS, hour) for time, _, hour in output.errors["1.0.0"]]
    assert found == [(60, sunday), (121, sunday + 1), (70, sunday), (101, sunday)]


@pytest.mark.parametrize("cuts", [[1], [2], [99]])
def test_labels_later_than_mature_are_no_errors_of_a_version_that_has_been_replaced_for_as_long(
    setting: Setting, cuts: list[int]
) -> None:
    """The second version scores from minute 120 on; mature is an event after an hour."""
    last = 119
    later = [event(number, last + 20 * (number - 3)) for number in range(4, 9)]
    events = [event(0, last - 40), event(2, last - 2), event(3, last), *later]
    labels = [
        label("e0", last + 50),  # late, and within an hour of the last event
        label("e2", last + 55),
        label("e3", last + 60 + 1),  # a minute too late
    ]
    output = run(setting, *(log.cut(cuts) for log in logs_of(events, labels)), [])
    found = [(time - START_MS) / MINUTE_MS - last for time, *_ in output.errors["1.0.0"]]
    assert found == [50, 58]
    assert [event_id for event_id, *_ in output.joined] == ["e0", "e2", "e3"]


def test_an_error_has_the_time_of_its_label_though_events_went_before_it(setting: Setting) -> None:
    """Not that of the newest event: only what is older than the horizon may have been said to be final."""
    events, labels = logs_of([event(0, 0), event(2, 100)], [label("e0", 80)])
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    flow.receive_events(next(events.cut([2])))
    flow.merge.let_go(2)
    assert flow.step(setting.models, 9, NOW_MS) is not None
    flow.receive_labels(next(labels.cut([1])), NOW_MS)
    assert flow.finish(NOW_MS) is not None
    record = flow.drain_sketch()
    assert record is not None
    (errors,) = record.errors
    assert Errors.of(errors).times_ms.tolist() == [START_MS + 80 * MINUTE_MS]


def test_a_promise_is_kept_over_a_restart(setting: Setting) -> None:
    """No event of the partition is before it, whoever reads on; so nobody says less."""
    promised_ms = START_MS + 5 * HOUR_MS
    first = PartitionPipeline(setting.pipeline, setting.plan, 0)
    first.keep_promise(promised_ms, NOW_MS)
    second = PartitionPipeline(setting.pipeline, setting.plan, 0)
    second.restore(first.drain_state())
    record = second.drain_sketch()
    assert record is not None
    assert (record.watermark_ms, record.label_watermark_ms) == (promised_ms, promised_ms)


def test_the_count_of_rejections_goes_on_after_a_restart_and_begins_anew_with_a_mended_file(setting: Setting) -> None:
    events, _ = logs_of([b"rubbish"] * 50, [])
    first = PartitionPipeline(setting.pipeline, setting.plan, 0)
    first.receive_events(next(events.cut([49])))
    assert first.step(setting.models, 99, NOW_MS) is not None
    state = first.drain_state()

    def read_the_last(pipeline: Pipeline) -> Step | None:
        second = PartitionPipeline(pipeline, setting.plan, 0)
        second.restore(state)
        second.receive_events(next(events.cut([1], 49)))
        return second.step(setting.models, 99, NOW_MS)

    with pytest.raises(TooManyDeadLettersError, match="50 events in a row"):
        read_the_last(setting.pipeline)
    assert read_the_last(replace(setting.pipeline, digest="mended")) is not None


class EvenScorer:
    """Exactly the threshold for everyone."""

    def score(self, matrix: Floats) -> Floats:
        return np.full(len(matrix), 0.5)


def test_a_score_at_the_threshold_is_a_positive_decision_and_right_where_the_label_is(setting: Setting) -> None:
    even = ChampionTimeline([replace(champion, scorer=EvenScorer()) for champion in setting.models.champions])
    at_threshold = Setting(setting.pipeline, setting.plan, even)
    logs = logs_of([event(0, 0), event(1, 0)], [label("e0", 1, 1), label("e1", 2, 0)])
    output = run(at_threshold, *(log.cut([9]) for log in logs), [])
    assert [(score.score, score.decision) for score in scores_of(output)] == [(0.5, True), (0.5, True)]
    assert [decision for _, decision, _ in output.errors["1.0.0"]] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [[1], [7], [200]])
def test_too_many_rejections_in_a_row_stop_the_flow_however_they_are_cut(setting: Setting, cuts: list[int]) -> None:
    rubbish: list[bytes | None] = [b"rubbish"] * 49
    fine = [event(0, 0), *rubbish, event(1, 1), *rubbish, event(2, 2)]
    output = run(setting, *(log.cut(cuts) for log in logs_of(fine, [])), [])
    assert (len(output.scores), len(output.event_letters)) == (3, 98)
    for bad in ([event(0, 0), *rubbish, b"rubbish", event(1, 1)], [*rubbish, b"rubbish"]):
        with pytest.raises(TooManyDeadLettersError, match="50 events in a row"):
            run(setting, *(log.cut(cuts) for log in logs_of(bad, [])), [])


def test_without_scores_the_features_are_the_same(setting: Setting) -> None:
    events, labels = [event(n, 7 * n) for n in range(20)], [label(f"e{n}", 7 * n + 20, n % 2) for n in range(20)]
    scored = scores_of(run(setting, *(log.cut([99]) for log in logs_of(events, labels)), []))
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0, outputs=FlowOutput.NONE)
    event_log, label_log = logs_of(events, labels)
    flow.receive_events(next(event_log.cut([99])))
    flow.receive_labels(next(label_log.cut([99])), NOW_MS)
    flow.merge.let_go(20)
    step = flow.step(None, 5000, NOW_MS)
    assert step is not None
    expected = [[np.nan if value is None else value for value in score.features.values()] for score in scored]
    assert step.matrix.tobytes() == np.array(expected).tobytes()
    assert step.outgoing_scores == []
    assert flow.drain_sketch() is not None  # the watermark alone
