"""The checker passes what is right and catches what is wrong, each kind by its name."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from chaos_checker import Findings, Logs, Undisturbed, check, run_all, undivided
from chaos_load import Load, to_batch
from chaos_monitor import TABLES, Monitoring
from chaos_pipeline import Setup, render_toml, train_version
from chaos_shared import shared_windows

from app.adapters.sources.features import compile_features
from app.core.batches import RecordBatch
from app.core.scoring import ActiveModel, ChampionTimeline
from app.flow.step import Step
from app.pipeline import PartitionPipeline, new_board
from app.replay.drive import RecordedSelector
from app.replay.models import load_model
from models.versions.registry import Registry
from schemas.pipeline.file import load as load_pipeline
from schemas.pipeline.spec import Pipeline
from schemas.wire import Score, SketchRecord, decode_json

PARTITIONS = 3
N = 1_500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checker")


def make_pipeline(folder: Path, *, monitored: bool) -> Pipeline:
    path = folder / f"checked{monitored:d}.toml"
    path.write_text(render_toml(path.stem, Setup(with_labels=True, partitions=PARTITIONS, monitored=monitored)))
    return load_pipeline(path)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return make_pipeline(folder, monitored=False)


def make_models(folder: Path, pipeline: Pipeline) -> dict[str, ActiveModel]:
    trained = train_version(pipeline, "1.0.0", seed=1)
    registry = Registry(folder / pipeline.name)
    registry.register(trained.manifest, trained.artifact)
    return {"1.0.0": load_model(pipeline, registry, "1.0.0")}


@pytest.fixture(scope="module")
def models(folder: Path, pipeline: Pipeline) -> dict[str, ActiveModel]:
    return make_models(folder, pipeline)


@pytest.fixture(scope="module")
def right(pipeline: Pipeline, models: dict[str, ActiveModel]) -> Logs:
    return make_logs(pipeline, models)


@pytest.fixture(scope="module")
def monitored(folder: Path) -> tuple[Logs, dict[str, ActiveModel]]:
    """Logs of a pipeline with segments, windows that overlap and detectors, and its models."""
    pipeline = make_pipeline(folder, monitored=True)
    models = make_models(folder, pipeline)
    return make_logs(pipeline, models), models


def make_logs(pipeline: Pipeline, models: dict[str, ActiveModel]) -> Logs:
    """What workers without faults leave: batches of uneven size, commits, and a restart in the middle."""
    load = Load(seed=5, n=N, partitions=PARTITIONS, cards=30, with_labels=True)
    logs = Logs(pipeline)
    events = [load.event(pipeline.topics, number) for number in range(N)]
    labels = load.labels(pipeline.topics)
    for partition in range(PARTITIONS):
        mine = [sent for sent in events if sent.partition == partition]
        logs.events[partition] = [to_batch(mine[at : at + 97], at) for at in range(0, len(mine), 97)]
        outcomes = [sent for sent in labels if sent.partition == partition]
        logs.labels[partition] = [to_batch(outcomes[at : at + 61], at) for at in range(0, len(outcomes), 61)]
        half = len(logs.events[partition]) // 2
        committed = run_worker(logs, partition, slice(0, half), models, 0)
        run_worker(logs, partition, slice(half, None), models, committed)
    return logs


def run_worker(logs: Logs, partition: int, part: slice, models: dict[str, ActiveModel], committed: int) -> int:
    """As a worker does: restore, read the events of ``part`` and labels from ``committed`` on; the next such offset."""
    flow = PartitionPipeline(logs.pipeline, compile_features(logs.pipeline), partition)
    flow.restore(logs.state[partition])
    flow.know("1.0.0", models["1.0.0"].reference)
    timeline = ChampionTimeline(list(models.values()))
    for batch in logs.labels[partition]:
        if int(batch.offsets[-1]) >= committed:
            rows = [row for row, offset in enumerate(batch.offsets.tolist()) if offset >= committed]
            flow.receive_labels(cut(batch, rows), 0)
    for batch in logs.events[partition][part]:
        flow.receive_events(batch)
        flow.merge.let_go(flow.merge.events_received)
        while (step := flow.step(timeline, 40, 1_000)) is not None:
            publish(logs, step)
        record = flow.drain_sketch()
        if record is not None:
            logs.sketches.append(record)
        logs.state[partition].extend(flow.drain_state())
    return flow.position().labels or 0


def cut(batch: RecordBatch, rows: list[int]) -> RecordBatch:
    index = np.array(rows, dtype=np.int64)
    assert batch.headers is not None
    return RecordBatch(
        batch.topic, batch.partition, batch.offsets[index], batch.timestamps_ms[index],
        [batch.keys[row] for row in rows], [batch.values[row] for row in rows], [batch.headers[row] for row in rows],
    )  # fmt: skip


def publish(logs: Logs, step: Step) -> None:
    logs.scores.extend(decode_json(value, Score) for _, value, _ in step.outgoing_scores if value is not None)
    logs.dead.extend(step.dead_letters)


def broken(right: Logs) -> Logs:
    """A copy to break."""
    return replace(
        right,
        scores=copy.deepcopy(right.scores),
        dead=list(right.dead),
        sketches=copy.deepcopy(right.sketches),
        state={partition: list(changes) for partition, changes in right.state.items()},
    )


def wrong(found: Findings) -> dict[str, int]:
    """What is not as it should be."""
    kinds = ("lost", "doubled", "conflicting", "unknown", "reordered", "misjudged",
             "wrong_windows", "wrong_scores", "wrong_state", "wrong_drift_counts", "wrong_errors",
             "wrong_rows")  # fmt: skip
    return {kind: getattr(found, kind) for kind in kinds if getattr(found, kind)}


def test_what_is_right_passes(right: Logs, models: dict[str, ActiveModel]) -> None:
    found = check(right, models)
    assert wrong(found) == {}, found.describe()
    assert (found.events, found.stale) == (N, 0)
    assert found.scored + found.dead_letters == N
    assert found.dead_letters > N // 100
    assert sum(delta.n for record in right.sketches for delta in record.deltas) == found.scored
    assert any(score.features["bad_5m"] for score in right.scores)


def test_a_lost_score_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    gone = logs.scores.pop(700)
    found = check(logs, models)
    assert wrong(found) == {"lost": 1}
    assert f"lost {(gone.source.partition, gone.source.offset)}" in found.describe()


def test_a_lost_dead_letter_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    logs.dead.pop()
    assert wrong(check(logs, models)) == {"lost": 1}


def test_a_doubled_score_is_caught_though_it_was_made_at_another_time(
    right: Logs, models: dict[str, ActiveModel]
) -> None:
    logs = broken(right)
    logs.scores.insert(800, msgspec.structs.replace(logs.scores[790], scored_at_ms=5))
    assert wrong(check(logs, models)) == {"doubled": 1}


@pytest.mark.parametrize("change", [{"score": 0.123}, {"features": {}}, {"stale": True}])
def test_a_repetition_with_another_content_is_caught(
    right: Logs, models: dict[str, ActiveModel], change: dict[str, object]
) -> None:
    logs = broken(right)
    logs.scores.insert(790, msgspec.structs.replace(logs.scores[790], **change))
    assert wrong(check(logs, models)) == {"doubled": 1, "conflicting": 1}


def test_a_repetition_by_a_version_that_was_swapped_in_is_no_conflict_and_the_last_one_stands(
    right: Logs, models: dict[str, ActiveModel]
) -> None:
    logs, other = broken(right), dict(models)
    other["9.9.9"] = other[logs.scores[790].version]
    logs.scores.insert(790, msgspec.structs.replace(logs.scores[790], version="9.9.9", score=0.123))
    assert wrong(check(logs, other)) == {"doubled": 1}
    logs.scores[790], logs.scores[791] = logs.scores[791], logs.scores[790]
    assert wrong(check(logs, other)) == {"doubled": 1, "wrong_scores": 1}


@pytest.mark.parametrize("change", [{"features": {}}, {"stale": True}, {"event_time_ms": 1}])
def test_a_repetition_by_another_version_of_other_features_is_caught(
    right: Logs, models: dict[str, ActiveModel], change: dict[str, object]
) -> None:
    logs, other = broken(right), dict(models)
    other["9.9.9"] = other[logs.scores[790].version]
    logs.scores.insert(790, msgspec.structs.replace(logs.scores[790], version="9.9.9", score=0.123, **change))
    assert wrong(check(logs, other)) == {"doubled": 1, "conflicting": 1}


def test_a_version_that_may_not_score_is_caught_though_its_score_was_repeated(
    right: Logs, models: dict[str, ActiveModel]
) -> None:
    logs = broken(right)
    logs.scores.insert(790, msgspec.structs.replace(logs.scores[790], version="9.9.9"))
    assert wrong(check(logs, models))["misjudged"] == 1


def test_a_score_and_a_dead_letter_of_the_same_event_are_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    source = logs.scores[10].source
    logs.dead.append(msgspec.structs.replace(logs.dead[0], source=source))
    found = wrong(check(logs, models))
    assert (found["doubled"], found["conflicting"], found["misjudged"]) == (1, 1, 1)


def test_a_dead_letter_in_place_of_a_score_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    gone = logs.scores.pop(10)
    logs.dead.append(msgspec.structs.replace(logs.dead[0], source=gone.source))
    assert wrong(check(logs, models)) == {"misjudged": 1}


def test_scores_out_of_order_are_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    logs.scores[100], logs.scores[101] = logs.scores[101], logs.scores[100]
    assert wrong(check(logs, models)) == {"reordered": 1}


def test_a_score_of_no_event_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    source = msgspec.structs.replace(logs.scores[-1].source, offset=10**6)
    logs.scores.append(msgspec.structs.replace(logs.scores[-1], source=source))
    assert wrong(check(logs, models)) == {"unknown": 1}


def test_one_event_too_many_in_a_window_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    features = logs.scores[500].features
    assert features["count_1m"] is not None
    features["count_1m"] += 1.0
    assert wrong(check(logs, models)) == {"wrong_windows": 1, "wrong_scores": 1}


def test_the_last_bit_of_a_score_counts(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    logs.scores[500].score = float(np.nextafter(logs.scores[500].score, 0.5))
    assert wrong(check(logs, models)) == {"wrong_scores": 1}


def test_drift_counts_that_came_twice_or_not_at_all_are_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    twice, never = broken(right), broken(right)
    place = next(n for n, record in enumerate(right.sketches) if record.deltas)
    twice.sketches.append(twice.sketches[place])
    never.sketches[place] = SketchRecord(0, 0, 0, [])
    for logs in (twice, never):
        found = wrong(check(logs, models))
        assert set(found) == {"wrong_drift_counts", "wrong_errors"}
        assert found["wrong_drift_counts"] == sum(delta.n for delta in right.sketches[place].deltas)


def test_a_changelog_that_misses_one_transaction_is_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    logs = broken(right)
    logs.state[1] = logs.state[1][:-60]
    assert check(logs, models).wrong_state > 0


def test_a_key_whose_last_change_is_missing_in_the_changelog_is_caught(
    right: Logs, models: dict[str, ActiveModel]
) -> None:
    logs = broken(right)
    changes = logs.state[0]
    writes: dict[bytes, list[int]] = {}
    for place, (key, value) in enumerate(changes):
        if value is not None and key.startswith(b"t"):
            writes.setdefault(key, []).append(place)
    stale = next(
        places for places in reversed(writes.values())
        if len(places) > 1 and changes[places[-1]][1] != changes[places[-2]][1] and len(changes[places[-1]][0]) > 9
    )  # fmt: skip
    del changes[stale[-1]]
    assert set(wrong(check(logs, models))) == {"wrong_state"}


def test_what_a_monitor_makes_of_what_is_right_passes(monitored: tuple[Logs, dict[str, ActiveModel]]) -> None:
    logs, models = monitored
    found = check(logs, models)
    assert wrong(found) == {}, found.describe()
    monitoring = Monitoring(logs.pipeline, models.values())
    monitoring.read(logs.sketches)
    rows = {table: monitoring.tables.read(table) for table in TABLES}
    segments = {"all", "kind=a", "kind=b", "kind=c", "kind=unseen", "kind=missing"}
    for table in ("model_metadata", "drift_reports", "performance"):
        assert {row["segment"] for row in rows[table]} == segments
    windows = sorted({(row["window_start"], row["window_end"]) for row in rows["verdicts"]})
    assert any(start < end_before for (_, end_before), (start, _) in pairwise(windows))
    assert {row["test"] for row in rows["drift_reports"] if row["metric"] == "error"} == {"cusum", "adwin"}
    assert any(row["realised"] is not None for row in rows["performance"])


def test_a_segment_whose_counts_are_missing_is_caught(monitored: tuple[Logs, dict[str, ActiveModel]]) -> None:
    logs, models = broken(monitored[0]), monitored[1]
    deltas = logs.sketches[0].deltas
    place = next(place for place, delta in enumerate(deltas) if delta.segment == "kind=b")
    n = deltas.pop(place).n
    found = wrong(check(logs, models))
    assert set(found) == {"wrong_drift_counts", "wrong_rows"}
    assert found["wrong_drift_counts"] == n > 0


def test_errors_in_another_order_are_caught(right: Logs, models: dict[str, ActiveModel]) -> None:
    """Two decisions, one of them wrong, change places: each count stays as it is."""
    logs = broken(right)
    run, at = next(
        (run, at)
        for record in logs.sketches[len(logs.sketches) // 2 :]
        for run in record.errors
        for at in range(len(run.decisions) - 1)
        if run.decisions[at] != run.decisions[at + 1]
    )
    run.decisions = run.decisions[:at] + run.decisions[at : at + 2][::-1] + run.decisions[at + 2 :]
    found = wrong(check(logs, models))
    assert found["wrong_errors"] == 2
    assert set(found) <= {"wrong_errors", "wrong_rows"}


@pytest.fixture(scope="module")
def shared(folder: Path) -> tuple[Logs, dict[str, ActiveModel]]:
    """Logs of a pipeline with windows over all cards, and its models."""
    path = folder / "shared.toml"
    path.write_text(render_toml(path.stem, Setup(with_labels=True, partitions=PARTITIONS, shared=True)))
    pipeline = load_pipeline(path)
    models, load = make_models(folder, pipeline), Load(seed=5, n=N, partitions=PARTITIONS, with_labels=True)
    logs = Logs(pipeline)
    sent = [load.event(pipeline.topics, number) for number in range(N)] + load.last(pipeline.topics, N)
    labels = load.labels(pipeline.topics)
    for partition in range(PARTITIONS):
        logs.events[partition] = [to_batch([one for one in sent if one.partition == partition], 0)]
        logs.labels[partition] = [to_batch([one for one in labels if one.partition == partition], 0)]
    plan = compile_features(undivided(pipeline))
    board = new_board(plan, range(PARTITIONS))
    selectors = {partition: RecordedSelector([(0, "1.0.0")], models) for partition in range(PARTITIONS)}
    runs = {
        partition: Undisturbed(PartitionPipeline(undivided(pipeline), plan, partition, board=board), selector)
        for partition, selector in selectors.items()
    }
    for step in run_all(runs, logs):
        publish(logs, step)
    return logs, models


def test_windows_over_all_cards_are_what_plain_loops_over_the_logs_say(
    shared: tuple[Logs, dict[str, ActiveModel]],
) -> None:
    logs, _ = shared
    found = check(logs, None)
    assert (found.wrong_windows, found.stale, found.lost) == (0, 0, 0), found.describe()
    names = [name for name, window in shared_windows(logs.pipeline).items() if window.aggregate == "count"]
    assert len(names) == 2
    assert all(sum(score.features[name] or 0 for score in logs.scores) > N for name in names)


@pytest.mark.parametrize(
    "name", ["shop_1m", "shop_sum_5m", "kind_rate_20s", "shop_mean_2m", "shop_bad_3m", "kind_bad_30s"]
)
def test_a_window_over_all_cards_that_is_wrong_by_a_little_is_caught(
    shared: tuple[Logs, dict[str, ActiveModel]], name: str
) -> None:
    logs, _ = shared
    logs = broken(logs)
    place = next(number for number, score in enumerate(logs.scores) if score.features[name])
    score = logs.scores[place]
    features = {**score.features, name: (score.features[name] or 0) + 2**-10}
    logs.scores[place] = msgspec.structs.replace(score, features=features)
    assert check(logs, None).wrong_windows == 1


def test_a_stale_score_is_wrong(shared: tuple[Logs, dict[str, ActiveModel]]) -> None:
    logs = broken(shared[0])
    logs.scores[7] = msgspec.structs.replace(logs.scores[7], stale=True)
    assert check(logs, None).wrong_counts >= 1
