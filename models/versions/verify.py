"""Verify a model version before it may score: what a worker does with every version that is announced.

In this order, so that nothing is parsed before it is known to be what the manifest names: manifest, feature set,
signature, libraries, size and digest; then, in a child process with limited memory and time (`models.versions.trial`),
loading, the golden rows and a batch of the largest size; then the same in this process. A file that is crafted to crash
at predict ends the child, and is refused; so is a model that takes too long, which nobody could end here. This process
goes on.

Golden rows agree when no score differs by more than 1e-12. On the machine and libraries of training they are equal bit
for bit (`VerifiedModel.is_bit_equal` says whether); another processor's exp may differ in its last bit, which does not
make it another model.

``python -m models.versions.verify`` is that child.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from models.scoring.scorer import Scorer, make_scorer
from models.versions.artifact import ArtifactError, check_bytes, load
from models.versions.manifest import Manifest, ManifestError
from models.versions.trial import LIMITS, Trial, TrialLimits, TrialResult, serve

GOLDEN_TOLERANCE = 1e-12
WARM_UP_BATCHES = (1, 100, 5000)
#: Each size is tried a few times as long as the warm-up has not taken longer than this.
_WARM_UP_S = 2.0


class RefusedModelError(Exception):
    """A model version that may not score.

    ``reason``: manifest, model, feature_set, signature, incompatible, size, digest, format, untrusted, load, golden,
    not_finite, crash, timeout, memory, no_trial (the process that tries it is gone, which says nothing of the version).
    ``detail``: one sentence.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, eq=False)
class VerifiedModel:
    """A loaded and warm version that gave its golden scores.

    ``latency_us`` maps batch sizes to microseconds a batch (the best of a few). ``is_bit_equal``: the golden scores
    came out to the bit.
    """

    manifest: Manifest
    estimator: Any
    scorer: Scorer
    is_bit_equal: bool
    latency_us: dict[int, float]
    seconds: float


@dataclass(frozen=True)
class Expected:
    """What a version has to be to serve here. None: not compared.

    Parameters
    ----------
    feature_set
        The digest of the features that this process computes.
    names
        The names of these features, in order.
    model
        Model and version.
    sha256
        The digest of the artifact.
    """

    feature_set: str
    names: tuple[str, ...] | None = None
    model: tuple[str, str] | None = None
    sha256: str | None = None

    def check(self, manifest: Manifest) -> None:
        """RefusedModelError for another version, by its manifest alone."""
        if self.model is not None and (manifest.model, manifest.version) != self.model:
            raise RefusedModelError(
                "model",
                f"Expected is {self.model[0]} {self.model[1]}, and this is {manifest.model} {manifest.version}.",
            )
        if self.sha256 is not None and manifest.artifact.sha256 != self.sha256:
            raise RefusedModelError(
                "digest",
                f"The update announces artifact {self.sha256[:12]}… and the manifest names"
                f" {manifest.artifact.sha256[:12]}….",
            )
        if manifest.feature_set != self.feature_set:
            raise RefusedModelError(
                "feature_set",
                f"It was trained on feature set {manifest.feature_set}, and this pipeline has {self.feature_set}: train"
                " again.",
            )
        if self.names is not None and self.names != manifest.signature.names:
            raise RefusedModelError(
                "signature", "Its features are not this pipeline's, or not in this order: train a version for it."
            )


def verify(
    manifest: Manifest | bytes,
    artifact_bytes: bytes,
    expected: Expected,
    *,
    allow_joblib: bool = False,
    in_child: bool = True,
    trial: Trial | None = None,
    limits: TrialLimits = LIMITS,
) -> VerifiedModel:
    """Load a version and prove that it is what its manifest says. Takes seconds: call it off the event loop.

    Parameters
    ----------
    manifest, artifact_bytes
        As `models.versions.registry.resolve` gives them.
    in_child
        False skips the child process, for bytes that this process has made itself.
    trial
        The child process; None: one for this call, which takes about two seconds to start.
    limits
        Of the child process.

    Raises
    ------
    RefusedModelError
        For anything that is wrong, with a one-word reason and a sentence.
    """
    started = time.perf_counter()
    try:
        checked = Manifest.from_bytes(manifest) if isinstance(manifest, bytes) else manifest
        checked.check()
    except ManifestError as error:
        raise RefusedModelError("manifest", str(error)) from error
    expected.check(checked)
    check_libraries(checked.libraries)
    try:
        check_bytes(artifact_bytes, checked.artifact.sha256)
        if checked.artifact.format != "skops" and not allow_joblib:
            load(artifact_bytes, checked.artifact.sha256, checked.artifact.format)
    except ArtifactError as error:
        raise RefusedModelError(error.reason, str(error)) from error
    if in_child:
        try:
            with nullcontext(trial) if trial is not None else Trial() as child:
                result = child.run(checked.to_bytes(), artifact_bytes, allow_joblib=allow_joblib, limits=limits)
        except OSError as error:
            raise RefusedModelError("no_trial", f"The process that tries it could not start: {error}.") from error
        if result.reason:
            raise RefusedModelError(result.reason, result.detail)
    estimator, scorer, is_bit_equal = _load_and_compare(checked, artifact_bytes, allow_joblib)
    latency_us = _warm_up(checked, scorer, tries=3)
    return VerifiedModel(checked, estimator, scorer, is_bit_equal, latency_us, time.perf_counter() - started)


def check_libraries(libraries: Mapping[str, str]) -> None:
    """Refuse a model that was fitted with another major.minor of scikit-learn: estimators do not carry over."""
    made_with, here = libraries.get("scikit-learn", "none"), metadata.version("scikit-learn")
    if made_with.split(".")[:2] != here.split(".")[:2]:
        raise RefusedModelError(
            "incompatible",
            f"It was fitted with scikit-learn {made_with} and here is {here}: train it again, or install the other.",
        )


def _load_and_compare(manifest: Manifest, artifact_bytes: bytes, allow_joblib: bool) -> tuple[Any, Scorer, bool]:
    try:
        estimator = load(artifact_bytes, manifest.artifact.sha256, manifest.artifact.format, allow_joblib=allow_joblib)
    except ArtifactError as error:
        raise RefusedModelError(error.reason, str(error)) from error
    width = len(manifest.signature.features)
    if getattr(estimator, "n_features_in_", width) != width:
        raise RefusedModelError(
            "signature", f"The artifact takes {estimator.n_features_in_} features, the manifest has {width}."
        )
    try:
        scorer = make_scorer(estimator, manifest.signature.vocabularies)
        scores = scorer.score(manifest.golden.matrix)
    except MemoryError:
        raise
    except Exception as error:  # whatever a wrong estimator raises, the answer is the same
        raise RefusedModelError("golden", f"The model cannot score its golden rows: {error}") from error
    expected = np.array(manifest.golden.scores)
    if not (np.isfinite(scores).all() and np.isfinite(expected).all()):
        raise RefusedModelError("not_finite", "A score of the golden rows is not a finite number.")
    difference = np.abs(scores - expected)
    worst = int(difference.argmax())
    if difference[worst] > GOLDEN_TOLERANCE:
        raise RefusedModelError(
            "golden",
            f"Golden row {worst} scores {scores[worst]:.17g} and not {expected[worst]:.17g}: not what was registered.",
        )
    return estimator, scorer, bool(np.array_equal(scores, expected))


def _warm_up(manifest: Manifest, scorer: Scorer, tries: int) -> dict[int, float]:
    """Microseconds a batch, by size: each is scored once, and again while there is time."""
    golden = manifest.golden.matrix
    latency_us = {}
    until = time.perf_counter() + _WARM_UP_S
    for size in WARM_UP_BATCHES:
        batch = np.resize(golden, (size, golden.shape[1]))
        best = float("inf")
        for number in range(tries):
            started = time.perf_counter()
            if number and started > until:
                break
            scorer.score(batch)
            best = min(best, time.perf_counter() - started)
        latency_us[size] = best * 1e6
    return latency_us


def _judge(manifest: bytes, artifact_bytes: bytes, allow_joblib: bool) -> TrialResult:
    """What the process of a `Trial` says of an artifact."""
    try:
        checked = Manifest.from_bytes(manifest)
        _, scorer, _ = _load_and_compare(checked, artifact_bytes, allow_joblib)
        _warm_up(checked, scorer, tries=1)
    except ManifestError as error:
        return TrialResult("manifest", str(error))
    except RefusedModelError as refusal:
        return TrialResult(refusal.reason, refusal.detail)
    return TrialResult()


if __name__ == "__main__":
    import skops.io  # noqa: F401  # what artifacts need: better loaded once than in each fork

    import models.scoring.families  # noqa: F401

    serve(_judge)
