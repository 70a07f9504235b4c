"""Laws of training: deterministic, judged on the newest rows, fitted on all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline as SklearnPipeline

from models.hold_out import HoldOut
from models.reference.reference import GRID
from models.scoring.families import FAMILIES, Family, FeatureKind, fit
from models.scoring.scorer import make_scorer
from models.training import SEED, TrainedModel, TrainingError, measure, read_libraries, train
from models.training_rows import LabelledRows, TrainingRange, WeighedRows
from models.versions.golden import choose_golden_rows
from models.versions.manifest import Artifact, FeatureSpec, LabelFacts, Manifest, digest_training_data
from schemas.pipeline.spec import Pipeline

KINDS = (FeatureKind("float"), FeatureKind("category", 3), FeatureKind("int"))


def train_small(pipeline: Pipeline, data: Any, **changes: Any) -> TrainedModel:
    values = {"matrix": data.matrix, "labels": data.labels, "event_time_ms": data.event_time_ms, **changes}
    rows = LabelledRows(values["matrix"], values["labels"], values["event_time_ms"])
    training = TrainingRange(rows, 0, 400_000, 410, values.get("young"), values.get("label_facts"))
    family = values.get("family", "logistic")
    return train(training, pipeline, family, version="1.0.0", created_at_ms=1_000_000)


def test_the_manifest_says_what_was_done(trained: TrainedModel, small_data: Any, small_pipeline: Pipeline) -> None:
    manifest = trained.manifest
    assert manifest.signature.names == ("amount", "colour", "items")
    assert manifest.signature.features[1].values == ("red", "green", "blue")
    assert manifest.feature_set == small_pipeline.feature_set
    assert (manifest.model, manifest.target, manifest.family) == ("shop-returns", "is sent back", "logistic")
    assert (manifest.training.rows, manifest.training.labelled_rows) == (410, 400)
    assert manifest.training.positive_share == small_data.labels.mean()
    assert manifest.training.refitted_on_all
    expected = digest_training_data(small_data.matrix, small_data.labels, small_data.event_time_ms)
    assert manifest.training.sha256 == expected
    assert set(manifest.libraries) == {"python", "numpy", "scikit-learn", "skops", "streamgauge"}


def test_metrics_are_those_of_a_model_that_has_not_seen_the_newest_fifth(
    trained: TrainedModel, small_data: Any
) -> None:
    judged = make_scorer(fit(FAMILIES["logistic"].build(KINDS, SEED), small_data.matrix[:320], small_data.labels[:320]))
    scores = judged.score(small_data.matrix[320:])
    rate = float(small_data.labels[:320].mean())
    newest = small_data.labels[320:]
    by_hand = measure(HoldOut(scores, newest, rate), small_data.event_time_ms[320:], 0.5)
    assert trained.manifest.metrics == by_hand
    assert by_hand.constant_log_loss == pytest.approx(log_loss(newest, np.full(80, rate)))
    assert trained.hold_out.scores.tobytes() == scores.tobytes()
    assert (trained.hold_out.labels.tolist(), trained.hold_out.rate) == (newest.tolist(), rate)
    assert (trained.manifest.metrics.n, trained.manifest.metrics.from_ms) == (80, 320_000)


def test_the_released_model_is_fitted_on_all_rows(trained: TrainedModel, small_data: Any) -> None:
    whole = make_scorer(fit(FAMILIES["logistic"].build(KINDS, SEED), small_data.matrix, small_data.labels))
    assert whole.score(small_data.matrix).tobytes() == trained.scorer.score(small_data.matrix).tobytes()


def test_the_order_of_the_rows_does_not_matter(
    trained: TrainedModel, small_data: Any, small_pipeline: Pipeline
) -> None:
    order = np.random.default_rng(3).permutation(400)
    again = train_small(
        small_pipeline,
        small_data,
        matrix=small_data.matrix[order],
        labels=small_data.labels[order],
        event_time_ms=small_data.event_time_ms[order],
    )
    assert again.artifact == trained.artifact
    assert again.manifest.to_bytes() == trained.manifest.to_bytes()


def test_events_of_one_time_are_on_one_side_of_the_hold_out(small_data: Any, small_pipeline: Pipeline) -> None:
    times = small_data.event_time_ms.copy()
    times[300:350] = times[300]
    metrics = train_small(small_pipeline, small_data, event_time_ms=times).manifest.metrics
    assert (metrics.n, metrics.from_ms) == (100, times[300])


def test_the_reference_has_scores_of_rows_that_the_scoring_model_had_not_seen(
    trained: TrainedModel, small_data: Any
) -> None:
    reference = trained.manifest.read_reference()
    score = reference.metrics[reference.names.index("score")]
    labels, rows = small_data.labels, small_data.matrix
    unseen = np.empty(400)
    for part in (slice(0, 160), slice(160, 320)):
        others = np.ones(400, dtype=bool)
        others[part] = False
        unseen[part] = make_scorer(fit(FAMILIES["logistic"].build(KINDS, SEED), rows[others], labels[others])).score(
            rows[part]
        )
    unseen[320:] = make_scorer(fit(FAMILIES["logistic"].build(KINDS, SEED), rows[:320], labels[:320])).score(rows[320:])
    assert reference.n == 400
    assert reference.minima[-2] == unseen.min()
    assert reference.maxima[-2] == unseen.max()
    grid = np.linspace(0, 1, GRID + 1)
    assert set(score.edges) <= {*unseen, np.nextafter(unseen.max(), 2), *grid}


def test_golden_rows_hold_the_edges(trained: TrainedModel) -> None:
    rows = trained.manifest.golden.matrix
    assert len(rows) >= 32
    assert np.isnan(rows).all(axis=1).any()
    assert {3.0, -1.0, 0.5} <= set(rows[:, 1])
    assert {-1e9, 1e9} <= set(rows[:, 0])
    assert trained.scorer.score(rows).tolist() == list(trained.manifest.golden.scores)


def test_golden_rows_of_a_feature_that_was_never_there_or_infinite_are_missing(trained: TrainedModel) -> None:
    matrix = np.full((100, 3), np.nan)
    matrix[:, 0] = np.inf
    rows = choose_golden_rows(matrix, trained.manifest.signature.features)
    assert not np.isinf(rows).any()
    assert len(rows) >= 32


@pytest.mark.slow
def test_a_feature_that_was_never_there_in_training_does_not_stop_it(small_data: Any, small_pipeline: Pipeline) -> None:
    matrix = small_data.matrix.copy()
    matrix[:, 2] = np.nan
    for family in FAMILIES:
        retrained = train_small(small_pipeline, small_data, matrix=matrix, family=family)
        rows = matrix.copy()
        rows[:, 2] = 5.0
        assert retrained.scorer.score(rows).tobytes() == retrained.scorer.score(matrix).tobytes()


def test_golden_rows_are_real_ones_of_all_times_and_the_edges_of_each_feature() -> None:
    features = (FeatureSpec("x", "float"), FeatureSpec("kind", "category", ("a", "b", "c")), FeatureSpec("n", "int"))
    order = np.arange(500.0)
    matrix = np.column_stack([order, order % 3, 1000.0 - order])
    matrix[7, 0], matrix[9, 2], matrix[11, 0] = np.inf, -np.inf, np.nan
    rows = choose_golden_rows(matrix, features)
    real, edges = rows[:32], rows[32:]
    at = (1000 - real[:, 2]).astype(int)
    assert np.array_equal(real, matrix[at])
    assert (at[0], at[-1]) == (0, 499)
    assert set(np.diff(at)) == {16, 17}
    nan, (x, kind, n) = np.nan, matrix[at[16]]
    expected = [
        [0.0, 0.0, 501.0],
        [499.0, 2.0, 1000.0],
        [-1e9, kind, -1e9],
        [1e9, kind, 1e9],
        [0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0],
        [nan, nan, nan],
        [x, nan, n],
        [nan, kind, nan],
        [x, 3.0, n],
        [x, -1.0, n],
        [x, 0.5, n],
    ]
    assert np.array_equal(edges, np.array(expected), equal_nan=True)


def test_a_hundred_rows_are_enough_and_everything_asked_for_is_in_the_manifest(
    small_data: Any, small_pipeline: Pipeline
) -> None:
    pipeline = dataclasses.replace(
        small_pipeline,
        model=dataclasses.replace(small_pipeline.model, threshold=0.3),
        drift=dataclasses.replace(small_pipeline.drift, bins=8),
    )

    def train_first(n: int, **options: Any) -> TrainedModel:
        training = TrainingRange(small_data.take(slice(n)), 3, 400_001)
        return train(training, pipeline, "logistic", version="2.3.4", created_at_ms=7, **options)

    with pytest.raises(TrainingError, match="99 labelled events"):
        train_first(99)
    told: list[str] = []
    retrained = train_first(103, parent="1.0.0", progress=told.append)
    manifest, reference = retrained.manifest, retrained.manifest.read_reference()
    assert len(told) == 4
    assert "82 of 103" in told[0]
    assert (manifest.version, manifest.parent, manifest.created_at_ms) == ("2.3.4", "1.0.0", 7)
    training, metrics = manifest.training, manifest.metrics
    assert (training.from_ms, training.to_ms, training.rows, training.labelled_rows) == (3, 400_001, 103, 103)
    assert (metrics.n, metrics.from_ms, metrics.to_ms) == (21, 82_000, 102_000)
    assert manifest.artifact == Artifact(
        "skops", hashlib.sha256(retrained.artifact).hexdigest(), len(retrained.artifact)
    )
    assert reference.threshold == 0.3
    judged = make_scorer(fit(FAMILIES["logistic"].build(KINDS, SEED), small_data.matrix[:82], small_data.labels[:82]))
    right = (judged.score(small_data.matrix[82:103]) >= 0.3) == small_data.labels[82:103]
    assert metrics.accuracy == right.mean()
    assert [(metric.name, metric.kind, metric.codes, metric.values) for metric in reference.metrics[:3]] == [
        ("amount", "numeric", 0, ()),
        ("colour", "category", 4, ("red", "green", "blue")),
        ("items", "numeric", 0, ()),
    ]
    assert len(reference.metrics[0].edges) == 7
    assert reference.segments == {}
    assert train_first(100).manifest.training.rows == 100


def test_a_value_that_is_in_no_vocabulary_is_fitted_as_missing_and_counted_as_itself(
    trained: TrainedModel, small_data: Any, small_pipeline: Pipeline
) -> None:
    matrix = small_data.matrix.copy()
    gone = np.flatnonzero(np.isnan(matrix[:, 1]))
    matrix[gone[::2], 1] = 3.0
    retrained = train_small(small_pipeline, small_data, matrix=matrix)
    assert retrained.artifact == trained.artifact
    counts = retrained.manifest.read_reference().counts[1, :5].tolist()
    assert counts[3:] == [len(gone[::2]), len(gone[1::2])]
    rows = np.array([[50.0, 3.0, 1.0], [50.0, np.nan, 1.0]])
    assert len(set(retrained.scorer.score(rows).tolist())) == 1


def test_the_libraries_are_those_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = read_libraries()
    assert libraries["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("numpy", "scikit-learn", "skops"):
        assert libraries[name] == metadata.version(name)
    version = metadata.version

    def version_without_ours(name: str) -> str:
        if name == "streamgauge":
            raise metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(metadata, "version", version_without_ours)
    assert read_libraries() == {**libraries, "streamgauge": "source"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda data: {"matrix": data.matrix[:, :2]}, "not the pipeline's 3 features"),
        (lambda data: {"event_time_ms": data.event_time_ms[1:]}, "do not fit together"),
        (
            lambda data: {
                "matrix": data.matrix[:50],
                "labels": data.labels[:50],
                "event_time_ms": data.event_time_ms[:50],
            },
            "at least 100",
        ),
        (lambda data: {"labels": data.labels + 1}, "neither 0 nor 1"),
        (lambda _: {"labels": np.full(400, np.nan)}, "neither 0 nor 1"),
        (lambda _: {"labels": np.zeros(400)}, "needs both outcomes"),
        (lambda _: {"labels": (np.arange(400) >= 320) * 1.0}, "needs both outcomes"),
        (lambda _: {"labels": (np.arange(400) < 100) * 1.0}, "one part of the time range"),
        (lambda _: {"event_time_ms": np.zeros(400, dtype=np.int64)}, "one and the same time"),
        (lambda _: {"family": "forest"}, "known are hgb, logistic"),
    ],
)
def test_data_that_no_model_can_be_made_of_is_refused_in_one_sentence(
    small_data: Any, small_pipeline: Pipeline, changes: Any, words: str
) -> None:
    with pytest.raises(TrainingError, match=words):
        train_small(small_pipeline, small_data, **changes(small_data))


def test_measures_of_a_hold_out_are_scikit_learns() -> None:
    rng = np.random.default_rng(8)
    scores = np.append(rng.random(200), [0.0, 1.0, 0.4])
    labels = np.append((rng.random(200) < scores[:200]).astype(float), [1.0, 0.0, 1.0])  # two that are surely wrong
    metrics = measure(HoldOut(scores, labels, 0.5), np.arange(5, 208), 0.4)
    assert metrics.log_loss == pytest.approx(log_loss(labels, np.clip(scores, 1e-15, 1 - 1e-15)), rel=1e-2)
    assert metrics.accuracy == accuracy_score(labels, scores >= 0.4)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, scores))
    assert (metrics.n, metrics.from_ms, metrics.to_ms) == (203, 5, 207)


def test_what_is_surely_wrong_costs_as_much_as_one_of_a_thousand_million_million() -> None:
    metrics = measure(HoldOut(np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0]), 0.5), np.arange(3), 0.5)
    assert metrics.log_loss == pytest.approx(-2 * np.log(1e-15) / 3, rel=1e-9)


def test_a_few_positives_beside_each_part_are_enough(small_data: Any, small_pipeline: Pipeline) -> None:
    labels = np.zeros(400)
    labels[[*range(10, 15), *range(250, 255)]] = 1.0
    metrics = train_small(small_pipeline, small_data, labels=labels).manifest.metrics
    assert (metrics.n, metrics.auc) == (80, None)


@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_fewer_than_ten_of_either_label_are_refused(small_data: Any, small_pipeline: Pipeline, rare: float) -> None:
    labels = np.full(400, 1 - rare)
    labels[10:319:35] = rare
    assert (labels == rare).sum() == 9
    with pytest.raises(TrainingError, match=f"400 labelled events 9 are {'positive' if rare else 'negative'}"):
        train_small(small_pipeline, small_data, labels=labels)
    labels[12] = rare
    assert train_small(small_pipeline, small_data, labels=labels).manifest.training.labelled_rows == 400


def test_young_rows_are_fitted_on_by_weight_and_are_in_nothing_else(
    trained: TrainedModel, small_data: Any, small_pipeline: Pipeline
) -> None:
    """Weights of whole numbers are repetitions."""
    rng = np.random.default_rng(4)
    young = WeighedRows(
        small_data.matrix[:30], 1 - small_data.labels[:30], np.arange(400, 430) * 1000, rng.integers(1, 4, 30) * 1.0
    )
    facts = LabelFacts(500_000, 1_000, 50, 40, 7, 30)
    retrained = train_small(small_pipeline, small_data, young=young, label_facts=facts)
    repeated = np.repeat(np.arange(30), young.weights.astype(int))
    rows = np.concatenate([small_data.matrix, young.matrix[repeated]])
    by_hand = fit(
        FAMILIES["logistic"].build(KINDS, SEED), rows, np.concatenate([small_data.labels, young.labels[repeated]])
    )
    # The scaler counts each row once, whatever its weight: the optimum is the same, but for the penalty's size.
    assert retrained.scorer.score(small_data.matrix) == pytest.approx(
        make_scorer(by_hand).score(small_data.matrix), abs=2e-2
    )
    before, now = trained.manifest, retrained.manifest
    assert now.training.label_facts == facts
    assert now.training.sha256 != before.training.sha256
    assert (now.metrics, now.reference, now.training.labelled_rows) == (before.metrics, before.reference, 400)
    assert retrained.scorer.score(small_data.matrix).tobytes() != trained.scorer.score(small_data.matrix).tobytes()
    assert Manifest.from_bytes(now.to_bytes()) == now


def test_a_manifest_from_before_labels_were_told_apart_can_be_read(trained: TrainedModel) -> None:
    form = json.loads(trained.manifest.to_bytes())
    del form["training"]["label_facts"]
    assert Manifest.from_bytes(json.dumps(form).encode()) == trained.manifest
    assert trained.manifest.training.label_facts is None


def test_a_manifest_from_before_the_measures_had_something_beside_them_can_be_read(trained: TrainedModel) -> None:
    form = json.loads(trained.manifest.to_bytes())
    del form["metrics"]["positives"], form["metrics"]["constant_log_loss"]
    read = Manifest.from_bytes(json.dumps(form).encode())
    assert (read.metrics.positives, read.metrics.constant_log_loss) == (None, None)
    assert read.metrics.log_loss == trained.manifest.metrics.log_loss


def test_a_family_that_cannot_weigh_rows_says_so(
    small_data: Any, small_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any) -> SklearnPipeline:
        return SklearnPipeline([("model", KNeighborsClassifier())])

    monkeypatch.setitem(FAMILIES, "neighbours", Family("neighbours", "the nearest rows", build))
    young = WeighedRows(small_data.matrix[:1], small_data.labels[:1], np.zeros(1, np.int64), np.ones(1))
    with pytest.raises(TrainingError, match="neighbours models cannot weigh rows; leave young events out"):
        train_small(small_pipeline, small_data, young=young, family="neighbours")


def test_a_tail_of_one_class_has_no_auc() -> None:
    metrics = measure(HoldOut(np.array([0.25, 0.5]), np.zeros(2), 0.5), np.arange(2), 0.5)
    assert metrics.auc is None
    assert metrics.accuracy == 0.5
    assert metrics.log_loss == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)


def test_only_the_time_of_making_differs_between_two_trainings(trained: TrainedModel) -> None:
    later = replace(trained.manifest, created_at_ms=2)
    assert later.digest != trained.manifest.digest
    assert replace(later, created_at_ms=1_000_000).digest == trained.manifest.digest


def test_a_reference_knows_of_which_share_of_the_events_it_is(small_data: Any, small_pipeline: Pipeline) -> None:
    """Of four events one has a label: what resembles each other in a window is four times as many."""
    alike = np.repeat(small_data.matrix[::8], 8, axis=0)
    labels = np.resize(small_data.labels, len(alike))
    facts = LabelFacts(500_000, 1_000, 0, 0, 3 * len(alike))

    def effects(**more: Any) -> np.ndarray:
        written = train_small(small_pipeline, small_data, matrix=alike, labels=labels, **more).manifest.reference
        return np.array([each["design_effect"] for each in written["metrics"][:-1]])

    alone = effects()
    assert alone.max() > 2
    assert effects(label_facts=facts) - 1 == pytest.approx(4 * (alone - 1))
