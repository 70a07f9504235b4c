"""The gates with their child process: whatever a file does at load or predict, this process goes on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from models import artifact
from models import verify as verify_module
from models.families import FAMILIES, FeatureKind, fit
from models.golden import choose_golden_rows
from models.manifest import Artifact, FeatureSpec, GoldenRows, Manifest, Metrics, Signature, TrainingData
from models.scorer import make_scorer
from models.training import read_libraries
from models.verify import RefusedModelError, verify

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
        verify(manifest, data, "f", **options)
    return refused.value


def test_a_sound_version_passes_its_child_and_this_process(version: tuple[Manifest, bytes]) -> None:
    verified = verify(*version, "f")
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
    refused = refuse(*version, timeout_s=0.05)
    assert refused.reason == "timeout"


def test_a_model_that_needs_too_much_memory_is_refused(version: tuple[Manifest, bytes]) -> None:
    # Little more than the libraries map: the first allocation of any size fails.
    refused = refuse(*version, memory_bytes=200 * 2**20)
    assert refused.reason in ("memory", "crash", "load")


def test_another_model_is_refused_by_the_child(version: tuple[Manifest, bytes]) -> None:
    scores = np.array(version[0].golden.scores)[::-1].copy()
    manifest = replace(version[0], golden=GoldenRows(version[0].golden.rows, tuple(scores.tolist())))
    assert refuse(manifest, version[1]).reason == "golden"


def test_the_child_sees_no_password_and_no_setting(
    version: tuple[Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMGAUGE_CLICKHOUSE", "http://user:secret@server")
    seen: dict[str, Any] = {}
    run = subprocess.run

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return run(*arguments, **options)

    monkeypatch.setattr(verify_module.subprocess, "run", spy)
    verify(*version, "f")
    assert "secret" not in json.dumps(seen["env"])
    assert not [name for name in seen["env"] if name.startswith("STREAMGAUGE")]


def test_the_child_says_what_is_wrong_with_its_input(tmp_path: Any) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": verify_module._child_environment()["PYTHONPATH"]}
    child = subprocess.run(
        [sys.executable, "-m", "models.verify", str(2**31), "30", "skops"],
        input=b"2\n{}",
        capture_output=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert json.loads(child.stdout)["reason"] == "manifest"
