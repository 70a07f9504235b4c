"""Train a model version: fit, judge on the newest rows, refit on all, and say in a manifest what was done.

The same rows, family and seed give the same artifact bytes and the same manifest except its time: rows are put in
order of event time, seeds are fixed, and fitting runs on one BLAS thread (the trees' OpenMP threads do not change their
result).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.hold_out import HoldOut
from models.reference.fit import fit_reference
from models.reference.segments import Segments
from models.reference.spans import memories_of, span_of
from models.scoring.families import FAMILIES, FeatureKind, fit, takes_weights
from models.scoring.scorer import Scorer, make_scorer
from models.versions import artifact
from models.versions.golden import choose_golden_rows
from models.versions.manifest import (
    Artifact,
    FeatureSpec,
    GoldenRows,
    LabelFacts,
    Manifest,
    Metrics,
    Signature,
    TrainingData,
    digest_training_data,
)
from models.weights import WeighedRows

if TYPE_CHECKING:
    from models.reference.reference import Reference
    from schemas.pipeline.spec import Pipeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[str], None]

#: The newest share of the rows, which judges the model.
HOLD_OUT_SHARE = 0.2
#: Fewer rows than this cannot say anything about a model, nor fill its reference.
FEWEST_ROWS = 100
#: Fewer positives (or negatives) than this do not calibrate a score: their rate is known to within 62 % of itself.
FEWEST_OF_A_LABEL = 10
SEED = 20130101


class TrainingError(ValueError):
    """Training data that no model can be made of; one sentence that says what to do."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A fitted version, ready to register: estimator, scorer, manifest, the artifact's bytes, and what judged it."""

    estimator: Any
    scorer: Scorer
    manifest: Manifest
    artifact: bytes
    hold_out: HoldOut


def train(
    matrix: Floats,
    labels: Floats,
    event_time_ms: Ints,
    pipeline: Pipeline,
    family: str,
    *,
    version: str,
    from_ms: int,
    to_ms: int,
    created_at_ms: int,
    event_rows: int | None = None,
    young: WeighedRows | None = None,
    label_facts: LabelFacts | None = None,
    parent: str | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """Train one version of the pipeline's model.

    Parameters
    ----------
    matrix
        Labelled events x features, columns in the pipeline's order; NaN is missing, a category is its code, and a code
        past its vocabulary is a value that is not in it.
    labels
        0 or 1 for each row.
    event_time_ms
        Of each row; rows may come in any order, and those of equal times keep theirs.
    family
        A key of `models.scoring.families.FAMILIES`.
    from_ms, to_ms
        The half-open range of event time that was asked for.
    created_at_ms
        Now, as the caller's clock has it.
    event_rows
        Events in the range, those without a label included; None: as many as rows.
    young
        Events whose labels have not all come, fitted on by weight beside the others; they judge nothing, and are in no
        reference.
    label_facts
        What was known of the labels, for the manifest.
    parent
        The version that this one is to follow.
    progress
        Is told, in a few words, what comes next.

    Raises
    ------
    TrainingError
        When there are fewer than 100 rows, fewer than 10 of either label, labels other than 0 and 1, or a family that
        takes no weights for rows that have some.
    """
    say = progress or (lambda _: None)
    signature = make_signature(pipeline)
    matrix, labels, event_time_ms = _in_time_order(matrix, labels, event_time_ms, len(signature.features))
    cut = _find_cut(event_time_ms)
    _check_classes(labels, cut)
    build = _builder(family, signature)
    if young is not None and not takes_weights(build()):
        raise TrainingError(f"{family} models cannot weigh rows; leave young events out, or take another family.")

    say(f"fitting on the first {cut:,} of {len(matrix):,} rows")
    known = signature.vocabularies.unseen_as_missing(matrix)
    judged = fit(build(), known[:cut], labels[:cut])
    tail = HoldOut(make_scorer(judged).score(known[cut:]), labels[cut:], float(labels[:cut].mean()))
    metrics = measure(tail, event_time_ms[cut:], pipeline.model.threshold)
    say("scoring the rest as unseen rows, for the reference")
    unseen_scores = np.concatenate([_score_unseen(build, known, labels, cut), tail.scores])

    say(f"fitting on all {len(matrix):,} rows")
    fitted_on, fitted_labels, fitted_times, weights = matrix, labels, event_time_ms, None
    if young is not None:
        say(f"… and by weight on {len(young.labels):,} young ones")
        fitted_on, fitted_labels, weights = _beside(matrix, labels, young)
        fitted_times = np.concatenate([event_time_ms, young.event_time_ms])
    estimator = fit(build(), signature.vocabularies.unseen_as_missing(fitted_on), fitted_labels, weights)
    scorer = make_scorer(estimator, signature.vocabularies)
    kind, data = artifact.save(estimator)
    say("making the reference and the golden rows")
    golden = choose_golden_rows(matrix, signature.features)
    n_unlabelled = label_facts.unlabelled_rows if label_facts is not None else 0
    share = len(matrix) / (len(matrix) + n_unlabelled)
    reference = make_reference(pipeline, matrix, unseen_scores, labels, event_time_ms, labelled_share=share)
    manifest = Manifest(
        model=pipeline.model.name,
        version=version,
        family=family,
        target=pipeline.model.target,
        signature=signature,
        feature_set=pipeline.feature_set,
        training=TrainingData(
            from_ms=from_ms,
            to_ms=to_ms,
            rows=len(matrix) if event_rows is None else event_rows,
            labelled_rows=len(matrix),
            positive_share=float(labels.mean()),
            sha256=digest_training_data(fitted_on, fitted_labels, fitted_times),
            label_facts=label_facts,
        ),
        libraries=read_libraries(),
        metrics=metrics,
        golden=GoldenRows.of(golden, scorer.score(golden)),
        artifact=Artifact(kind, hashlib.sha256(data).hexdigest(), len(data)),
        created_at_ms=created_at_ms,
        reference=json.loads(reference.to_json()),
        parent=parent,
    )
    manifest.check()
    return TrainedModel(estimator, scorer, manifest, data, tail)


def make_reference(
    pipeline: Pipeline,
    matrix: Floats,
    scores: Floats,
    labels: Floats,
    event_time_ms: Ints,
    *,
    labelled_share: float = 1.0,
) -> Reference:
    """Fit the reference of a version of a pipeline on its events; see `fit_reference`.

    Parameters
    ----------
    matrix, scores, labels, event_time_ms
        Of the events, in the order of time.
    labelled_share
        What share these are of the events that were old enough; the others have no label.
    """
    features = pipeline.features
    vocabularies = {feature.name: feature.values for feature in features if feature.type == "category"}
    return fit_reference(
        matrix,
        [feature.name for feature in features],
        ["category" if feature.type == "category" else "numeric" for feature in features],
        {name: len(values) + 1 for name, values in vocabularies.items()},
        scores,
        labels,
        pipeline.drift.bins,
        pipeline.model.threshold,
        vocabularies=vocabularies,
        segments=Segments.of(pipeline),
        span=span_of(pipeline, event_time_ms),
        memories=memories_of(pipeline),
        times_ms=event_time_ms,
        share=labelled_share,
    )


def make_signature(pipeline: Pipeline) -> Signature:
    """Return the signature of the models of a pipeline: its features, in order."""
    return Signature(tuple(FeatureSpec(feature.name, feature.type, feature.values) for feature in pipeline.features))


def measure(judged: HoldOut, event_time_ms: Ints, threshold: float) -> Metrics:
    """Measure the scores of a hold-out against its labels (0 or 1).

    Examples
    --------
    Three of four decisions are right, and 3 of the 4 pairs of a positive and a negative are in order:

    >>> judged = HoldOut(np.array([0.2, 0.6, 0.5, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]), 0.5)
    >>> found = measure(judged, np.arange(4), 0.5)
    >>> found.accuracy, found.auc, found.n
    (0.75, 0.75, 4)
    """
    scores, labels = judged.scores, judged.labels
    has_both = 0 < labels.sum() < len(labels)
    return Metrics(
        auc=float(roc_auc_score(labels, scores)) if has_both else None,
        log_loss=judged.log_loss,
        accuracy=float(((scores >= threshold) == (labels == 1)).mean()),
        n=len(labels),
        from_ms=int(event_time_ms[0]),
        to_ms=int(event_time_ms[-1]),
        positives=int(labels.sum()),
        constant_log_loss=judged.constant_log_loss,
    )


def read_libraries() -> dict[str, str]:
    """Return the versions that a fitted model depends on, as they are installed here."""
    libraries = {name: metadata.version(name) for name in ("numpy", "scikit-learn", "skops")}
    try:
        libraries["streamgauge"] = metadata.version("streamgauge")
    except metadata.PackageNotFoundError:
        libraries["streamgauge"] = "source"
    return {"python": platform.python_version(), **libraries}


def _builder(family: str, signature: Signature) -> Callable[[], Any]:
    if family not in FAMILIES:
        raise TrainingError(f"{family!r} is not a model family; known are {', '.join(FAMILIES)}.")
    kinds = [FeatureKind(feature.type, len(feature.values)) for feature in signature.features]
    return lambda: FAMILIES[family].build(kinds, SEED)


def _score_unseen(build: Callable[[], Any], matrix: Floats, labels: Floats, cut: int) -> Floats:
    """Score the rows before the hold-out by models that have not seen them: each half by one fitted on all the others.

    A model is too sure of the rows it was fitted on, and a reference of such scores would call every stream drifted.
    """
    half = cut // 2
    scores = np.empty(cut)
    for rows in (slice(0, half), slice(half, cut)):
        others = np.ones(len(matrix), dtype=bool)
        others[rows] = False
        if not 0 < labels[others].sum() < others.sum():
            raise TrainingError("All positive labels lie in one part of the time range; train on a longer range.")
        scores[rows] = make_scorer(fit(build(), matrix[others], labels[others])).score(matrix[rows])
    return scores


def _beside(matrix: Floats, labels: Floats, young: WeighedRows) -> tuple[Floats, Floats, Floats]:
    """Matrix, labels and weights of rows that count once, and of those that are weighed."""
    weights = np.concatenate([np.ones(len(labels)), young.weights])
    return np.concatenate([matrix, young.matrix]), np.concatenate([labels, young.labels]), weights


def _in_time_order(matrix: Floats, labels: Floats, event_time_ms: Ints, width: int) -> tuple[Floats, Floats, Ints]:
    if matrix.ndim != 2 or matrix.shape != (len(labels), width) or len(event_time_ms) != len(labels):
        raise TrainingError(
            f"A matrix of shape {matrix.shape}, {len(labels)} labels, {len(event_time_ms)} times do not fit together "
            f"or not the pipeline's {width} features; build them with this pipeline."
        )
    if len(labels) < FEWEST_ROWS:
        raise TrainingError(f"There are {len(labels)} labelled events in the range; train on at least {FEWEST_ROWS}.")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise TrainingError("Some labels are neither 0 nor 1; the models here are binary classifiers.")
    for label, name in ((1, "positive"), (0, "negative")):
        n = int((labels == label).sum())
        if n < FEWEST_OF_A_LABEL:
            raise TrainingError(
                f"Of {len(labels):,} labelled events {n} are {name}; a model needs both outcomes, and with fewer than"
                f" {FEWEST_OF_A_LABEL} of one nobody can say what a score means: train on a longer range."
            )
    order = np.argsort(event_time_ms, kind="stable")
    return matrix[order], labels[order], event_time_ms[order]


def _find_cut(event_time_ms: Ints) -> int:
    """Return where the hold-out begins; events of one time stay together, so that no time is on both sides."""
    at = len(event_time_ms) - round(HOLD_OUT_SHARE * len(event_time_ms))
    cut = int(np.searchsorted(event_time_ms, event_time_ms[at], side="left"))
    if cut == 0:
        raise TrainingError("More than 80 % of the events have one and the same time; train on a longer range.")
    return cut


def _check_classes(labels: Floats, cut: int) -> None:
    positives = int(labels[:cut].sum())
    if not 0 < positives < cut:
        raise TrainingError(
            f"Of the first {cut:,} events {positives:,} are positive; a model needs both outcomes: train on a longer"
            " range."
        )
