"""F11 and F15 in the pure flow: duplicates, equal times, late events and the order of outputs, by hand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
from chaos_report import Row, record, seed_of
from core_setting import MINUTE_MS, START_MS, Setting, batch, build, event, label

from app.core.scoring import ChampionTimeline
from app.pipeline import PartitionPipeline
from schemas.wire import Score

NOW_MS = START_MS + 1000 * MINUTE_MS


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return build(tmp_path_factory.mktemp("order"))


def run(
    setting: Setting, events: list[bytes | None], labels: list[bytes | None], cut: int = 99
) -> tuple[list[Score], list[tuple[str, float]], PartitionPipeline]:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    models = ChampionTimeline([setting.version(1, None)])
    for topic, log in (("cards.labels", labels), ("cards.events", events)):
        for start in range(0, len(log), cut):
            records = batch(topic, log[start : start + cut], [NOW_MS] * len(log[start : start + cut]), first=start)
            if topic == "cards.labels":
                flow.receive_labels(records, NOW_MS)
            else:
                flow.receive_events(records)
    flow.merge.let_go(flow.merge.events_received)
    steps = []
    while (step := flow.step(models, cut, NOW_MS)) is not None:
        steps.append(step)
    if (last := flow.finish(NOW_MS)) is not None:
        steps.append(last)
    scores = [msgspec.json.decode(v or b"", type=Score) for step in steps for _, v, _ in step.outgoing_scores]
    return scores, [(i, v) for s in steps for i, v in zip(s.labels.event_id, s.labels.label, strict=True)], flow


def at(minute: int, number: int = 0, **changes: Any) -> bytes:
    return event(number, START_MS + minute * MINUTE_MS, card="c", **changes)


def counts(scores: list[Score]) -> list[float | None]:
    return [score.features["count_1h"] for score in scores]


@pytest.mark.parametrize("cut", [1, 99])
def test_an_exact_duplicate_is_an_event_of_its_own_whose_label_counts_once_for_the_newest(
    setting: Setting, cut: int
) -> None:
    """A producer's retry writes the same bytes at another offset: nothing in the log tells it from a new event."""
    again = at(0, amount=4.0)
    scores, joined, flow = run(setting, [again, again, at(10, 1)], [label("e0", START_MS + 5 * MINUTE_MS)], cut)
    assert [(score.event_id, score.source.offset) for score in scores] == [("e0", 0), ("e0", 1), ("e1", 2)]
    assert counts(scores) == [0, 1, 2]
    assert [score.features["amount_2h"] for score in scores] == [0, 4, 8]
    assert joined == [("e0", 1.0)]
    assert scores[2].features["fraud_2h"] == 1
    record_of = flow.drain_sketch()
    assert record_of is not None
    assert sum(delta.n for delta in record_of.deltas) == 3


@pytest.mark.parametrize("cut", [1, 99])
def test_events_of_the_same_time_see_those_before_them_in_the_log(setting: Setting, cut: int) -> None:
    scores, _, _ = run(setting, [at(0, number) for number in range(5)], [], cut)
    assert counts(scores) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 99])
def test_a_late_event_is_scored_with_its_own_time_counts_there_and_changes_no_later_watermark(
    setting: Setting, cut: int
) -> None:
    """Tiles of 5 minutes, 12 of them: the window at 1:30 begins at 0:35. A tile of two hours before is forgotten."""
    events: list[bytes | None] = [at(0), at(40), at(90), at(50), at(91), at(0), at(92)]
    scores, _, flow = run(setting, events, [], cut)
    # 0:50 comes after 1:30 and sees 0:00 and 0:40 of its own hour; 1:31 sees 0:40, 0:50 and 1:30.
    assert counts(scores)[:5] == [0, 1, 1, 1, 3]
    # 0:00 again, an hour and a half late: its tile is older than the twelve that are kept, and counts nowhere.
    assert counts(scores)[6] == 4
    assert flow.merge.event_watermark_ms == START_MS + 92 * MINUTE_MS


def test_the_outputs_of_a_key_are_in_the_order_of_its_inputs(setting: Setting) -> None:
    seed = seed_of("core order")
    chance = np.random.default_rng(seed)
    times = START_MS + chance.integers(0, 600, 3000) * MINUTE_MS
    events: list[bytes | None] = [event(number, int(time)) for number, time in enumerate(times)]
    reordered = 0
    for cut in (7, 1000):
        scores, _, _ = run(setting, events, [], cut)
        by_key: dict[str, list[int]] = defaultdict(list)
        for score in scores:
            by_key[score.entity].append(score.source.offset)
        reordered += sum(offsets != sorted(offsets) for offsets in by_key.values())
        assert len(scores) == len(events)
    row = record(Row("F15", "order per key, times at random", seed=seed, events=2 * len(events), passed=reordered == 0))
    assert row.passed
