"""Laws of the gates, in this process; the child process is in tests/integration/test_model_verify.py."""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from models.scoring.families import FAMILIES, FeatureKind, fit
from models.scoring.scorer import Scorer
from models.training import TrainedModel
from models.versions import artifact
from models.versions import verify as verify_module
from models.versions.manifest import Artifact, GoldenRows, Manifest
from models.versions.trial import Trial, TrialLimits, TrialResult
from models.versions.verify import Expected, RefusedModelError, VerifiedModel, verify


def check(manifest: Manifest | bytes, data: bytes, **options: Any) -> VerifiedModel:
    feature_set = options.pop("feature_set", None) or (manifest.feature_set if isinstance(manifest, Manifest) else "")
    expected = Expected(feature_set, options.pop("names", None), options.pop("model", None))
    return verify(manifest, data, expected, in_child=False, **options)


def refuse(manifest: Manifest | bytes, data: bytes, **options: Any) -> str:
    with pytest.raises(RefusedModelError) as refused:
        check(manifest, data, **options)
    assert "\n" not in refused.value.detail
    return refused.value.reason


def with_artifact(manifest: Manifest, estimator: Any) -> tuple[Manifest, bytes]:
    kind, data = artifact.save(estimator)
    return replace(manifest, artifact=Artifact(kind, hashlib.sha256(data).hexdigest(), len(data))), data


def test_what_was_trained_passes_to_the_bit_and_is_warm(trained: TrainedModel) -> None:
    verified = check(trained.manifest.to_bytes(), trained.artifact, feature_set=trained.manifest.feature_set)
    assert verified.is_bit_equal
    assert verified.manifest == trained.manifest
    assert set(verified.latency_us) == {1, 100, 5000}
    rows = trained.manifest.golden.matrix
    assert verified.scorer.score(rows).tobytes() == trained.scorer.score(rows).tobytes()


def test_each_identity_is_compared(trained: TrainedModel) -> None:
    manifest, data = trained.manifest, trained.artifact
    check(manifest, data, names=("amount", "colour", "items"), model=("shop-returns", "1.0.0"))
    assert refuse(manifest, data, feature_set="another") == "feature_set"
    Expected(manifest.feature_set, sha256=manifest.artifact.sha256).check(manifest)
    with pytest.raises(RefusedModelError, match="digest: The update announces"):
        Expected(manifest.feature_set, sha256="0" * 64).check(manifest)
    assert refuse(manifest, data, names=("colour", "amount", "items")) == "signature"
    assert refuse(manifest, data, model=("shop-returns", "2.0.0")) == "model"


def test_a_damaged_file_is_refused(trained: TrainedModel) -> None:
    assert refuse(trained.manifest, trained.artifact[:-1]) == "digest"
    assert refuse(trained.manifest, b"") == "digest"
    assert refuse(b"{}", trained.artifact, feature_set="x") == "manifest"


def test_another_minor_version_of_scikit_learn_is_refused_and_another_patch_is_not(trained: TrainedModel) -> None:
    here = trained.manifest.libraries["scikit-learn"]
    major, minor, *_ = here.split(".")
    patch = replace(trained.manifest, libraries={"scikit-learn": f"{major}.{minor}.999"})
    assert check(patch, trained.artifact).is_bit_equal
    for version in (f"{major}.{int(minor) + 1}.0", f"{int(major) + 1}.{minor}.0", ""):
        assert refuse(replace(patch, libraries={"scikit-learn": version}), trained.artifact) == "incompatible"
    assert refuse(replace(patch, libraries={}), trained.artifact) == "incompatible"


def test_another_model_under_the_same_manifest_is_refused_by_its_golden_rows(
    trained: TrainedModel, small_data: Any
) -> None:
    kinds = (FeatureKind("float"), FeatureKind("category", 3), FeatureKind("int"))
    other = fit(FAMILIES["logistic"].build(kinds, 0), small_data.matrix[:300], small_data.labels[:300])
    assert refuse(*with_artifact(trained.manifest, other)) == "golden"


def test_a_model_of_another_width_is_refused(trained: TrainedModel, small_data: Any) -> None:
    narrow = fit(FAMILIES["logistic"].build([FeatureKind("float")], 0), small_data.matrix[:, :1], small_data.labels)
    assert refuse(*with_artifact(trained.manifest, narrow)) == "signature"


def test_something_that_is_no_model_is_refused(trained: TrainedModel) -> None:
    assert refuse(*with_artifact(trained.manifest, {"weights": np.ones(3)})) == "golden"


@pytest.mark.parametrize(("difference", "passes"), [(1e-13, True), (1e-11, False)])
def test_golden_scores_may_differ_in_the_last_bits_only(trained: TrainedModel, difference: float, passes: bool) -> None:
    golden = trained.manifest.golden
    moved = GoldenRows(golden.rows, (golden.scores[0] + difference, *golden.scores[1:]))
    manifest = replace(trained.manifest, golden=moved)
    if passes:
        assert not check(manifest, trained.artifact).is_bit_equal
    else:
        assert refuse(manifest, trained.artifact) == "golden"


def test_a_model_that_cannot_score_a_missing_value_is_refused(trained: TrainedModel, small_data: Any) -> None:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # here alone

    plain = LogisticRegression().fit(np.nan_to_num(small_data.matrix), small_data.labels)
    assert refuse(*with_artifact(trained.manifest, plain)) == "not_finite"


def test_joblib_is_refused_unless_it_is_allowed(trained: TrainedModel) -> None:
    kind, data = artifact.save(trained.estimator, allow_joblib=True)
    manifest = replace(trained.manifest, artifact=Artifact(kind, hashlib.sha256(data).hexdigest(), len(data)))
    assert refuse(manifest, data) == "format"
    assert check(manifest, data, allow_joblib=True).is_bit_equal


class SameProcess(Trial):
    """A trial without a process of its own: the judge of that process is asked here, unless it is told what to say."""

    def __init__(self, says: TrialResult | None = None) -> None:
        self.says = says
        self.asked: list[Any] = []

    def run(self, manifest: bytes, artifact: bytes, **options: Any) -> TrialResult:
        self.asked.append((manifest, artifact, options))
        return self.says or verify_module._judge(manifest, artifact, options["allow_joblib"])


def test_the_trial_is_asked_with_all_that_it_needs_and_its_verdict_counts(trained: TrainedModel) -> None:
    manifest, data = trained.manifest, trained.artifact
    trial = SameProcess()
    assert verify(manifest, data, Expected(manifest.feature_set), trial=trial).is_bit_equal
    limits = TrialLimits(60.0, 2 * 2**30)
    assert trial.asked == [(manifest.to_bytes(), data, {"allow_joblib": False, "limits": limits})]
    trial = SameProcess(TrialResult("crash", "It ended."))
    expected, limits = Expected(manifest.feature_set), TrialLimits(3.0, 5)
    with pytest.raises(RefusedModelError, match=r"^crash: It ended\.$") as refused:
        verify(manifest, data, expected, allow_joblib=True, trial=trial, limits=limits)
    assert (refused.value.reason, refused.value.detail) == ("crash", "It ended.")
    assert trial.asked[0][2] == {"allow_joblib": True, "limits": limits}


def test_nothing_is_tried_that_is_not_what_the_manifest_names(trained: TrainedModel, small_data: Any) -> None:
    trial = SameProcess()
    _, joblib = artifact.save(trained.estimator, allow_joblib=True)
    named = Artifact("joblib", hashlib.sha256(joblib).hexdigest(), len(joblib))
    for manifest, data, reason in (
        (b"{}", trained.artifact, "manifest"),
        (replace(trained.manifest, feature_set="another"), trained.artifact, "feature_set"),
        (replace(trained.manifest, libraries={}), trained.artifact, "incompatible"),
        (trained.manifest, trained.artifact + b" ", "digest"),
        (replace(trained.manifest, artifact=named), joblib, "format"),
    ):
        with pytest.raises(RefusedModelError) as refused:
            verify(manifest, data, Expected(trained.manifest.feature_set), trial=trial)
        assert refused.value.reason == reason
    assert not trial.asked
    # What is what the manifest names is first tried there.
    other = fit(FAMILIES["logistic"].build([FeatureKind("float")] * 3, 0), small_data.matrix, small_data.labels)
    with pytest.raises(RefusedModelError, match="golden: Golden row"):
        verify(*with_artifact(trained.manifest, other), Expected(trained.manifest.feature_set), trial=trial)
    assert len(trial.asked) == 1


def test_the_process_of_a_trial_judges_as_this_one_does(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    good, data = trained.manifest.to_bytes(), trained.artifact
    judge = verify_module._judge
    assert judge(good, data, allow_joblib=False) == TrialResult()
    assert judge(b"{", data, allow_joblib=False).reason == "manifest"
    result = judge(good, data + b" ", allow_joblib=False)
    assert result.reason == "digest"
    assert result.detail.startswith("The artifact's SHA-256 is ")
    assert result.detail.endswith("another file.")
    kind, joblib = artifact.save(trained.estimator, allow_joblib=True)
    manifest = replace(trained.manifest, artifact=Artifact(kind, hashlib.sha256(joblib).hexdigest(), len(joblib)))
    assert judge(manifest.to_bytes(), joblib, allow_joblib=False).reason == "format"
    assert judge(manifest.to_bytes(), joblib, allow_joblib=True) == TrialResult()
    sizes, _ = watch_scores(monkeypatch, trained.scorer, lambda _: 0.001)
    judge(good, data, allow_joblib=False)
    assert sizes == [len(trained.manifest.golden.rows), 1, 100, 5000]


def test_without_a_process_to_try_it_in_a_version_is_not_believed(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RefusedModelError, match="No such file") as refused:
        verify(trained.manifest, trained.artifact, Expected(trained.manifest.feature_set))
    assert refused.value.reason == "no_trial"


def watch_scores(
    monkeypatch: pytest.MonkeyPatch, scorer: Scorer, seconds: Any
) -> tuple[list[int], dict[str, np.ndarray]]:
    """How many rows are scored each time, and the last; the n-th takes as long as is said, by its clock."""
    sizes: list[int] = []
    now, last = [100.0], {}

    def score(matrix: np.ndarray) -> np.ndarray:
        now[0] += seconds(len(sizes))
        sizes.append(len(matrix))
        last["rows"] = matrix
        return scorer.score(matrix)

    monkeypatch.setattr(verify_module, "make_scorer", lambda *_: SimpleNamespace(name="watched", score=score))
    monkeypatch.setattr(verify_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return sizes, last


def test_a_batch_of_each_size_takes_what_the_best_of_three_does(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    milliseconds = [7, 3, 1, 2, 6, 5, 4, 9, 8, 5]
    sizes, last = watch_scores(monkeypatch, trained.scorer, lambda n: milliseconds[n] / 1000)
    verified = check(trained.manifest, trained.artifact)
    golden = trained.manifest.golden.matrix
    assert sizes == [len(golden), *[1] * 3, *[100] * 3, *[5000] * 3]
    assert verified.latency_us == pytest.approx({1: 1000.0, 100: 4000.0, 5000: 5000.0})
    assert verified.seconds == pytest.approx(0.05)
    assert np.array_equal(last["rows"], np.tile(golden, (200, 1))[:5000], equal_nan=True)


def test_after_two_seconds_of_warming_up_each_size_is_scored_only_once(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, _ = watch_scores(monkeypatch, trained.scorer, lambda n: [9.0, 0.5, 0.6, 0.8, 0.2, 7.0, 0.0][n])
    verified = check(trained.manifest, trained.artifact)
    assert sizes[1:] == [1, 1, 1, 100, 5000]
    assert verified.latency_us == pytest.approx({1: 5e5, 100: 2e5, 5000: 7e6})


def test_a_refusal_says_what_is_and_what_should_be(trained: TrainedModel, small_data: Any) -> None:
    manifest, golden = trained.manifest, trained.manifest.golden
    moved = list(golden.scores)
    moved[5] += 1e-6
    moved[7] -= 1e-3
    narrow = fit(FAMILIES["logistic"].build([FeatureKind("float")], 0), small_data.matrix[:, :1], small_data.labels)
    here, words = manifest.libraries["scikit-learn"], "train it again, or install the other"
    for changed, options, said in (
        (
            replace(manifest, golden=GoldenRows(golden.rows, tuple(moved))),
            {},
            f"golden: Golden row 7 scores {golden.scores[7]:.17g} and not {moved[7]:.17g}: not what was registered.",
        ),
        (
            replace(manifest, golden=GoldenRows(golden.rows, (float("nan"), *golden.scores[1:]))),
            {},
            "not_finite: A score of the golden rows is not a finite number.",
        ),
        (
            manifest,
            {"model": ("shop-returns", "2.0.0")},
            "model: Expected is shop-returns 2.0.0, and this is shop-returns 1.0.0.",
        ),
        (
            manifest,
            {"model": ("shop", "1.0.0")},
            "model: Expected is shop 1.0.0, and this is shop-returns 1.0.0.",
        ),
        (
            replace(manifest, libraries={}),
            {},
            f"incompatible: It was fitted with scikit-learn none and here is {here}: {words}.",
        ),
    ):
        with pytest.raises(RefusedModelError) as refused:
            check(changed, trained.artifact, **options)
        assert str(refused.value) == said
    with pytest.raises(RefusedModelError, match="takes 1 features, the manifest has 3"):
        check(*with_artifact(manifest, narrow))
    digest = manifest.artifact.sha256
    with pytest.raises(RefusedModelError, match=f"artifact 000000000000… and the manifest names {digest[:12]}…"):
        Expected(manifest.feature_set, sha256="0" * 64).check(manifest)


def test_a_model_without_memory_is_no_refusal_of_it(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a trial has its own answer; here it is this process that lacks memory."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(verify_module, "make_scorer", fail)
    with pytest.raises(MemoryError):
        check(trained.manifest, trained.artifact)
