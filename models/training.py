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
from models.reference.as_json import to_json
from models.reference.fit import fit_reference
from models.reference.segments import Segments
from models.reference.spans import memories_of, span_of
from models.reference.training_events import FeatureColumn, TrainingEvents
from models.scoring.families import FAMILIES, FeatureKind, fit, takes_weights
from models.scoring.scorer import Scorer, make_scorer
from models.versions import artifact
from models.versions.golden import choose_golden_rows
from models.versions.manifest import (
    Artifact,
    FeatureSpec,
    GoldenRows,
    Manifest,
    Metrics,
    Signature,
)

if TYPE_CHECKING:
    from models.reference.reference import Reference
    from models.training_rows import LabelledRows, TrainingRange
    from schemas.pipeline.spec import Feature, Pipeline

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
    training: TrainingRange,
    pipeline: Pipeline,
    family: str,
    *,
    version: str,
    created_at_ms: int,
    parent: str | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """Train one version of the pipeline's model.

    Parameters
    ----------
    training
        What it learns from.
    family
        A key of `models.scoring.families.FAMILIES`.
    created_at_ms
        The time now, by the caller's clock.
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
    _check_rows(training.rows, len(signature.features))
    training = training.in_time_order()
    rows, young = training.rows, training.young
    cut = _find_cut(rows.event_time_ms)
    earlier, newest = rows.take(slice(cut)), rows.take(slice(cut, None))
    _check_classes(earlier.labels)
    build = _builder(family, signature)
    if young is not None and not takes_weights(build()):
        raise TrainingError(f"{family} models cannot weigh rows; leave young events out, or take another family.")

    say(f"fitting on the first {cut:,} of {len(rows):,} rows")
    known = signature.vocabularies.unseen_as_missing(rows.matrix)
    judged = fit(build(), known[:cut], earlier.labels)
    hold_out = HoldOut(make_scorer(judged).score(known[cut:]), newest.labels, float(earlier.labels.mean()))
    metrics = measure(hold_out, newest.event_time_ms, pipeline.model.threshold)
    say("scoring the rest as unseen rows, for the reference")
    unseen_scores = np.concatenate([_score_unseen(build, known, rows.labels, cut), hold_out.scores])

    say(f"fitting on all {len(rows):,} rows")
    if young is not None:
        say(f"… and by weight on {len(young):,} young ones")
    fitted_on, weights = training.to_fit()
    estimator = fit(build(), signature.vocabularies.unseen_as_missing(fitted_on.matrix), fitted_on.labels, weights)
    scorer = make_scorer(estimator, signature.vocabularies)
    kind, data = artifact.save(estimator)
    say("making the reference and the golden rows")
    golden = choose_golden_rows(rows.matrix, signature.features)
    reference = make_reference(pipeline, rows, unseen_scores, labelled_share=training.labelled_share)
    manifest = Manifest(
        model=pipeline.model.name,
        version=version,
        family=family,
        target=pipeline.model.target,
        signature=signature,
        feature_set=pipeline.feature_set,
        training=training.describe(fitted_on),
        libraries=read_libraries(),
        metrics=metrics,
        golden=GoldenRows.of(golden, scorer.score(golden)),
        artifact=Artifact(kind, hashlib.sha256(data).hexdigest(), len(data)),
        created_at_ms=created_at_ms,
        reference=json.loads(to_json(reference)),
        parent=parent,
    )
    manifest.check()
    return TrainedModel(estimator, scorer, manifest, data, hold_out)


def make_reference(pipeline: Pipeline, rows: LabelledRows, scores: Floats, *, labelled_share: float = 1.0) -> Reference:
    """Fit the reference of a version of a pipeline on its events; see `fit_reference`.

    Parameters
    ----------
    rows
        The events, in the order of time.
    scores
        What the model says of each of them.
    labelled_share
        What share these are of the events that were old enough; the others have no label.
    """
    memories = memories_of(pipeline)
    columns = [_column(feature, memory) for feature, memory in zip(pipeline.features, memories, strict=True)]
    span = span_of(pipeline, rows.event_time_ms)
    events = TrainingEvents(rows.matrix, scores, rows.labels, rows.event_time_ms, span, labelled_share)
    return fit_reference(events, columns, pipeline.drift.bins, pipeline.model.threshold, Segments.of(pipeline))


def make_signature(pipeline: Pipeline) -> Signature:
    """Return the signature of the models of a pipeline: its features, in order."""
    return Signature(tuple(FeatureSpec(feature.name, feature.type, feature.values) for feature in pipeline.features))


def measure(judged: HoldOut, event_time_ms: Ints, threshold: float) -> Metrics:
    """Measure the scores of a hold-out against its labels (0 or 1).

    Examples
    --------
    Three of four decisions are right, and 3 of the 4 pairs of a positive and a negative are in order:

    >>> judged = HoldOut(np.array([0.2, 0.6, 0.5, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]), 0.5)
    >>> metrics = measure(judged, np.arange(4), 0.5)
    >>> metrics.accuracy, metrics.auc, metrics.n
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


def _column(feature: Feature, memory: float) -> FeatureColumn:
    if feature.type == "category":
        return FeatureColumn(feature.name, "category", len(feature.values) + 1, feature.values, memory)
    return FeatureColumn(feature.name, "numeric", memory=memory)


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


def _check_rows(rows: LabelledRows, width: int) -> None:
    matrix, labels, event_time_ms = rows.matrix, rows.labels, rows.event_time_ms
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


def _find_cut(event_time_ms: Ints) -> int:
    """Return where the hold-out begins; events of one time stay together, so that no time is on both sides."""
    at = len(event_time_ms) - round(HOLD_OUT_SHARE * len(event_time_ms))
    cut = int(np.searchsorted(event_time_ms, event_time_ms[at], side="left"))
    if cut == 0:
        raise TrainingError("More than 80 % of the events have one and the same time; train on a longer range.")
    return cut


def _check_classes(labels: Floats) -> None:
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise TrainingError(
            f"Of the first {len(labels):,} events {positives:,} are positive; a model needs both outcomes: train on a"
            " longer range."
        )
