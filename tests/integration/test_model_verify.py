"""The gates with their child process: whatever a file does at load or predict, this process goes on."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from models.scoring.families import FAMILIES, FeatureKind, fit
from models.scoring.scorer import make_scorer
from models.training import read_libraries
from models.versions import artifact
from models.versions.golden import choose_golden_rows
from models.versions.manifest import Artifact, FeatureSpec, GoldenRows, Manifest, Metrics, Signature, TrainingData
from models.versions.trial import Trial, TrialLimits
from models.versions.verify import Expected, RefusedModelError, verify

FEATURES = tuple(FeatureSpec(name, "float") for name in ("a", "b", "c"))
RNG = np.random.default_rng(11)
ROWS = RNG.normal(size=(300, 3))
LABELS = (ROWS[:, 0] + RNG.normal(size=300) > 0).astype(np.float64)


def make_version(estimator: Any, golden_scores: np.ndarray | None = None) -> tuple[Manifest, bytes]:
    golden = choose_golden_rows(ROWS, FEATURES)
    scores = make_scorer(estimator).score(golden) if golden_scores is None else golden_scores
    kind, data = artifact.save(estimator)
    manifest = Manifest(
        model="m",
        version="1.0.0",
        family="hgb",
        target="",
        signature=Signature(FEATURES),
        feature_set="f",
        training=TrainingData(0, 1, 300, 300, 0.5, "0" * 64),
        libraries=read_libraries(),
        metrics=Metrics(None, 0.0, 0.0, 1, 0, 1),
        golden=GoldenRows.of(golden, scores),
        artifact=Artifact(kind, hashlib.sha256(data).hexdigest(), len(data)),
        created_at_ms=0,
    )
    return manifest, data


def fit_trees() -> Any:
    return fit(FAMILIES["hgb"].build([FeatureKind("float")] * 3, 0), ROWS, LABELS)


@pytest.fixture(scope="module")
def version() -> tuple[Manifest, bytes]:
    return make_version(fit_trees())


def refuse(manifest: Manifest, data: bytes, **options: Any) -> RefusedModelError:
    with pytest.raises(RefusedModelError) as refused:
        verify(manifest, data, Expected("f"), **options)
    return refused.value


def test_a_sound_version_passes_its_child_and_this_process(version: tuple[Manifest, bytes]) -> None:
    verified = verify(*version, Expected("f"))
    assert verified.is_bit_equal
    assert verified.scorer.name == "trees"


def test_a_tree_that_points_outside_of_itself_kills_the_child_and_not_this_process(
    version: tuple[Manifest, bytes],
) -> None:
    scores = np.array(version[0].golden.scores)
    trees = fit_trees()
    for (tree,) in trees[-1]._predictors:
        tree.nodes["left"] = tree.nodes["right"] = 2**31 + 12345
        tree.nodes["is_leaf"] = 0
    refused = refuse(*make_version(trees, scores))
    assert refused.reason == "crash"
    assert "ended with code -11" in refused.detail


def test_a_child_that_takes_too_long_is_ended(version: tuple[Manifest, bytes]) -> None:
    refused = refuse(*version, limits=TrialLimits(timeout_s=0.0))
    assert refused.reason == "timeout"


def test_a_model_that_passes_its_golden_rows_and_is_too_slow_for_a_batch_is_refused() -> None:
    """It takes some 2 s for 5 000 rows: in the child, where it can be ended, not in this process."""
    slow = make_pipeline(SimpleImputer(), KNeighborsClassifier(5, algorithm="brute", metric="minkowski", p=3.5))
    rows = np.tile(ROWS, (40, 1)) + RNG.normal(size=(12_000, 3))
    made = make_version(slow.fit(rows, np.tile(LABELS, 40)))
    assert verify(*made, Expected("f"), in_child=False).latency_us[1] < 1e6
    started = time.monotonic()
    refused = refuse(*made, limits=TrialLimits(timeout_s=1.0))
    assert (refused.reason, "batches of up to 5 000 rows took more than 1 s" in refused.detail) == ("timeout", True)
    assert time.monotonic() - started < 30


def make_large() -> tuple[Manifest, bytes]:
    trees = fit_trees()
    trees[-1].ballast = np.zeros(4_000_000)
    return make_version(trees)


def test_a_model_that_needs_too_much_memory_is_refused() -> None:
    # Less than the libraries map: no allocation of any size succeeds.
    refused = refuse(*make_large(), limits=TrialLimits(memory_bytes=200 * 2**20))
    assert refused.reason in ("memory", "crash", "load")


def test_another_model_is_refused_by_the_child(version: tuple[Manifest, bytes]) -> None:
    scores = np.array(version[0].golden.scores)[::-1].copy()
    manifest = replace(version[0], golden=GoldenRows(version[0].golden.rows, tuple(scores.tolist())))
    assert refuse(manifest, version[1]).reason == "golden"


def test_one_child_tries_many_and_survives_the_worst_of_them(version: tuple[Manifest, bytes]) -> None:
    scores = np.array(version[0].golden.scores)
    trees = fit_trees()
    for (tree,) in trees[-1]._predictors:
        tree.nodes["left"] = tree.nodes["right"] = 2**31 + 12345
        tree.nodes["is_leaf"] = 0
    crashes = make_version(trees, scores)
    with Trial() as trial:
        assert refuse(*version, limits=TrialLimits(timeout_s=0.0), trial=trial).reason == "timeout"
        assert refuse(*crashes, trial=trial).reason == "crash"
        limits = TrialLimits(memory_bytes=200 * 2**20)
        assert refuse(*make_large(), limits=limits, trial=trial).reason in ("memory", "crash", "load")
        assert verify(*version, Expected("f"), trial=trial).is_bit_equal


def test_a_child_that_is_gone_is_a_refusal(version: tuple[Manifest, bytes]) -> None:
    with Trial() as trial:
        trial._process.kill()
        refused = refuse(*version, trial=trial)
        assert (refused.reason, "code -9" in refused.detail) == ("no_trial", True)
        assert refuse(*version, trial=trial).reason == "no_trial"


def test_the_child_sees_no_password_and_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGAUGE_CLICKHOUSE", "http://user:secret@server")
    with Trial() as trial:
        trial.run(b"", b"")
        seen = Path(f"/proc/{trial._process.pid}/environ").read_bytes()
    assert b"PYTHONPATH" in seen
    assert b"secret" not in seen
    assert b"STREAMGAUGE" not in seen


def test_the_child_says_what_is_wrong_with_its_input() -> None:
    with Trial() as trial:
        assert trial.run(b"{}", b"").reason == "manifest"
        assert trial.run(b"{", b"").reason == "manifest"
