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
from app.core.counts.sketches import split_record
from app.core.errors.detectors import Detection, TrainingErrors
from app.core.errors.stream import Errors, ErrorStream
from schemas.pipeline.detectors import DETECTORS, default_detector
from schemas.pipeline.spec import ErrorDetector
from schemas.wire import ErrorRun, SketchRecord

END_MS = 10**9
UNIT_MS = 1_200_000  # a third of an hour
#: Of each label: time since the one before, how much later than it the error counts, wrong, and hour of the week.
LABELS = st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 1, 5, 30]), st.integers(0, 1), st.integers(0, 167))
LOGS = st.lists(st.lists(LABELS, max_size=12), min_size=1, max_size=4)
#: From when an error counts, whether it was wrong, and the hour.
Counted = tuple[int, int, int]


def error_run(version: str, errors: list[tuple[int, int]]) -> ErrorRun:
    times, wrong = np.array(errors, np.int64).reshape(-1, 2).T
    return ErrorRun(version, times.astype("<i8").tobytes(), wrong.astype(np.uint8).tobytes())


def records_of(partition: int, labels: list[tuple[int, Counted]], cuts: list[int]) -> list[SketchRecord]:
    """Transactions, each of which says that labels have been applied up to its last one."""
    edges = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    records, watermark = [], -(2**62)
    for start, end in itertools.pairwise(edges):
        watermark = labels[end - 1][0] if end > start else watermark
        times, wrong, hours = np.array([error for _, error in labels[start:end]], np.int64).reshape(-1, 3).T
        columns = times.astype("<i8"), wrong.astype(np.uint8), hours.astype(np.uint8)
        run = ErrorRun("1", *(column.tobytes() for column in columns))
        records.append(SketchRecord(partition, 0, watermark, [], [run]))
    return [*records, SketchRecord(partition, 0, END_MS, [])]


def in_time(log: list[tuple[int, int, int, int]]) -> list[tuple[int, Counted]]:
    """Effective times of labels, which ascend, and the errors, which count then or later."""
    times = (UNIT_MS * np.cumsum([time for time, *_ in log])).tolist()
    return [
        (time, (time + UNIT_MS * later, wrong, hour)) for time, (_, later, wrong, hour) in zip(times, log, strict=True)
    ]


@pytest.mark.slow
@settings(max_examples=200)
@given(LOGS, st.data())
def test_any_interleaving_cut_and_restart_gives_the_same_sequence(
    logs: list[list[tuple[int, int, int, int]]], data: st.DataObject
) -> None:
    partitions = [in_time(log) for log in logs]
    expected = sorted(
        (time, partition, place, wrong, hour)
        for partition, log in enumerate(partitions)
        for place, (_, (time, wrong, hour)) in enumerate(log)
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
    windows: list[Counted] = []
    while any(queues):
        number = data.draw(st.sampled_from([n for n, queue in enumerate(queues) if queue]))
        record = queues[number].pop(0)
        stream.add(record)
        said[number] = max(said[number], record.label_watermark_ms)
        if data.draw(st.booleans()):
            windows += zip(*(column.tolist() for column in stream.take_due("1", min(said))), strict=True)
        if data.draw(st.booleans()):
            state = json.loads(json.dumps(stream.snapshot()))
            stream = ErrorStream()
            stream.restore(state)
            assert stream.snapshot() == state
    windows += zip(*(column.tolist() for column in stream.take_due("1", min(said))), strict=True)
    assert windows == [(time, wrong, hour) for time, _, _, wrong, hour in expected]
    assert stream.snapshot() == {}


def test_what_is_at_the_watermark_waits_for_others_of_the_same_time() -> None:
    stream = ErrorStream()
    stream.add(SketchRecord(1, 0, 5, [], [error_run("1", [(5, 1)])]))
    assert len(stream.take_due("1", 5).wrong) == 0
    stream.add(SketchRecord(0, 0, 6, [], [error_run("1", [(5, 0)])]))
    assert stream.take_due("1", 6).wrong.tolist() == [0, 1]


@pytest.mark.parametrize(
    "run",
    [
        ErrorRun("1", b"1234567", b"\0"),
        ErrorRun("1", bytes(8), b"\4"),
        ErrorRun("1", bytes(16), b"\1\0", b"\7"),
        ErrorRun("1", bytes(8), b"\1", b"\xa8"),
    ],
    ids=["cut", "neither", "hours cut", "no hour"],
)
def test_a_run_that_is_not_whole_is_refused(run: ErrorRun) -> None:
    with pytest.raises(ValueError, match=r"fit|each is"):
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
    wanted, baseline = default_detector(name), TrainingErrors(2_000, 200, 10_000)
    wrong = errors(seed)[: 300 if name == "kswin" else None]
    whole, cut = make_detector(wanted, baseline), make_detector(wanted, baseline)
    expected = whole.observe(wrong)
    detections: list[Detection] = []
    for part in np.split(wrong, sorted(cuts)):
        detections += cut.observe(part)
        state = json.loads(json.dumps(cut.snapshot()))
        cut = make_detector(wanted, baseline)
        cut.restore(state)
    assert detections == expected
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
    detections = make_detector(default_detector(name), TrainingErrors(0, 0, 1.0)).observe(wrong, wrong)  # any hours
    assert [each.position for each in detections] == expected
    assert all(
        0 <= each.change <= each.position and each.n_since + each.change - 1 == each.position for each in detections
    )


@given(st.integers(0, 2**32), st.lists(st.integers(0, 1_500), max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_errors_that_are_kept_are_bounded_and_a_restart_does_not_show(seed: int, cuts: list[int]) -> None:
    made = Made(drift.ADWIN, {"delta": 1e-9}, most=100, keep=40)
    wrong, whole, cut = errors(seed), RiverDetector(made), RiverDetector(made)
    expected = whole.observe(wrong)
    detections: list[Detection] = []
    for part in np.split(wrong, sorted(cuts)):
        detections += cut.observe(part)
        state = cut.snapshot()
        assert state["n"] < made.most
        cut = RiverDetector(made)
        cut.restore(state)
    assert (detections, cut.snapshot()) == (expected, whole.snapshot())


def test_a_detection_says_what_the_errors_were_before_and_since() -> None:
    wrong = np.array([0, 0, 0, 0, 1] * 100 + [1, 0] * 200, np.uint8)
    (detection,) = make_detector(ErrorDetector("adwin", {"delta": 0.002}), TrainingErrors(0, 0, 1.0)).observe(wrong)
    assert detection.rose
    assert (detection.change, detection.n_before) == (pytest.approx(500, abs=15), detection.change)
    assert detection.rate_before == pytest.approx(0.2, abs=0.01)
    assert detection.rate_since == pytest.approx(0.5, abs=0.05)
    assert detection.wrong_since == wrong[detection.change : detection.position + 1].sum()


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_errors_are_handed_out_by_version_in_the_order_of_time_and_of_partitions_and_once() -> None:
    stream = ErrorStream()
    stream.add(
        SketchRecord(
            2, 0, 0, [], [error_run("1", [(3, 1), (3, 0), (7, 1)]), error_run("2", [(1, 1)]), error_run("3", [])]
        )
    )
    stream.add(SketchRecord(0, 0, 0, [], [error_run("1", [(3, 0), (4, 1), (8, 1)])]))
    stream.add(SketchRecord(2, 0, 0, [], [error_run("1", [(7, 0), (9, 1)])]))
    assert stream.held.keys() == {"1", "2"}  # nothing is held of no errors
    assert len(stream.take_due("1", None).wrong) == 0

    def take_due(version: str, watermark_ms: int) -> list[tuple[int, int]]:
        errors = stream.take_due(version, watermark_ms)
        return list(zip(errors.times_ms.tolist(), errors.wrong.tolist(), strict=True))

    assert take_due("1", 3) == []
    assert take_due("1", 7) == [(3, 0), (3, 1), (3, 0), (4, 1)]
    assert take_due("1", 7) == []
    state = json.loads(json.dumps(stream.snapshot()))
    assert list(state) == ["1", "2"]
    assert {version: list(of) for version, of in state.items()} == {"1": ["0", "2"], "2": ["2"]}
    again = ErrorStream()
    again.restore(state)
    for each in (stream, again):
        errors = each.take_due("1", 100)
        assert (errors.times_ms.tolist(), errors.wrong.tolist()) == ([7, 7, 8, 9], [1, 0, 1, 1])
        assert (errors.times_ms.dtype, errors.wrong.dtype) == (np.int64, np.uint8)
        assert each.held.keys() == {"2"}
        assert len(each.take_due("9", 100).wrong) == 0
        assert len(each.take_due("1", 100).times_ms) == 0
        late = SketchRecord(1, 0, 0, [], [error_run("2", [(0, 0)])])
        each.add(late)
        assert each.take_due("2", 100).times_ms.tolist() == [0, 1]
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


def test_a_run_is_whole_when_each_error_has_a_time_whatever_their_order() -> None:
    whole = error_run("1", [(2, 0), (5, 1), (2, 0)])
    assert Errors.of(whole).times_ms.tolist() == [2, 5, 2]
    assert len(Errors.of(error_run("1", [])).wrong) == 0
    ErrorStream.check(SketchRecord(0, 0, 0, [], [whole]))
    with pytest.raises(ValueError, match="7 bytes of times and 0 hours do not fit 1 decisions"):
        ErrorStream.check(SketchRecord(0, 0, 0, [], [whole, ErrorRun("1", b"1234567", b"\0")]))
    with pytest.raises(ValueError, match="each is 0 to 3"):
        ErrorStream.check(SketchRecord(0, 0, 0, [], [ErrorRun("1", bytes(16), b"\0\4")]))


def test_a_run_of_former_releases_is_of_the_hours_before_maturity() -> None:
    """Monday at half past midnight, whose labels are mature on Wednesday."""
    monday_ms, day_ms = 4 * 86_400_000 + 1_800_000, 86_400_000
    stream = ErrorStream(maturity_ms=2 * day_ms)
    stream.add(SketchRecord(0, 0, 0, [], [error_run("1", [(monday_ms + 2 * day_ms, 1), (monday_ms + 3 * day_ms, 0)])]))
    assert stream.take_due("1", 2**62).hours.tolist() == [0, 24]


def test_what_is_for_later_costs_a_hand_out_nothing_and_ten_bytes_each() -> None:
    stream, n = ErrorStream(), 200_000
    times = np.arange(n) * 20 + 10 * 3_600_000
    run = ErrorRun("1", times.astype("<i8").tobytes(), bytes(n), bytes(n))
    stream.add(SketchRecord(0, 0, 0, [], [run]))
    assert len(stream.take_due("1", 10 * 3_600_000).wrong) == 0
    (by_hour,) = stream.held["1"].values()
    assert sorted(by_hour) == [10, 11]
    before = {number: [id(column) for column in held] for number, held in by_hour.items()}
    assert len(stream.take_due("1", 10 * 3_600_000 + 40).wrong) == 2
    # The next hour has not been touched.
    assert [id(column) for column in by_hour[11]] == before[11]
    assert sum(len(column) for held in by_hour.values() for column in held) == 10 * (n - 2)
