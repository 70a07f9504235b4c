"""A sketch record is counted whole or not at all, and what is counted can be reported."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as change

from app.core.counts.calendar import Window
from app.core.counts.delay_law import N_CELLS
from app.core.counts.sketch_rules import MOST_UNKNOWN, SketchRules, read_sketch
from app.core.counts.sketches import ALL, pack
from app.core.monitoring.core import MonitorCore
from app.core.records.rules import RecordRules
from models.reference.counting import count, count_outcomes
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.soundness import MOST_EVENTS
from models.reference.training_events import TrainingEvents, numeric
from models.training import TrainedModel
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import DelayCounts, ErrorRun, LabelCounts, SketchDelta, SketchRecord, encode_packed

DAY_MS = 86_400_000
AT_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
FAR_MS = AT_MS + 70 * DAY_MS


@pytest.fixture(scope="module")
def reference(trained: TrainedModel) -> Reference:
    return trained.manifest.read_reference()


@pytest.fixture
def monitor(small_pipeline: Pipeline, reference: Reference) -> MonitorCore:
    drift = replace(small_pipeline.drift, segments=("colour",))
    core = MonitorCore(replace(small_pipeline, drift=drift))
    core.register_version("1.0.0", reference, {}, Window(0, 1))
    core.collect(0)
    return core


def delta(reference: Reference, start_ms: int = AT_MS, n: int = 300, segment: str = ALL) -> SketchDelta:
    generator = np.random.default_rng(n)
    matrix = np.column_stack([generator.normal(50, 20, n), generator.integers(0, 4, n), generator.integers(1, 9, n)])
    scores = generator.random(n)
    counts = count(reference, matrix, scores) + count_outcomes(reference, scores, (generator.random(n) < scores) * 1.0)
    return pack("shop-returns", "1.0.0", segment, start_ms, counts)


def record(*deltas: SketchDelta, come_to_ms: int = AT_MS, errors: tuple[ErrorRun, ...] = ()) -> SketchRecord:
    return SketchRecord(0, come_to_ms, come_to_ms, list(deltas), list(errors))


def run(times_ms: list[int], wrong: bytes, version: str = "1.0.0", hours: bytes = b"") -> ErrorRun:
    return ErrorRun(version, np.array(times_ms, "<i8").tobytes(), wrong, hours)


def i8(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def labels(start_ms: int = AT_MS, strangers: bytes = b"") -> SketchRecord:
    return SketchRecord(0, AT_MS, AT_MS, [], [], 0, [LabelCounts(start_ms, 9, 1, 1, strangers)])


def delays(
    start_ms: int = AT_MS, cells: tuple[int, ...] = (3, 9), counts: bytes | None = None, newest_ms: int = AT_MS
) -> SketchRecord:
    held = np.array(cells, "<u4").tobytes()
    told = DelayCounts(start_ms, 1, held, i8(*[2] * len(cells)) if counts is None else counts, newest_ms)
    return SketchRecord(0, AT_MS, AT_MS, [], delays=[told])


def bad_records(reference: Reference) -> dict[str, tuple[SketchRecord, str]]:
    good = delta(reference)
    cells = np.frombuffer(good.cells, "<u4")
    return {
        "strangers that are no numbers": (labels(strangers=b"abc"), "inconsistent"),
        "more labels without an event than there are": (labels(strangers=i8(*range(8))), "inconsistent"),
        "labels of a slice before all events": (labels(0), "out_of_range"),
        "labels of no slice": (labels(AT_MS + 1), "out_of_range"),
        "labels of a slice after all labels": (labels(1_893_456_000_000 + 9 * DAY_MS), "out_of_range"),
        "delays of cells in no order": (delays(cells=(9, 3)), "inconsistent"),
        "delays of one cell twice": (delays(cells=(9, 9)), "inconsistent"),
        "delays of no cell": (delays(cells=(3, N_CELLS)), "inconsistent"),
        "delays without counts": (delays(counts=i8(2)), "inconsistent"),
        "delays of no labels": (delays(counts=i8(2, 0)), "inconsistent"),
        "delays of fewer than no labels": (delays(counts=i8(2, -1)), "inconsistent"),
        "delays of more labels than there can be": (delays(counts=i8(2, MOST_EVENTS + 1)), "inconsistent"),
        "delays that are no numbers": (delays(counts=b"abc"), "inconsistent"),
        "delays of a slice before all events": (delays(0), "out_of_range"),
        "delays of a slice after all events": (delays(1_893_456_000_000 + 9 * DAY_MS), "out_of_range"),
        "delays of a label after all labels": (delays(newest_ms=1_893_456_000_000 + 3 * DAY_MS + 1), "out_of_range"),
        "another model": (record(good, change(good, model="x")), "foreign"),
        "a partition that there is not": (change(record(good), partition=1), "foreign"),
        "a watermark beyond all": (record(good, come_to_ms=2**62), "out_of_range"),
        "labels that came further than they can": (
            SketchRecord(0, AT_MS, 1_893_456_000_000 + 3 * DAY_MS + 1, [good]),
            "out_of_range",
        ),
        "a slice before all events": (record(good, delta(reference, 0)), "out_of_range"),
        "a slice after all events": (record(good, delta(reference, 1_893_456_000_000 + 9 * DAY_MS)), "out_of_range"),
        "a second delta that does not add up": (record(good, change(good, n=good.n + 1)), "inconsistent"),
        "cells that are no numbers": (record(good, change(good, cells=b"abc")), "inconsistent"),
        "counts of another length": (record(good, change(good, counts=good.counts + i8(1))), "inconsistent"),
        "a cell of no metric": (
            record(good, change(good, cells=np.append(cells[:-1], 2**21).astype("<u4").tobytes())),
            "inconsistent",
        ),
        "metrics of another model": (
            record(good, change(good, sums=good.sums[8:], minima=good.minima[8:], maxima=good.maxima[8:])),
            "inconsistent",
        ),
        "errors that are not whole": (record(good, errors=(run([AT_MS], b"\1\0"),)), "inconsistent"),
        "errors of fewer hours": (record(good, errors=(run([AT_MS] * 2, b"\1\0", hours=b"\1"),)), "inconsistent"),
        "errors of no hour": (record(good, errors=(run([AT_MS], b"\1", hours=b"\xa8"),)), "inconsistent"),
        "errors one of which is beyond all": (
            record(good, errors=(run([AT_MS, 2**62, AT_MS], b"\1\0\1"),)),
            "out_of_range",
        ),
        "errors that are neither right nor wrong": (record(good, errors=(run([AT_MS], b"\4"),)), "inconsistent"),
        "errors beyond all": (record(good, errors=(run([2**62], b"\1"),)), "out_of_range"),
        "errors before all": (record(good, errors=(run([-(2**62)], b"\1"),)), "out_of_range"),
        "many versions that nobody knows": (
            record(good, *(change(good, version=f"v{number}") for number in range(MOST_UNKNOWN + 1))),
            "foreign",
        ),
    }


def test_a_record_that_is_refused_changes_nothing_and_the_next_is_counted(
    monitor: MonitorCore, reference: Reference
) -> None:
    monitor.observe(record(delta(reference, n=100)))
    before = monitor.snapshot()
    for what, (bad, reason) in bad_records(reference).items():
        with pytest.raises(RefusedRecordError) as refused:
            monitor.observe(bad)
        assert refused.value.reason == reason, what
        assert monitor.snapshot() == before, what
    monitor.observe(labels(strangers=i8(*range(7))))  # each of the labels was without one
    monitor.observe(record(delta(reference), come_to_ms=FAR_MS))
    (window,) = monitor.windows.closed()
    assert monitor.windows.panes.counts(window, "1.0.0")[ALL].n == 400
    assert {report.n_detection for report in monitor.collect(1).reports} == {400}


def test_the_first_and_last_times_that_can_be_are_counted_and_those_beside_them_are_not(
    monitor: MonitorCore, reference: Reference
) -> None:
    """A slice may begin before all events, if it reaches into them; labels are later by a horizon at most."""
    pipeline = monitor._pipeline
    assert pipeline.labels is not None
    earliest_ms, horizon_ms = pipeline.events.earliest_ms, pipeline.labels.horizon_ms
    slice_ms = pipeline.drift.slice_ms
    latest_ms = pipeline.events.latest_ms + pipeline.events.max_ahead_ms + horizon_ms
    first = (earliest_ms - horizon_ms - slice_ms) // slice_ms * slice_ms + slice_ms
    last = latest_ms // slice_ms * slice_ms
    for good, bad in (
        (record(delta(reference, earliest_ms - slice_ms + 1)), record(delta(reference, earliest_ms - slice_ms))),
        (record(delta(reference, latest_ms)), record(delta(reference, latest_ms + 1))),
        (labels(first), labels(first - slice_ms)),
        (labels(last), labels(last + slice_ms)),
        (labels(AT_MS), labels(AT_MS + slice_ms // 2)),
        (delays(earliest_ms - slice_ms + 1, (0, N_CELLS - 1), i8(1, MOST_EVENTS)), delays(earliest_ms - slice_ms)),
        (delays(latest_ms), delays(latest_ms + 1)),
        (delays(newest_ms=latest_ms), delays(newest_ms=latest_ms + 1)),
        (
            record(errors=(run([latest_ms, earliest_ms - horizon_ms], b"\0\1", hours=b"\xa7\0"),)),
            record(errors=(run([AT_MS, earliest_ms - horizon_ms - 1], b"\0\1"),)),
        ),
        (
            record(errors=(run([AT_MS, AT_MS], b"\0\1"), run([], b""))),
            record(errors=(run([latest_ms + 1, AT_MS], b"\0\1"),)),
        ),
        (record(come_to_ms=latest_ms), SketchRecord(0, latest_ms + 1, AT_MS, [])),
    ):
        assert check(monitor, good, reference) == good
        with pytest.raises(RefusedRecordError) as refused:
            check(monitor, bad, reference)
        assert refused.value.reason == "out_of_range", bad


def check(monitor: MonitorCore, found: SketchRecord, reference: Reference, **n_metrics: int) -> SketchRecord:
    rules = SketchRules(monitor._pipeline, RecordRules.of(monitor._pipeline))
    return rules.check(found, {"1.0.0": reference.laws}, n_metrics)


def test_labels_without_an_event_are_no_more_than_labels(monitor: MonitorCore, reference: Reference) -> None:
    for counts, is_sound in (
        ((4, 1, 1, i8(5, 6)), True),
        ((3, 1, 1, i8(5, 6)), False),
        ((3, 3, 0, b""), True),
        ((2, 3, 0, b""), False),
        ((2, 0, 3, b""), False),
        ((MOST_EVENTS, 0, 0, b""), True),
        ((MOST_EVENTS + 1, 0, 0, b""), False),
    ):
        found = SketchRecord(0, AT_MS, AT_MS, [], [], 0, [LabelCounts(AT_MS, *counts)])
        if is_sound:
            assert check(monitor, found, reference) == found
            continue
        with pytest.raises(RefusedRecordError, match="labels were without an event") as refused:
            check(monitor, found, reference)
        assert refused.value.reason == "inconsistent"


def test_a_hundred_versions_may_be_unknown_and_those_that_are_held_count_among_them(
    monitor: MonitorCore, reference: Reference
) -> None:
    held = {f"h{number}": 0 for number in range(40)}
    new = [run([AT_MS], b"\0", f"v{number}") for number in range(30)]
    more = [change(delta(reference), version=f"w{number}") for number in range(MOST_UNKNOWN - 70)]
    good = record(delta(reference), *more, errors=(*new, run([AT_MS], b"\0", "h3")))
    assert check(monitor, good, reference, **held) == good
    with pytest.raises(RefusedRecordError, match="101 versions are unknown"):
        check(monitor, change(good, errors=[*good.errors, run([AT_MS], b"\0", "x")]), reference, **held)
    # What is held already may go on, however much there is of it.
    many = {f"v{number}": 0 for number in range(2 * MOST_UNKNOWN)}
    assert check(monitor, record(errors=tuple(new)), reference, **many)


def test_segments_are_told_in_their_order_after_all_events(monitor: MonitorCore, reference: Reference) -> None:
    names = ["colour=red", "colour=green", "colour=blue", ALL]
    monitor.observe(record(*(delta(reference, segment=name) for name in names), come_to_ms=FAR_MS))
    told = [row.segment for row in monitor.collect(0).metadata if row.stage == "scoring"]
    assert list(dict.fromkeys(told)) == [ALL, "colour=blue", "colour=green", "colour=red"]


def test_a_version_that_becomes_known_makes_room_for_another(monitor: MonitorCore, reference: Reference) -> None:
    monitor.observe(record(errors=tuple(run([AT_MS], b"\0", f"v{number}") for number in range(MOST_UNKNOWN))))
    one_more = record(errors=(run([AT_MS], b"\0", "x"),))
    with pytest.raises(RefusedRecordError, match="versions are unknown"):
        monitor.observe(one_more)
    monitor.register_version("v7", reference, {})
    monitor.observe(one_more)


def test_deltas_of_an_unknown_version_have_as_many_metrics_as_what_is_held_of_it(
    monitor: MonitorCore, reference: Reference
) -> None:
    found = record(change(delta(reference), version="9.0.0"))
    size = len(reference.metrics)
    for held in ({}, {"9.0.0": 0}, {"9.0.0": size}):
        assert check(monitor, found, reference, **held) == found
        assert held in ({}, {"9.0.0": 0}, {"9.0.0": size})  # it is looked at, and not written to
    with pytest.raises(RefusedRecordError, match=f"it has {size} metrics, and what is held of the version has 3"):
        check(monitor, found, reference, **{"9.0.0": 3})
    scores = np.random.default_rng(1).random(25)
    narrow = pack("shop-returns", "9.0.0", ALL, AT_MS, count(other_reference(), scores[:, None], scores))
    with pytest.raises(RefusedRecordError, match="what is held of the version has"):
        check(monitor, record(found.deltas[0], narrow), reference)


def test_how_far_a_partition_can_have_come_is_bounded_by_the_readers_clock(
    monitor: MonitorCore, reference: Reference
) -> None:
    """By an hour of clocks that differ, and what event times and promises may be ahead."""
    pipeline = monitor._pipeline
    assert pipeline.labels is not None
    most_ms = AT_MS + 3_600_000 + pipeline.events.max_ahead_ms + pipeline.labels.horizon_ms
    with pytest.raises(RefusedRecordError, match="the latest that is believed"):
        monitor.observe(record(come_to_ms=most_ms + 1), AT_MS)
    monitor.observe(record(come_to_ms=most_ms), AT_MS)
    assert monitor.windows.watermark_ms == most_ms


def test_counts_in_segments_that_the_pipeline_does_not_have_are_left_out(
    monitor: MonitorCore, reference: Reference
) -> None:
    red = delta(reference, segment="colour=red", n=200)
    strange = [delta(reference, segment=f"shape={number}", n=200) for number in range(50)]
    assert monitor.observe(record(delta(reference), red, *strange, come_to_ms=FAR_MS)) == 50
    (window,) = monitor.windows.closed()
    assert monitor.windows.panes.counts(window, "1.0.0").keys() == {ALL, "colour=red"}
    assert {report.segment for report in monitor.collect(1).reports} == {ALL, "colour=red"}


@functools.cache
def other_reference() -> Reference:
    generator = np.random.default_rng(5)
    scores = generator.random(400)
    return fit_reference(
        TrainingEvents(generator.normal(size=(400, 1)), scores, (generator.random(400) < scores) * 1.0),
        [numeric("x")],
        16,
    )


def test_what_is_held_of_a_version_and_is_not_of_its_reference_is_dropped_when_that_comes(
    monitor: MonitorCore, reference: Reference
) -> None:
    """Until it comes, nobody can tell; what comes first decides how many metrics it has."""
    scores = np.random.default_rng(1).random(250)
    wrong = pack("shop-returns", "2.0.0", ALL, AT_MS, count(other_reference(), scores[:, None], scores))
    monitor.observe(record(wrong))
    with pytest.raises(RefusedRecordError, match="what is held of the version has"):
        monitor.observe(record(change(delta(reference), version="2.0.0")))
    snapshot = monitor.snapshot()
    assert monitor.register_version("2.0.0", reference, {}, Window(0, 1)) == 1
    monitor.observe(record(change(delta(reference), version="2.0.0"), come_to_ms=FAR_MS))
    assert {report.n_detection for report in monitor.collect(1).reports} == {300}

    again = MonitorCore(monitor._pipeline)
    again.restore(snapshot)
    assert again.register_version("2.0.0", reference, {}, Window(0, 1)) == 1


def test_a_snapshot_that_has_come_to_where_nothing_can_be_is_not_gone_on_with(
    monitor: MonitorCore, reference: Reference
) -> None:
    """An older release took any watermark, and would have closed every window for ever."""
    monitor.windows.add(record(come_to_ms=2**62))
    with pytest.raises(ValueError, match="where nothing can be"):
        MonitorCore(monitor._pipeline).restore(monitor.snapshot())


def test_a_record_lies_in_the_partition_that_it_speaks_of(reference: Reference) -> None:
    value = encode_packed(record(delta(reference)))
    assert read_sketch(0, value) == record(delta(reference))
    with pytest.raises(RefusedRecordError, match="it lies in 1"):
        read_sketch(1, value)
