"""P8 in the pure flow: every bad record a dead letter, every good neighbour the same score, at a bounded cost."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from chaos_report import Row, record, seed_of
from core_setting import HOUR_MS, START_MS, Setting, batch, build, event
from poison import STAMP_MS, Poison, generated, named, strange

from app.core.scoring import ChampionTimeline
from app.pipeline import PartitionPipeline
from schemas.wire import DeadLetter, Score

N_GENERATED, GOOD_PER_BAD, CUT = 600, 20, 997


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return build(tmp_path_factory.mktemp("poison"))


_TIMELINES: dict[int, ChampionTimeline] = {}


def timeline(setting: Setting) -> ChampionTimeline:
    if id(setting) not in _TIMELINES:
        versions = [setting.version(1, None), setting.version(2, START_MS + HOUR_MS)]
        _TIMELINES[id(setting)] = ChampionTimeline(versions)
    return _TIMELINES[id(setting)]


def good_event(number: int) -> Poison:
    return Poison("good", event(number, START_MS + number * 1000 - number % 7 * 60_000), "")


def run(setting: Setting, log: list[Poison], cut: int = CUT) -> tuple[list[Score], list[DeadLetter]]:
    models = timeline(setting)
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    scores: list[Score] = []
    letters: list[DeadLetter] = []
    for start in range(0, len(log), cut):
        part = log[start : start + cut]
        values, stamps, keys = [p.value for p in part], [p.stamp_ms for p in part], [p.key for p in part]
        flow.receive_events(batch("cards.events", values, stamps, first=start, keys=keys), STAMP_MS)
        flow.merge.let_go(flow.merge.events_received)
        while (step := flow.step(models, 5000, STAMP_MS)) is not None:
            scores += [msgspec.json.decode(value or b"", type=Score) for _, value, _ in step.outgoing_scores]
            letters += step.dead_letters
    flow.drain_state()
    flow.drain_sketch()
    return scores, letters


def content(score: Score) -> tuple[Any, ...]:
    """All of a score but where it was read."""
    return tuple(value for name, value in msgspec.structs.asdict(score).items() if name != "source")


def test_every_bad_record_is_a_dead_letter_and_every_good_one_the_score_that_it_is_without_it(setting: Setting) -> None:
    seed = seed_of("core poison")
    bad = [*named(), *generated(N_GENERATED, seed)]
    assert len(named()) >= 40
    assert len({poison.value for poison in bad}) >= 500
    log: list[Poison] = []
    for number, poison in enumerate(bad):
        log += [good_event(number * GOOD_PER_BAD + more) for more in range(GOOD_PER_BAD)]
        log.insert(len(log) - number % GOOD_PER_BAD, poison)
    scores, letters = run(setting, log)
    clean, none = run(setting, [poison for poison in log if not poison.reason])

    assert none == []
    found = {letter.source.offset: letter for letter in letters}
    expected = {offset: poison for offset, poison in enumerate(log) if poison.reason}
    wrong = {
        log[at].name: (letter.reason, letter.detail) for at, letter in found.items() if letter.reason != log[at].reason
    }
    lost = len(expected.keys() - found.keys()) + len(clean) - len(scores)
    different = sum(map(content_differs, scores, clean))
    row = record(
        Row(
            "P8",
            "poison 1:20, pure core",
            seed=seed,
            load=f"{len(named())} named, {N_GENERATED} generated",
            events=len(log),
            faults=len(bad),
            lost=lost,
            doubled=len(letters) - len(found),
            wrong_counts=different + len(wrong),
        )
    )
    assert row.passed, (wrong, lost, different)
    assert found.keys() == expected.keys()
    assert [score.source.offset for score in scores] == [at for at, poison in enumerate(log) if not poison.reason]
    for offset, letter in found.items():
        assert 0 < len(letter.detail) <= 500
        assert (letter.key, letter.record_time_ms) == (log[offset].key, log[offset].stamp_ms)
        if letter.cut_bytes:
            assert letter.cut_bytes == len(log[offset].value or b"") + len(log[offset].key or b"")
            assert (log[offset].value or b"").startswith(letter.value or b"?")
        else:
            assert letter.value == log[offset].value
    assert Counter(letter.stage for letter in letters).keys() == {"decode", "validate"}


def content_differs(one: Score, other: Score) -> bool:
    return content(one) != content(other)


def test_what_only_looks_bad_is_scored_with_a_number(setting: Setting) -> None:
    log = strange()
    scores, letters = run(setting, log)
    assert letters == []
    assert [score.source.offset for score in scores] == list(range(len(log)))
    for score in scores:
        assert math.isfinite(score.score)
        assert 0 <= score.score <= 1


@pytest.mark.parametrize("what", [poison.name for poison in named()])
def test_a_bad_record_alone_and_at_either_end_of_a_batch_is_a_dead_letter(setting: Setting, what: str) -> None:
    poison = next(poison for poison in named() if poison.name == what)
    for log in ([poison], [poison, good_event(0)], [good_event(0), poison], [poison, good_event(0), poison]):
        scores, letters = run(setting, log)
        assert [letter.source.offset for letter in letters] == [at for at, p in enumerate(log) if p.reason]
        assert {letter.reason for letter in letters} == {poison.reason}
        assert len(scores) == sum(not p.reason for p in log)


def test_the_cost_of_bad_records_grows_as_their_number(setting: Setting) -> None:
    """Counted in calls of functions, not in time: a batch of twice as many bad records takes about twice as many."""

    def calls(n: int) -> int:
        bad = iter(generated(n, 7))
        log = [next(bad) if number % 2 else good_event(number) for number in range(2 * n)]
        counted = 0

        def profile(_frame: Any, what: str, _of: Any) -> None:
            nonlocal counted
            counted += what in {"call", "c_call"}

        sys.setprofile(profile)
        try:
            run(setting, log, cut=2 * n)
        finally:
            sys.setprofile(None)
        return counted

    fixed = calls(1)
    small, large = calls(200) - fixed, calls(800) - fixed
    assert large < 4.4 * small


def test_a_record_is_decoded_at_most_twice(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    decoder = flow._inputs._decode_events.__self__  # type: ignore[attr-defined]  # a bound method
    decoded: Counter[bytes] = Counter()
    decode = decoder._decode

    def count(value: bytes) -> Any:
        decoded[value] += 1
        return decode(value)

    monkeypatch.setattr(decoder, "_decode", count)
    values = [event(number, START_MS) if number % 3 else json.dumps(number).encode() for number in range(300)]
    flow.receive_events(batch("cards.events", list(values), [STAMP_MS] * len(values)))
    assert max(decoded.values()) <= 2
    assert np.sum(list(decoded.values())) <= 2 * len(values)
