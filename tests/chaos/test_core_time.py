"""P15 in the pure flow: clocks that are wrong change no result, and no time moves the watermark beyond its bound."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from chaos_report import Row, record
from core_oracle import Given, read, recompute
from core_setting import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, Setting, batch, build, event, label
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.records.event_time import CLOCK_SKEW_MS
from app.core.scoring import ActiveModel, ChampionTimeline
from app.pipeline import PartitionPipeline
from schemas.wire import Score

FULL = os.environ.get("STREAMGAUGE_CHAOS") == "full"
EXAMPLES = 2_000 if FULL else 60
END_MS = START_MS + 12 * HOUR_MS


class Fault(NamedTuple):
    """What is wrong with a time: ``shift`` makes it of the true time; ``stamp_ms`` shifts the record's time stamp."""

    name: str
    reason: str
    scale: tuple[int, int] = (1, 1)
    shift_ms: int = 0
    stamp_ms: int = 0

    def apply(self, time_ms: int) -> int:
        return time_ms * self.scale[0] // self.scale[1] + self.shift_ms


FINE = Fault("none", "")
FAULTS = [
    Fault("a minute late", "", shift_ms=-MINUTE_MS),
    Fault("an hour late", "", shift_ms=-HOUR_MS),
    Fault("a day late", "", shift_ms=-DAY_MS),
    Fault("half a year late", "", shift_ms=-180 * DAY_MS),
    Fault("an hour ahead", "", shift_ms=HOUR_MS),
    Fault("just within max_ahead", "", shift_ms=DAY_MS),
    Fault("the producer's clock an hour ahead", "", shift_ms=HOUR_MS, stamp_ms=HOUR_MS),
    Fault("the producer's clock an hour behind", "", shift_ms=-HOUR_MS, stamp_ms=-HOUR_MS),
    Fault("a day ahead and a millisecond", "time_ahead", shift_ms=DAY_MS + 1),
    Fault("a year ahead", "time_ahead", shift_ms=365 * DAY_MS),
    Fault("a year ahead, as is the time stamp", "clock_ahead", shift_ms=365 * DAY_MS, stamp_ms=365 * DAY_MS),
    Fault("three days ahead, as is the time stamp", "clock_ahead", shift_ms=3 * DAY_MS, stamp_ms=3 * DAY_MS),
    Fault("seconds", "time_too_early", scale=(1, 1000)),
    Fault("microseconds", "time_too_late", scale=(1000, 1)),
    Fault("nanoseconds", "time_too_late", scale=(1_000_000, 1)),
    Fault("negative", "time_too_early", scale=(-1, 1)),
    Fault("1970", "time_too_early", scale=(0, 1)),
    Fault("2262", "time_too_late", scale=(0, 1), shift_ms=9_223_372_036_854),
    Fault("the end of 64 bits", "time_too_late", scale=(0, 1), shift_ms=2**63 - 1),
]
ANY = st.sampled_from([*[FINE] * len(FAULTS), *FAULTS])


class Written(NamedTuple):
    value: bytes
    stamp_ms: int
    fault: Fault


@st.composite
def logs(draw: Any) -> tuple[list[Written], list[Written]]:
    """Twelve hours of a partition, and the faults in it."""
    minutes = sorted(draw(st.lists(st.integers(0, 12 * 60 - 1), min_size=1, max_size=25)))
    events, labels = [], []
    for number, minute in enumerate(minutes):
        true_ms, fault = START_MS + minute * MINUTE_MS, draw(ANY)
        events.append(Written(event(number, fault.apply(true_ms)), true_ms + fault.stamp_ms, fault))
        if draw(st.booleans()):
            label_ms, fault = min(true_ms + draw(st.integers(1, 90)) * MINUTE_MS, END_MS), draw(ANY)
            data = label(f"e{number}", fault.apply(label_ms), number % 2)
            labels.append((label_ms, Written(data, label_ms + fault.stamp_ms, fault)))
    return events, [written for _, written in sorted(labels, key=lambda found: found[0])]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return build(tmp_path_factory.mktemp("time"))


@pytest.fixture(scope="module")
def models(setting: Setting) -> tuple[ActiveModel, ...]:
    return setting.version(1, None), setting.version(2, START_MS + 6 * HOUR_MS)


seen = {"examples": 0, "records": 0, "faults": 0}


@settings(max_examples=EXAMPLES)
@given(logs=logs(), skews=st.lists(st.integers(-HOUR_MS, HOUR_MS), min_size=1, max_size=6), cut=st.integers(1, 30))
def check(
    setting: Setting,
    models: tuple[ActiveModel, ...],
    *,
    logs: tuple[list[Written], list[Written]],
    skews: list[int],
    cut: int,
) -> None:
    """The worker's clock jumps by up to an hour either way at each batch."""
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    scores, letters, joined = [], [], []
    clocks = [END_MS + skew for skew in skews]
    for topic, log in (("cards.labels", logs[1]), ("cards.events", logs[0])):
        for start in range(0, len(log), cut):
            part = log[start : start + cut]
            clock_ms = clocks[start // cut % len(clocks)]
            records = batch(topic, [w.value for w in part], [w.stamp_ms for w in part], first=start)
            if topic == "cards.events":
                flow.receive_events(records, clock_ms)
            else:
                flow.receive_labels(records, clock_ms, clock_ms)
    flow.merge.let_go(flow.merge.events_received)
    steps = []
    while (step := flow.step(ChampionTimeline(models), 5000, END_MS)) is not None:
        steps.append(step)
    if (last := flow.finish(END_MS)) is not None:
        steps.append(last)
    for step in steps:
        scores += [msgspec.json.decode(value or b"", type=Score) for _, value, _ in step.outgoing_scores]
        letters += step.dead_letters
        joined += zip(step.labels.event_id, step.labels.label, step.labels.label_time_ms, strict=True)

    good = [[Given(at, read(w.value)) for at, w in enumerate(log) if not w.fault.reason] for log in logs]
    expected = recompute(setting.pipeline, good[0], good[1], {given.offset: models for given in good[0]})
    names = setting.pipeline.feature_names
    found = {s.source.offset: [math.nan if s.features[n] is None else s.features[n] for n in names] for s in scores}
    assert {at: np.array(row).tobytes() for at, row in found.items()} == {
        at: np.array(row).tobytes() for at, row in expected.features.items()
    }
    assert {s.source.offset: (s.version, s.score) for s in scores} == expected.scores
    assert joined == expected.joined
    for topic, log in (("cards.events", logs[0]), ("cards.labels", logs[1])):
        reasons = {d.source.offset: d.reason for d in letters if d.source.topic == topic}
        assert reasons == {at: w.fault.reason for at, w in enumerate(log) if w.fault.reason}
    for letter in letters:
        bound = {"time_ahead": str(letter.record_time_ms + DAY_MS), "clock_ahead": "the latest that is believed is"}
        assert bound.get(letter.reason, "events.") in letter.detail
    watermark_ms = flow.merge.event_watermark_ms
    assert watermark_ms <= max(clocks) + DAY_MS + CLOCK_SKEW_MS
    assert watermark_ms <= max(w.stamp_ms for w in logs[0]) + DAY_MS
    seen["examples"] += 1
    seen["records"] += len(logs[0]) + len(logs[1])
    seen["faults"] += len(letters)


def test_wrong_clocks_change_no_result_and_move_no_watermark(setting: Setting, models: tuple[ActiveModel, ...]) -> None:
    passed = False
    seen.update(dict.fromkeys(seen, 0))
    try:
        check(setting, models)
        passed = True
    finally:
        record(
            Row(
                "P15",
                "clocks of producers and worker wrong by up to an hour; times by a day, a year, a unit",
                load=f"{seen['examples']} examples",
                events=seen["records"],
                faults=seen["faults"],
                lost=int(not passed),
                wrong_counts=int(not passed),
            )
        )
