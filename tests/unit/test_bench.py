"""The benchmark's harness: what it feeds, how it checks and times, and how it judges."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from app.bench.contestants import BYTEWAX, FAUST, OURS, RAW, Contestant, limited
from app.bench.goals import GOALS
from app.bench.lane import BenchError, Meter, Race
from app.bench.outputs import Outputs, n_events
from app.bench.peer_tools import ensure_streams, program
from app.bench.run import BenchRun
from app.bench.sections import SECTIONS
from app.bench.soak import rss_change
from app.bench.stages import STAGES, stage_of, sum_stages
from app.bench.throughput import compare
from app.bench.workload import (
    COUNT_WEIGHT,
    MEAN_WEIGHT,
    MINUTE_MS,
    PARTITIONS,
    PEER_WINDOW_MS,
    PEER_WINDOWS,
    ROWS,
    SPACING_MS,
    START_MS,
    STATELESS,
    TREES,
    WIDE,
    WINDOWS,
    Workload,
)
from app.core.counts.sketches import Sketch
from app.figures import Figure, Figures, Goal
from schemas.wire import SketchRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("workload", [STATELESS, WIDE, WINDOWS])
def test_an_event_says_what_numpy_takes_for_it(workload: Workload) -> None:
    for number in (0, 7, ROWS + 3):
        key, value, time_ms = workload.event(number)
        event = json.loads(value)
        assert event["id"] == f"e{number:08d}"
        assert event["time_ms"] == time_ms == START_MS + number * SPACING_MS
        assert event["card"] == key.decode() == f"c{int(workload.cards_of(np.array([number]))[0]):07d}"
        assert [event[f"f{at}"] for at in range(workload.columns)] == workload.matrix[number % ROWS].tolist()


def test_a_card_stays_in_its_partition() -> None:
    numbers = np.arange(40_000)
    assert (WINDOWS.cards_of(numbers) % PARTITIONS == numbers % PARTITIONS).all()
    assert len(set(WINDOWS.cards_of(numbers).tolist())) == WINDOWS.cards


def test_windows_by_numpy_are_those_of_a_loop() -> None:
    few = Workload("few", "bench-windows", "logistic", 10, "", cards=8)
    matrix = few.features(150_000)  # 12.5 minutes of event time: past the first window of ten
    cards = few.cards_of(np.arange(150_000)).tolist()
    for number in (0, 9, 60_001, 130_017, 149_999):
        tile = (START_MS + number * SPACING_MS) // MINUTE_MS
        earlier = [
            row
            for row in range(number)
            if cards[row] == cards[number] and (START_MS + row * SPACING_MS) // MINUTE_MS > tile - 10
        ]
        total = sum(few.matrix[row % ROWS, 0] for row in earlier)
        count, mean, in_30m = matrix[number, 10:]
        assert count == len(earlier)
        assert mean == pytest.approx(total / len(earlier), abs=1e-5) if earlier else np.isnan(mean)
        in_30 = sum(few.matrix[row % ROWS, 0] for row in range(number) if cards[row] == cards[number])
        assert in_30m == pytest.approx(in_30, abs=1e-1)


@pytest.mark.slow
def test_peers_windows_by_numpy_are_those_of_a_loop() -> None:
    count = 125_000  # past the first window of ten minutes
    scores = PEER_WINDOWS.expected(count)
    weights, intercept = PEER_WINDOWS.linear
    cards = PEER_WINDOWS.cards_of(np.arange(count))
    number = count - 1
    window = (START_MS + number * SPACING_MS) // PEER_WINDOW_MS
    own = [
        row
        for row in np.flatnonzero(cards == cards[number]).tolist()
        if (START_MS + row * SPACING_MS) // PEER_WINDOW_MS == window
    ]
    mean = float(np.mean([PEER_WINDOWS.matrix[row % ROWS, 0] for row in own]))
    logit = float(PEER_WINDOWS.matrix[number % ROWS] @ weights) + intercept
    logit += COUNT_WEIGHT * len(own) + MEAN_WEIGHT * mean
    assert 1 < len(own) < (cards == cards[number]).sum()
    assert scores[number] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-12)


@pytest.mark.slow
def test_the_coefficients_given_to_peers_are_the_model() -> None:
    weights, intercept = STATELESS.linear
    by_hand = 1 / (1 + np.exp(-(STATELESS.matrix @ weights + intercept)))
    assert np.abs(by_hand - STATELESS.expected(ROWS)).max() < 1e-12


def test_a_lane_s_pipeline_is_the_shipped_one_under_another_name(tmp_path: Path) -> None:
    for workload in (STATELESS, TREES, WIDE, WINDOWS):
        written = workload.write_pipeline(tmp_path, f"lane-{workload.name}", "at_least_once")
        assert (written.name, written.delivery) == (f"lane-{workload.name}", "at_least_once")
        assert written.feature_set == workload.pipeline.feature_set


EXPECTED = np.array([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("numbers", "scores", "fault"),
    [
        ([0, 1, 2, 1], [0.1, 0.2, 0.3, 0.2], "1 events were scored more than once"),
        ([0, 2], [0.1, 0.3], "1 of 3 events have no score"),
        ([0, 1, 2], [0.1, 0.2, 0.300002], "1 scores differ"),
        ([0, 1, 2], [0.1, float("nan"), 0.3], "1 scores differ"),
    ],
)
def test_wrong_outputs_are_found(numbers: list[int], scores: list[float], fault: str) -> None:
    outputs = Outputs(np.array(numbers), np.array(scores), np.zeros(len(numbers), dtype=np.int64))
    with pytest.raises(BenchError, match=fault):
        outputs.check(EXPECTED, whole=True)


def test_right_outputs_pass_and_a_part_of_them_where_that_is_all() -> None:
    Outputs(np.array([2, 0, 1]), np.array([0.3, 0.1, 0.2 + 5e-7]), np.zeros(3, dtype=np.int64)).check(
        EXPECTED, whole=True
    )
    Outputs(np.array([2]), np.array([0.3]), np.zeros(1, dtype=np.int64)).check(EXPECTED, whole=False)


def _meter(times: list[float], cpu: list[float]) -> Meter:
    meter = Meter([])
    meter._times, meter._cpu, meter.rss = times, cpu, [5, 7, 6]
    return meter


def test_a_race_leaves_out_what_came_with_the_first_stamp() -> None:
    meter = _meter([10.0, 11.0, 14.0], [1.0, 2.0, 3.5])
    appended = np.array([11_000, 11_000, 12_000, 13_000, 13_000, 13_000])
    race = Race.of("one", appended, meter)
    assert (race.events, race.seconds) == (4, 2.0)
    assert race.cpu_seconds == pytest.approx(1.0)  # half a second of CPU a second, from 11 to 13
    assert race.events_per_second == 2.0
    assert race.cpu_us == pytest.approx(250_000)
    assert race.rss_bytes == 7


def test_a_race_of_one_stamp_has_no_speed() -> None:
    with pytest.raises(BenchError, match="--events"):
        Race.of("one", np.array([11_000, 11_000]), _meter([10.0, 12.0], [0.0, 1.0]))


@pytest.mark.parametrize(
    ("top", "bottom", "at_least", "value", "met"),
    [(80.0, 100.0, True, 0.8, True), (79.0, 100.0, True, 0.79, False), (80.0, 100.0, False, 0.8, True)],
)
def test_a_ratio_is_judged_by_its_limit(top: float, bottom: float, at_least: bool, value: float, met: bool) -> None:
    figures = Figures()
    figures.add("a", top, "events/s")
    figures.add("b", bottom, "events/s")
    judged = Goal("g", "", "a", 0.8, to="b", at_least=at_least).judge(figures)
    assert judged is not None
    assert (judged.value, judged.met) == (pytest.approx(value), met)
    assert judged.goal == ("≥ 0.8 ×" if at_least else "≤ 0.8 ×")


def test_each_round_begins_with_another_contestant_and_who_fails_is_left_out_from_then_on() -> None:
    asked: list[str] = []

    async def race(contestant: Contestant, workload: Workload, count: int) -> Race:
        asked.append(contestant.name)
        if contestant is BYTEWAX:
            raise BenchError("it fell over")
        return Race(contestant.name, count, 1.0, 1.0, 1)

    run = cast("BenchRun", SimpleNamespace(race=race, figures=Figures()))
    pairs = [(contestant, STATELESS) for contestant in (OURS, RAW, BYTEWAX)]
    races = asyncio.run(compare(run, "", pairs, 1_000, 3))
    ours, bare, bytewax = (contestant.name for contestant, _ in pairs)
    assert asked == [ours, bare, bytewax, bare, ours, ours, bare]
    assert {name: len(found) for name, found in races.items()} == {f"stateless.{ours}": 3, f"stateless.{bare}": 3}


def test_a_goal_without_its_other_half_is_shown_as_not_measured() -> None:
    figures = Figures()
    figures.add("a", 1.0, "events/s")
    judged = Goal("g", "", "a", 0.8, to="b").judge(figures)
    assert judged is not None
    assert (judged.value, judged.met) == (None, None)
    assert Goal("g", "", "b", 0.8).judge(figures) is None


def test_a_missed_goal_says_so_in_the_table() -> None:
    figures = Figures()
    figures.add("stateless.streamgauge.cpu", 9.0, "µs")
    figures.judge(GOALS)
    assert "**missed**" in figures.render()


def test_names_of_goals_differ_and_are_no_figures_of_their_own() -> None:
    names = [goal.name for goal in GOALS]
    assert len(set(names)) == len(names)
    assert not set(names) & {name for goal in GOALS for name in (goal.of, goal.to)}


def test_results_hold_the_newest_figure_of_each_name(tmp_path: Path) -> None:
    first, second = Figures(command="one"), Figures(command="two")
    first.add("a", [3.0, 1.0, 2.0], "µs")
    first.add("b", 5.0, "µs")
    first.write(tmp_path)
    second.add("b", 6.0, "µs")
    second.write(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert rows == [
        {"name": "a", "value": 2.0, "unit": "µs", "goal": None, "met": None, "command": "one"},
        {"name": "b", "value": 6.0, "unit": "µs", "goal": None, "met": None, "command": "two"},
    ]


def test_a_table_shows_medians_ranges_and_ratios() -> None:
    figures = Figures()
    figures.add_cell("a.rate", [90.0, 100.0, 110.0], "events/s", ("T", "ours", "events/s"))
    figures.add_cell("b.rate", 40.0, "events/s", ("T", "theirs", "events/s"))
    figures.found["c"] = Figure("c", None, "ms")
    text = figures.render()
    assert "| ours | 100 [90–110] | 1 |" in text
    assert "| theirs | 40 | 2.5 |" in text
    assert "| c | not measured ms |" in text


def test_memory_that_moves_is_measured_against_the_first_tenth() -> None:
    assert rss_change([100.0] * 10 + [103.0] * 10) == pytest.approx(3.0)
    assert rss_change([100.0] * 10 + [90.0] * 10) == pytest.approx(10.0)


STACK = "thread (1): MainThread;Handle._run (asyncio/events.py:80)"


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        ("PartitionPipeline.step (app/pipeline.py:9);FoldedLogistic.score (models/scoring/scorer.py:7)", "score"),
        (
            "PartitionPipeline._process (app/pipeline.py:9);ScoreEncoder.encode (app/flow/encoder.py:4)",
            "encode",
        ),
        ("PartitionPipeline._process (app/pipeline.py:9);zeros (numpy/_core/numeric.py:3)", "merge and flow"),
        ("PartitionPublisher.send (app/adapters/kafka/publisher.py:9);append (aiokafka/producer/x.py:4)", "commit"),
        ("AIOKafkaConnection._read (aiokafka/conn.py:9);readexactly (asyncio/streams.py:4)", "commit"),
        ("write (asyncio/selector_events.py:4)", "event loop"),
        ("EpollSelector.select (selectors.py:468)", None),
        ("ModelShelf._follow (app/worker/model_shelf.py:1);getmany (aiokafka/consumer/consumer.py:9)", None),
    ],
)
def test_a_sample_belongs_to_its_innermost_known_frame(frames: str, stage: str | None) -> None:
    assert stage_of(f"{STACK};{frames}") == stage


def test_the_consumer_s_thread_fetches() -> None:
    assert stage_of("thread (2): Thread-1;read (asyncio/streams.py:4)") == "fetch"


def test_samples_are_summed_by_stage() -> None:
    lines = [
        f"{STACK};score (models/scoring/scorer.py:7) 3",
        f"{STACK};score (models/scoring/scorer.py:9) 2",
        f"{STACK};x (y.py:1) 4",
    ]
    assert sum_stages(lines) == {"score": 5, "event loop": 4}


def test_stages_name_code_that_exists() -> None:
    for _, rules in STAGES:
        for rule in rules:
            path, _, function = rule.partition(":")
            if path.startswith(("app/", "models/")):
                assert (ROOT / path).exists(), rule
            if function:
                assert re.search(rf"def {function}\b", (ROOT / path).read_text()), rule


def test_peers_run_the_libraries_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pins = (ROOT / "scripts" / "bench" / "peers-requirements.txt").read_text().splitlines()
    shared = [line for line in pins if line.partition("==")[0] in {"numpy", "scikit-learn", "joblib", "msgspec"}]
    assert len(shared) == 5  # numpy has two, by Python
    for line in shared:
        assert f"\n{line} " in lock


def test_every_section_is_described() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for section in SECTIONS:
        assert f"`{section.name}`" in text


def test_without_a_compiler_kafka_streams_is_left_out_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="JDK") as raised:
        ensure_streams(tmp_path, lambda _: None)
    assert "\n" not in str(raised.value)


def test_a_program_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(BenchError, match="source tree") as raised:
        program("no-such-program.py")
    assert "\n" not in str(raised.value)


def test_an_event_that_segments_count_again_is_counted_once() -> None:
    counts = {"all": 5, "kind=a": 3, "kind=missing": 2}
    deltas = [Sketch(n=n).to_delta("m", "1.0.0", segment, 0) for segment, n in counts.items()]
    assert n_events(SketchRecord(0, 0, 0, deltas)) == 5


def test_a_limited_contestant_keeps_its_own_limit() -> None:
    assert limited(FAUST, 5).most == 5
    assert limited(FAUST, 10**9).most == FAUST.most
    with pytest.raises(BenchError, match="--events"):
        limited(FAUST, 0)
