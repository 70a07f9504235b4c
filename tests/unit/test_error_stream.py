"""The errors of all partitions make one stream, the same whatever came when; a detector's state survives a restart."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from app.adapters.river_detectors import Made, RiverDetector, make_detector
from app.core.detectors import Baseline, Detection
from app.core.error_stream import Errors, ErrorStream
from app.core.sketches import split_record
from schemas.pipeline import ErrorDetector
from schemas.pipeline_detectors import DETECTORS, default_detector
from schemas.wire import ErrorRun, SketchRecord

END_MS = 10**9
LOGS = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), max_size=12),  # time since the one before, wrong
    min_size=1,
    max_size=4,
)


def error_run(version: str, errors: list[tuple[int, int]]) -> ErrorRun:
    times, wrong = np.array(errors, np.int64).reshape(-1, 2).T
    return ErrorRun(version, times.astype("<i8").tobytes(), wrong.astype(np.uint8).tobytes())


def records_of(partition: int, errors: list[tuple[int, int]], cuts: list[int]) -> list[SketchRecord]:
    """Transactions, each of which says that labels have been applied up to its last one."""
    edges = [0, *sorted(min(cut, len(errors)) for cut in cuts), len(errors)]
    records, watermark = [], -(2**62)
    for start, end in itertools.pairwise(edges):
        watermark = errors[end - 1][0] if end > start else watermark
        records.append(SketchRecord(partition, 0, watermark, [], [error_run("1", errors[start:end])]))
    return [*records, SketchRecord(partition, 0, END_MS, [])]


def in_time(log: list[tuple[int, int]]) -> list[tuple[int, int]]:
    times = np.cumsum([time for time, _ in log]).tolist()
    return [(time, wrong) for time, (_, wrong) in zip(times, log, strict=True)]


@pytest.mark.slow
@settings(max_examples=200)
@given(LOGS, st.data())
def test_any_interleaving_cut_and_restart_gives_the_same_sequence(
    logs: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    partitions = [in_time(log) for log in logs]
    expected = sorted(
        (time, partition, place, wrong)
        for partition, log in enumerate(partitions)
        for place, (time, wrong) in enumerate(log)
    )
    queues = [
        [
            part
            for record in records_of(number, log, data.draw(st.lists(st.integers(0, 12), max_size=4)))
            for part in split_record(record, most_bytes=data.draw(st.sampled_from([9, 450, 10**6])))
        ]
        for number, log in enumerate(partitions)
    ]
    stream, said = ErrorStream(), [-(2**62)] * len(queues)
    found: list[tuple[int, int]] = []
    while any(queues):
        number = data.draw(st.sampled_from([n for n, queue in enumerate(queues) if queue]))
        record = queues[number].pop(0)
        stream.add(record)
        said[number] = max(said[number], record.label_watermark_ms)
        if data.draw(st.booleans()):
            found += zip(*(column.tolist() for column in stream.release("1", min(said))), strict=True)
        if data.draw(st.booleans()):
            state = json.loads(json.dumps(stream.snapshot()))
            stream = ErrorStream()
            stream.restore(state)
            assert stream.snapshot() == state
    found += zip(*(column.tolist() for column in stream.release("1", min(said))), strict=True)
    assert found == [(time, wrong) for time, _, _, wrong in expected]
    assert stream.snapshot() == {}


def test_what_is_at_the_watermark_waits_for_others_of_the_same_time() -> None:
    stream = ErrorStream()
    stream.add(SketchRecord(1, 0, 5, [], [error_run("1", [(5, 1)])]))
    assert len(stream.release("1", 5).wrong) == 0
    stream.add(SketchRecord(0, 0, 6, [], [error_run("1", [(5, 0)])]))
    assert stream.release("1", 6).wrong.tolist() == [0, 1]


@pytest.mark.parametrize(
    "run",
    [ErrorRun("1", b"1234567", b"\0"), ErrorRun("1", bytes(8), b"\2"), error_run("1", [(2, 0), (1, 0)])],
    ids=["cut", "neither", "back"],
)
def test_a_run_that_is_not_whole_is_refused(run: ErrorRun) -> None:
    with pytest.raises(ValueError, match=r"fit|ascend"):
        Errors.of(run)


# -- detectors -------------------------------------------------------------------------------------------------------


def errors(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random(1_500) < np.repeat([0.1, 0.5, 0.2], 500)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 1_500), max_size=4))
def test_a_detector_goes_on_from_its_snapshot_whatever_the_cuts(name: str, seed: int, cuts: list[int]) -> None:
    wanted, baseline = default_detector(name), Baseline(2_000, 200, 10_000)
    wrong = errors(seed)[: 300 if name == "kswin" else None]
    whole, cut = make_detector(wanted, baseline), make_detector(wanted, baseline)
    expected = whole.observe(wrong)
    found: list[Detection] = []
    for part in np.split(wrong, sorted(cuts)):
        found += cut.observe(part)
        state = json.loads(json.dumps(cut.snapshot()))
        cut = make_detector(wanted, baseline)
        cut.restore(state)
    assert found == expected
    assert cut.snapshot() == whole.snapshot()


RIVER = {"adwin": drift.ADWIN, "hddm_w": drift.binary.HDDMW, "page_hinkley": drift.PageHinkley}


@pytest.mark.parametrize("name", RIVER)
@given(st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_detections_are_those_of_rivers_own(name: str, seed: int) -> None:
    wrong, own = errors(seed), RIVER[name]()
    expected = []
    for number, bit in enumerate(wrong.tolist()):
        own.update(bit)
        if own.drift_detected:
            expected.append(number)
    found = make_detector(default_detector(name), Baseline(0, 0, 1.0)).observe(wrong)
    assert [each.position for each in found] == expected
    assert all(0 <= each.change <= each.position and each.n_since + each.change - 1 == each.position for each in found)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 1_500), max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_errors_that_are_kept_are_bounded_and_a_restart_does_not_show(seed: int, cuts: list[int]) -> None:
    made = Made(drift.ADWIN, {"delta": 1e-9}, most=100, keep=40)
    wrong, whole, cut = errors(seed), RiverDetector(made), RiverDetector(made)
    expected = whole.observe(wrong)
    found: list[Detection] = []
    for part in np.split(wrong, sorted(cuts)):
        found += cut.observe(part)
        state = cut.snapshot()
        assert state["n"] < made.most
        cut = RiverDetector(made)
        cut.restore(state)
    assert (found, cut.snapshot()) == (expected, whole.snapshot())


def test_a_detection_says_what_the_errors_were_before_and_since() -> None:
    wrong = np.array([0, 0, 0, 0, 1] * 100 + [1, 0] * 200, np.uint8)
    (found,) = make_detector(ErrorDetector("adwin", {"delta": 0.002}), Baseline(0, 0, 1.0)).observe(wrong)
    assert found.rose
    assert (found.change, found.n_before) == (pytest.approx(500, abs=15), found.change)
    assert found.rate_before == pytest.approx(0.2, abs=0.01)
    assert found.rate_since == pytest.approx(0.5, abs=0.05)
    assert found.wrong_since == wrong[found.change : found.position + 1].sum()


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_errors_are_released_by_version_in_the_order_of_time_and_of_partitions_and_once() -> None:
    stream = ErrorStream()
    stream.add(
        SketchRecord(
            2, 0, 0, [], [error_run("1", [(3, 1), (3, 0), (7, 1)]), error_run("2", [(1, 1)]), error_run("3", [])]
        )
    )
    stream.add(SketchRecord(0, 0, 0, [], [error_run("1", [(3, 0), (4, 1), (8, 1)])]))
    stream.add(SketchRecord(2, 0, 0, [], [error_run("1", [(7, 0), (9, 1)])]))
    assert stream.held.keys() == {"1", "2"}  # nothing is held of no errors
    assert len(stream.release("1", None).wrong) == 0

    def release(version: str, watermark_ms: int) -> list[tuple[int, int]]:
        found = stream.release(version, watermark_ms)
        return list(zip(found.times_ms.tolist(), found.wrong.tolist(), strict=True))

    assert release("1", 3) == []
    assert release("1", 7) == [(3, 0), (3, 1), (3, 0), (4, 1)]
    assert release("1", 7) == []
    state = json.loads(json.dumps(stream.snapshot()))
    assert list(state) == ["1", "2"]
    assert {version: list(of) for version, of in state.items()} == {"1": ["0", "2"], "2": ["2"]}
    again = ErrorStream()
    again.restore(state)
    for each in (stream, again):
        found = each.release("1", 100)
        assert (found.times_ms.tolist(), found.wrong.tolist()) == ([7, 7, 8, 9], [1, 0, 1, 1])
        assert (found.times_ms.dtype, found.wrong.dtype) == (np.int64, np.uint8)
        assert each.held.keys() == {"2"}
        assert len(each.release("9", 100).wrong) == 0
        assert len(each.release("1", 100).times_ms) == 0
        late = SketchRecord(1, 0, 0, [], [error_run("2", [(0, 0)])])
        each.add(late)
        assert each.release("2", 100).times_ms.tolist() == [0, 1]
        assert each.snapshot() == {}


def test_equal_streams_give_equal_snapshots_whatever_came_first_and_however_it_was_cut() -> None:
    one, other = ErrorStream(), ErrorStream()
    records = [
        SketchRecord(number, 0, 0, [], [error_run(v, [(1, 1), (2, 0)])]) for number in (0, 1) for v in ("1", "2")
    ]
    for record in records:
        one.add(record)
    for record in records[::-1]:
        for part in split_record(record, most_bytes=9):
            other.add(part)
    assert json.dumps(one.snapshot()) == json.dumps(other.snapshot())


def test_a_run_is_whole_when_each_error_has_a_time_and_times_do_not_go_back() -> None:
    whole = error_run("1", [(2, 0), (2, 1), (5, 0)])
    assert Errors.of(whole).times_ms.tolist() == [2, 2, 5]
    assert len(Errors.of(error_run("1", [])).wrong) == 0
    ErrorStream.check(SketchRecord(0, 0, 0, [], [whole]))
    with pytest.raises(ValueError, match="7 bytes of times do not fit 1 decisions"):
        ErrorStream.check(SketchRecord(0, 0, 0, [], [whole, ErrorRun("1", b"1234567", b"\0")]))
    with pytest.raises(ValueError, match="ascend"):
        ErrorStream.check(SketchRecord(0, 0, 0, [], [ErrorRun("1", bytes(16), b"\0\2")]))
