"""Laws of the gates, in this process; the child process is in tests/integration/test_model_verify.py."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from models import artifact
from models.families import FAMILIES, FeatureKind, fit
from models.manifest import Artifact, GoldenRows, Manifest
from models.training import TrainedModel
from models.verify import RefusedModelError, VerifiedModel, check_identity, verify


def check(manifest: Manifest | bytes, data: bytes, **options: Any) -> VerifiedModel:
    feature_set = options.pop("feature_set", None) or (manifest.feature_set if isinstance(manifest, Manifest) else "")
    return verify(manifest, data, feature_set, in_child=False, **options)


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
    check(
        manifest,
        data,
        expected_names=["amount", "colour", "items"],
        expected_model=("shop-returns", "1.0.0"),
    )
    assert refuse(manifest, data, feature_set="another") == "feature_set"
    check_identity(manifest, manifest.feature_set, sha256=manifest.artifact.sha256)
    with pytest.raises(RefusedModelError, match="digest: The update announces"):
        check_identity(manifest, manifest.feature_set, sha256="0" * 64)
    assert refuse(manifest, data, expected_names=["colour", "amount", "items"]) == "signature"
    assert refuse(manifest, data, expected_model=("shop-returns", "2.0.0")) == "model"


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
