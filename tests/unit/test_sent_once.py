"""Of two records that were sent as one event, the first counts, whatever dies in between."""

from __future__ import annotations

import pytest
from core_setting import DAY_MS, START_MS, Setting, batch, build, event
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import RecordBatch
from app.core.intake import sent_once
from app.core.intake.sent_once import DUPLICATE, ONCE_MS, PREFIX, SentEvent, SentOnce
from app.core.scoring import ChampionTimeline
from app.pipeline import PartitionPipeline
from schemas.topics import ONCE_HEADER

NOW_MS = START_MS + 10 * DAY_MS
ONCE = ((ONCE_HEADER, b""),)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return build(tmp_path_factory.mktemp("once"))


#: Number of the id, how much later than the one before it was sent (ms), and whether it is to be scored once.
SENT = st.tuples(st.integers(0, 3), st.sampled_from([0, 1, ONCE_MS // 2, ONCE_MS, ONCE_MS + 1]), st.booleans())


def read(records: list[tuple[int, int, bool]]) -> RecordBatch:
    """The log of these events."""
    values: list[bytes | None] = [event(number, START_MS + place) for place, (number, _, _) in enumerate(records)]
    stamps, stamp_ms = [], NOW_MS
    for _, later_ms, _ in records:
        stamp_ms += later_ms
        stamps.append(stamp_ms)
    headers = [ONCE if is_once else () for *_, is_once in records]
    return batch("cards.events", values, stamps, headers=headers)


def expected(records: list[tuple[int, int, bool]]) -> list[int]:
    """Offsets of the records that are refused, one by one."""
    first_ms: dict[int, int] = {}
    refused, at_ms = [], NOW_MS
    for offset, (number, later_ms, is_once) in enumerate(records):
        at_ms += later_ms
        if not is_once:
            continue
        if number in first_ms and at_ms - first_ms[number] <= ONCE_MS:
            refused.append(offset)
        else:
            first_ms[number] = at_ms
    return refused


@given(records=st.lists(SENT, min_size=1, max_size=25), cuts=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4))))
def test_the_second_record_of_an_id_is_refused_through_any_cuts_and_deaths(
    setting: Setting, records: list[tuple[int, int, bool]], cuts: list[tuple[int, int]]
) -> None:
    """``cuts``: how many records are read, and how many steps of one event are committed before the worker dies."""
    log, models = read(records), ChampionTimeline([setting.version(1, None)])
    changelog: dict[bytes, bytes] = {}
    scored: list[int] = []
    refused: list[int] = []
    position = 0
    for size, steps in [*cuts, (len(records), 99)]:
        flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
        flow.restore(list(changelog.items()))
        rest = log.between(position, len(records))
        if not len(rest):
            break
        first = rest.cut(0, min(size, len(rest)))
        flow.receive_events(first, NOW_MS + 10**8)
        if len(rest) > len(first):  # read ahead of what is committed
            flow.receive_events(rest.cut(len(first), len(rest)), NOW_MS + 10**8)
        flow.merge.let_go(flow.merge.events_received)
        outputs = []
        for _ in range(steps):
            step = flow.step(models, 1, NOW_MS)
            if step is None:
                break
            outputs.append(step)
        if not outputs:
            continue
        changelog |= {key: value for key, value in flow.drain_state() if value is not None}
        for step in outputs:
            scored += step.events.offsets.tolist()
            refused += [letter.source.offset for letter in step.dead_letters if letter.reason == DUPLICATE]
        position = flow.position().events or 0
    assert refused == expected(records)
    assert scored == [offset for offset in range(len(records)) if offset not in refused]


def test_what_an_event_scored_is_known_after_a_restart(setting: Setting) -> None:
    flow, models = PartitionPipeline(setting.pipeline, setting.plan, 0), ChampionTimeline([setting.version(1, None)])
    flow.receive_events(read([(1, 0, True), (2, 0, False)]))
    flow.merge.let_go(2)
    sent = flow.sent.get("e1")
    assert sent is not None
    assert sent.version == ""
    step = flow.step(models, 9, NOW_MS)
    assert step is not None
    again = PartitionPipeline(setting.pipeline, setting.plan, 0)
    again.restore(flow.drain_state())
    restored = again.sent.get("e1")
    assert restored is not None
    assert (restored.offset, restored.version, restored.score) == (0, "1.0.0", float(step.scores[0]))
    assert restored.decision == (step.scores[0] >= 0.5)
    assert again.sent.get("e2") is None


def test_ids_are_forgotten_when_they_are_old_or_too_many_and_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_once, "MOST_REMEMBERED", 3)
    known = SentOnce(with_changelog=True)
    for offset in range(5):
        known.see(f"e{offset}", SentEvent(offset, offset, 0, 0))
    known.expire(1)
    assert len(known) == 4  # what comes from offset 1 on may be read again
    known.expire(5)
    assert [known.get(f"e{offset}") is not None for offset in range(5)] == [False, False, True, True, True]
    assert {key: value is None for key, value in known.drain_changes()} == {
        PREFIX + offset.to_bytes(8, "big") + f"e{offset}".encode(): offset < 2 for offset in range(5)
    }
