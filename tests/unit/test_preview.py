"""A preview is what the stream gives if the event comes next, and it leaves no trace."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
from core_setting import (
    CARD_EVENTS,
    DAY_MS,
    MINUTE_MS,
    MONITORED,
    SPECIFICATION,
    START_MS,
    Setting,
    batch,
    label,
)
from hypothesis import given
from hypothesis import strategies as st
from rows_in_memory import RowsInMemory
from shared_cluster import PARTITIONS as SHARED_PARTITIONS
from shared_cluster import Setting as SharedSetting
from shared_logs import NOW_MS as SHARED_NOW_MS
from shared_logs import START_MS as SHARED_START_MS
from shared_logs import Logs
from shared_logs import event as shared_event
from shared_logs import label as shared_label

from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ChampionTimeline
from app.core.shared.board import SharedBoard
from app.core.tiles.row_cache import RowCache, Snapshot
from app.flow.preview import MOST_LABELS, Preview
from app.flow.step import FlowOutput, Step
from app.pipeline import PartitionPipeline
from schemas.pipeline.features import FIELDLESS_AGGREGATES
from schemas.pipeline.file import load
from schemas.pipeline.spec import Aggregate

NOW_MS = START_MS + 10 * DAY_MS


def window(number: int, of: str, key: list[str], aggregate: str, field: str) -> str:
    said = f'of = "{of}", key = {json.dumps(key)}, size = "2h", hop = "10m", aggregate = "{aggregate}"'
    named = "" if aggregate in FIELDLESS_AGGREGATES else f', field = "{field}"'
    return f'[[features]]\nname = "w{number}"\ntype = "float"\nwindow = {{ {said}{named} }}\n'


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Every aggregate, over events and over labels, by card and by card and shop; and a feature made of windows."""
    drawn = [
        (of, key, aggregate, "shop" if aggregate == "distinct" else "amount")
        for aggregate in get_args(Aggregate)
        for of, key in (("events", ["card"]), ("labels", ["card"]), ("labels", ["card", "shop"]))
        if aggregate in {"count", "distinct", "last"} or len(key) == 1
    ]
    windows = "".join(window(number, *of) for number, of in enumerate(drawn))
    made = '[[features]]\nname = "made"\ntype = "float"\nexpression = "w0 * 2 + amount"\n'
    head = SPECIFICATION.partition("[[features]]")[0]
    amount = '[[features]]\nname = "amount"\ntype = "float"\nexpression = "amount"\n'
    path = tmp_path_factory.mktemp("preview") / "cards.toml"
    path.write_text(head + amount + windows + made + CARD_EVENTS + MONITORED)
    pipeline = load(path)
    return Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))


# -- histories ---------------------------------------------------------------------------------------------------------

SHOP = st.sampled_from(["a", "b", None])
#: By how much the clock moves on, and by how much what happens is older, in minutes.
GAPS, AGES = st.integers(0, 25), st.sampled_from([0, 0, 0, 3, 40, 150])
EVENTS = st.tuples(st.just("event"), st.integers(0, 9), st.integers(0, 1), AGES, SHOP, st.integers(-4, 4))
LABELS = st.tuples(st.just("label"), st.integers(0, 9), AGES)
STEPS = st.tuples(st.just("steps"))


@st.composite
def histories(draw: st.DrawFn, what: st.SearchStrategy[tuple[Any, ...]], most: int, start: int = 0) -> Any:
    """Things that happen one after the other, with their minutes in the place of their ages."""
    minute, history = start, []
    for of in draw(st.lists(what, max_size=most)):
        minute += draw(GAPS)
        place = {"event": 3, "label": 2, "steps": None}[of[0]]
        history.append(of if place is None else (*of[:place], max(minute - of[place], 0), *of[place + 1 :]))
    return history


HISTORY = histories(st.one_of(EVENTS, EVENTS, LABELS, STEPS), 25)
#: Labels that are there before the event that they come before, and no other event is.
AHEAD = histories(LABELS, 8, start=200)
ASKED = histories(EVENTS, 4, start=210)


def as_event(what: tuple[Any, ...]) -> bytes:
    _, number, card, minute, shop, amount = what
    fields = {"id": f"e{number}", "card": f"c{card}", "at": START_MS + minute * MINUTE_MS}
    return json.dumps({**fields, "amount": amount / 4, "shop": shop}).encode()


class History:
    """A flow, and the records that it was given."""

    def __init__(self, setting: Setting, rows: RowCache | None = None) -> None:
        self.flow = PartitionPipeline(setting.pipeline, setting.plan, 0, rows=rows)
        self.models = ChampionTimeline(
            [setting.version(1, None), setting.version(2, START_MS + 100 * MINUTE_MS)], START_MS + 20 * MINUTE_MS
        )
        self._events = self._labels = 0

    def go_through(self, history: list[tuple[Any, ...]]) -> None:
        for what in history:
            if what[0] == "event":
                self.receive(as_event(what))
            elif what[0] == "label":
                value = label(f"e{what[1]}", START_MS + what[2] * MINUTE_MS)
                self.flow.receive_labels(batch("cards.labels", [value], [NOW_MS], first=self._labels), NOW_MS)
                self._labels += 1
            else:
                self.run()

    def receive(self, value: bytes) -> None:
        self.flow.receive_events(batch("cards.events", [value], [NOW_MS], first=self._events), NOW_MS)
        self._events += 1

    def run(self) -> list[Step]:
        """Process all that was received, whatever labels may come."""
        self.flow.merge.let_go(self.flow.merge.events_received)
        steps = []
        while (step := self.flow.step(self.models, 3, NOW_MS)) is not None:
            steps.append(step)
        return steps

    def preview(self, values: list[bytes]) -> Preview:
        asked = batch("cards.events", list(values), [NOW_MS] * len(values))
        return self.flow.preview(asked, self.models, NOW_MS)

    def drained(self) -> tuple[Any, ...]:
        return self.flow.drain_state(), self.flow.drain_sketch(), self.flow.position()


def comes_next(setting: Setting, history: list[tuple[Any, ...]], ahead: list[tuple[Any, ...]], value: bytes) -> Step:
    """What the stream gives for an event after a history, and after labels that were there before it."""
    stream = History(setting)
    stream.go_through(history)
    stream.run()
    stream.go_through(ahead)
    stream.receive(value)
    return [step for step in stream.run() if len(step.events)][-1]


def expect_same(preview: Preview, row: int, step: Step) -> None:
    assert preview.matrix[row].tobytes() == step.matrix[0].tobytes()
    assert preview.scores[row].tobytes() == step.scores[0].tobytes()
    model = preview.models[row]
    assert [model.version if model else None] == [run.version for *_, run in step.runs] or (
        model is None and not step.runs
    )


@pytest.mark.slow
@given(history=HISTORY, ahead=AHEAD, asked=ASKED.filter(bool))
def test_a_preview_is_what_the_stream_gives_if_the_event_comes_next(
    setting: Setting, history: list[tuple[Any, ...]], ahead: list[tuple[Any, ...]], asked: list[tuple[Any, ...]]
) -> None:
    hook = History(setting)
    hook.go_through(history)
    hook.run()
    hook.go_through(ahead)
    values = [as_event(what) for what in asked]
    preview = hook.preview(values)
    assert preview.rows.tolist() == list(range(len(values)))
    assert (preview.rejections, preview.is_stale.any()) == ([], False)
    assert preview.position == hook.flow.position().__class__(hook._events or None, hook._labels or None)
    for row, value in enumerate(values):
        expect_same(preview, row, comes_next(setting, history, ahead, value))


@pytest.mark.slow
@given(before=HISTORY, waiting=histories(EVENTS, 3, start=200), asked=ASKED.filter(bool))
def test_events_that_wait_are_not_in_a_preview_and_it_says_so_by_its_offset(
    setting: Setting, before: list[tuple[Any, ...]], waiting: list[tuple[Any, ...]], asked: list[tuple[Any, ...]]
) -> None:
    hook = History(setting)
    hook.go_through(before)
    hook.run()
    done = hook._events
    hook.go_through(waiting)
    preview = hook.preview([as_event(what) for what in asked])
    assert preview.position.events == (done or None)
    for row, what in enumerate(asked):
        expect_same(preview, row, comes_next(setting, before, [], as_event(what)))


@pytest.mark.slow
@given(history=HISTORY, asked=ASKED.filter(bool), later=HISTORY, on_disk=st.booleans())
def test_a_preview_leaves_no_trace(
    setting: Setting,
    history: list[tuple[Any, ...]],
    asked: list[tuple[Any, ...]],
    later: list[tuple[Any, ...]],
    on_disk: bool,
) -> None:
    came_to = []
    for is_asked in (False, True):
        flow = History(setting, RowCache(RowsInMemory(), 2) if on_disk else None)
        for part in (history, later):
            flow.go_through(part)
            if is_asked:
                flow.preview([as_event(what) for what in asked])
                flow.preview([b"rubbish", as_event(asked[0])])
        steps = flow.run()
        scored = [(step.events.event_id, step.matrix.tobytes(), step.scores.tobytes()) for step in steps]
        came_to.append((scored, flow.drained()))
    assert came_to[0] == came_to[1]


@pytest.mark.parametrize("asked_at", [29, 30, 31])
def test_a_label_of_the_time_of_the_event_comes_before_it(setting: Setting, asked_at: int) -> None:
    hook = History(setting)
    hook.go_through([("event", 1, 0, 20, "a", 1)])
    hook.run()
    hook.go_through([("label", 1, 30)])
    preview = hook.preview([as_event(("event", 2, 0, asked_at, "a", 1))])
    of_labels = setting.plan.names.index("w1")
    assert preview.matrix[0, of_labels] == (1 if asked_at >= 30 else 0)


def test_previews_of_keys_on_disk_ask_for_a_drain_that_makes_room(setting: Setting) -> None:
    rows = RowCache(RowsInMemory(), 3)
    hook = History(setting, rows)
    for card in range(30):
        hook.receive(as_event(("event", card, card, card, "a", 1)))
        hook.run()
        hook.drained()
        hook.flow.state_committed(0, NOW_MS)
    assert not hook.flow.wants_drain
    rows.write(Snapshot(setting.pipeline.feature_set, 0, 0, NOW_MS))
    hook.preview([as_event(("event", 99, card, 40, "a", 1)) for card in range(30)])
    assert hook.flow.wants_drain
    hook.drained()
    assert not hook.flow.wants_drain


def test_what_cannot_be_scored_is_refused_by_its_place(setting: Setting) -> None:
    good = as_event(("event", 1, 1, 50, "a", 1))
    ahead = as_event(("event", 2, 1, 60 * 24 * 20, "a", 1))
    preview = History(setting).preview([b"rubbish", good, ahead, good.replace(b'"amount"', b'"amounts"')])
    assert preview.rows.tolist() == [1]
    assert [(bad.position, bad.reason) for bad in preview.rejections] == [
        (0, "not_json"),
        (2, "time_ahead"),
        (3, "missing_field"),
    ]
    assert len(preview.scores) == len(preview.models) == len(preview.is_stale) == 1


def test_labels_that_are_far_ahead_bound_the_time_of_a_preview_and_it_says_where_it_stopped(setting: Setting) -> None:
    hook = History(setting)
    events = [("event", number % 10, 0, number, "a", 1) for number in range(10)]
    hook.go_through(events)
    hook.run()
    late = [("label", 100 + number, 20) for number in range(MOST_LABELS)] + [("label", 1, 20)]
    hook.go_through(late)
    preview = hook.preview([as_event(("event", 11, 0, 30, "a", 1))])
    assert preview.position.labels == MOST_LABELS
    expect_same(preview, 0, comes_next(setting, events, late[:-1], as_event(("event", 11, 0, 30, "a", 1))))


def test_versions_say_who_scores_and_an_event_before_all_of_them_has_no_score(setting: Setting) -> None:
    preview = History(setting).preview([as_event(("event", 1, 1, minute, "a", 1)) for minute in (0, 50, 150)])
    assert [model.version if model else None for model in preview.models] == [None, "1.0.0", "2.0.0"]
    assert np.isnan(preview.scores[0])
    assert np.isfinite(preview.scores[1:]).all()


# -- windows that partitions share -------------------------------------------------------------------------------------

SHOPS = st.sampled_from(["x", "y", None])
SHARED_EVENTS = st.tuples(st.integers(0, SHARED_PARTITIONS - 1), st.integers(0, 300), SHOPS, st.booleans())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedSetting:
    return SharedSetting.read(tmp_path_factory.mktemp("shared"), "nnnnn")


def go_through(shared: SharedSetting, history: list[tuple[int, int, str | None, bool]]) -> list[PartitionPipeline]:
    """All partitions in one process, after events in the order of time, some with a label five minutes later."""
    board = SharedBoard(shared.plan.shared, range(SHARED_PARTITIONS))
    outputs = FlowOutput.STATE  # no scores, so no model is waited for
    flows = [
        PartitionPipeline(shared.pipeline, shared.plan, k, board=board, outputs=outputs)
        for k in range(SHARED_PARTITIONS)
    ]
    logs = Logs.empty(SHARED_PARTITIONS)
    for number, (partition, minute, shop, is_labelled) in enumerate(sorted(history, key=lambda of: of[1])):
        logs.events[partition].append(shared_event(f"e{number}", minute, shop, minute / 8))
        if is_labelled:
            logs.labels[partition].append(shared_label(f"e{number}", minute + 5, 1))
    for k, flow in enumerate(flows):
        if logs.labels[k]:
            flow.receive_labels(logs.batch("labels", k, 0, len(logs.labels[k])), SHARED_NOW_MS)
        if logs.events[k]:
            flow.receive_events(logs.batch("events", k, 0, len(logs.events[k])))
        flow.merge.let_go(flow.merge.events_received)
        flow.share()
    return flows


def come_to(flows: list[PartitionPipeline], minute: int, but: int) -> list[Step]:
    """All other partitions have come so far; what the one gives that may now read."""
    for flow in flows:
        if flow.partition != but:
            flow.come_to(SHARED_START_MS + minute * MINUTE_MS)
    steps = []
    while (step := flows[but].step(None, 5, SHARED_NOW_MS)) is not None:
        steps.append(step)
    return [step for step in steps if len(step.events)]


@given(
    history=st.lists(SHARED_EVENTS, max_size=25),
    asked=st.lists(st.tuples(st.integers(0, 400), SHOPS), min_size=1, max_size=4),
    of=st.integers(0, SHARED_PARTITIONS - 1),
    others=st.sampled_from([0, 200, 500]),
)
def test_with_shared_windows_a_preview_is_as_exact_or_says_that_it_is_stale(
    shared: SharedSetting,
    history: list[tuple[int, int, str | None, bool]],
    asked: list[tuple[int, str | None]],
    of: int,
    others: int,
) -> None:
    none: Any = ChampionTimeline()
    flows = go_through(shared, history)
    come_to(flows, others, of)
    values = [shared_event("asked", minute, shop, 0.5) for minute, shop in asked]
    encoded = [json.dumps(value).encode() for value in values]
    previews = []
    for values_of in (encoded, encoded[:1]):  # the second goes back in time
        offsets = np.arange(len(values_of))
        records = RecordBatch(
            "cards.events", of, offsets, np.full(len(values_of), SHARED_NOW_MS), [b"k"] * len(values_of), values_of
        )
        previews.append(flows[of].preview(records, none, SHARED_NOW_MS))
    assert previews[0].matrix[0].tobytes() == previews[1].matrix[0].tobytes()
    for row, value in enumerate(values):
        again = go_through(shared, history)
        before = len(come_to(again, others, of))
        stream = again[of]
        logs = Logs.empty(SHARED_PARTITIONS)
        logs.events[of] = [None] * 50 + [value]
        stream.receive_events(logs.batch("events", of, 50, 51))
        stream.merge.let_go(stream.merge.events_received)
        steps = come_to(again, others, of)
        has_waited = not steps or steps[-1].events.event_id[-1] != "asked"
        assert bool(previews[0].is_stale[row]) == has_waited, before
        if not has_waited:
            assert previews[0].matrix[row].tobytes() == steps[-1].matrix[-1].tobytes()
