"""Laws of manifests and versions."""

from __future__ import annotations

import hashlib
import json
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reference.as_json import to_json
from models.training import TrainedModel
from models.versions.manifest import (
    GoldenRows,
    Manifest,
    ManifestError,
    bump_version,
    check_name,
    digest_training_data,
    parse_version,
)
from schemas.ranges import EARLIEST_TABLE_MS, LATEST_TABLE_MS

TRAINING = {"rows": 1, "labelled_rows": 1, "positive_share": 0.5, "sha256": "0" * 64, "from_ms": 0, "to_ms": 1}
METRICS = {"auc": None, "log_loss": 0.5, "accuracy": 0.5, "n": 1, "from_ms": 0, "to_ms": 1}
VERSIONS = st.tuples(*[st.integers(0, 999)] * 3).map(lambda parts: ".".join(map(str, parts)))


def test_a_manifest_read_back_is_the_same_to_the_byte(trained: TrainedModel) -> None:
    data = trained.manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == trained.manifest
    assert again.to_bytes() == data
    assert again.digest == trained.manifest.digest


def test_the_bytes_do_not_depend_on_the_order_of_keys(trained: TrainedModel) -> None:
    shuffled = json.dumps(dict(reversed(json.loads(trained.manifest.to_bytes()).items())), indent=2).encode()
    assert Manifest.from_bytes(shuffled).to_bytes() == trained.manifest.to_bytes()
    body = json.loads(trained.manifest.to_bytes())
    for part in (body, body["training"], body["reference"]):
        assert list(part) == sorted(part)


def test_golden_rows_keep_each_bit_and_what_is_missing() -> None:
    matrix = np.array([[0.1, np.nan], [1e-310, -0.0], [1e9, 2.0 / 3.0]])
    golden = msgspec.json.decode(msgspec.json.encode(GoldenRows.of(matrix, matrix[:, 0])), type=GoldenRows)
    np.testing.assert_array_equal(golden.matrix, matrix)
    assert np.signbit(golden.matrix[1, 1])
    assert golden.scores == (0.1, 1e-310, 1e9)


def test_the_most_rows_of_metrics_are_what_a_float_still_counts(trained: TrainedModel) -> None:
    data = json.dumps({**json.loads(trained.manifest.to_bytes()), "metrics": METRICS | {"n": 2**53 - 1}}).encode()
    assert Manifest.from_bytes(data).metrics.n == 2**53 - 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "1.0"}, "not a version"),
        ({"version": "01.0.0"}, "not a version"),
        ({"model": "../etc"}, "not a model name"),
        ({"manifest_version": 2}, "reads version 1"),
        ({"signature": {"features": []}}, "no features"),
        ({"golden": {"rows": [[1, 2, 3]], "scores": [0.5]}}, "fewer than 32 golden rows"),
        ({"golden": {"rows": [[1, 2]] * 40, "scores": [0.5] * 40}}, "does not have 3 values"),
        ({"golden": {"rows": [*[[1, 2, 3]] * 39, [1, 2]], "scores": [0.5] * 40}}, "does not have 3 values"),
        ({"golden": {"rows": [[1, 2, 3]] * 40, "scores": [0.5] * 39}}, "differ in number"),
        ({"artifact": {"format": "skops", "sha256": "ABC", "size_bytes": 3}}, "64 hex digits"),
        ({"artifact": {"format": "pickle", "sha256": "0" * 64, "size_bytes": 3}}, "cannot be read"),
        ({"surprise": 1}, "cannot be read"),
        ({"training": {**TRAINING, "from_ms": 2**62}}, "between the years 1900 and 2299"),
        ({"training": {**TRAINING, "to_ms": -(2**62)}}, "between the years 1900 and 2299"),
        ({"training": {**TRAINING, "to_ms": 10**30}}, "between the years 1900 and 2299|cannot be read"),
        ({"training": {**TRAINING, "from_ms": 9, "to_ms": 8}}, "between the years 1900 and 2299"),
        ({"reference": {"a": [[[[[[[[[[[[]]]]]]]]]]]]}}, "nested more than 10 deep"),
        ({"metrics": None}, "cannot be read"),
        ({"metrics": METRICS | {"n": 2**53}}, "metrics.n is no number of rows"),
    ],
)
def test_a_manifest_that_is_not_well_formed_is_refused_in_one_sentence(
    trained: TrainedModel, change: dict[str, object], words: str
) -> None:
    data = json.dumps({**json.loads(trained.manifest.to_bytes()), **change}).encode()
    with pytest.raises(ManifestError, match=words) as refused:
        Manifest.from_bytes(data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({"golden": {"rows": [[1, 2, 3]] * 32, "scores": [0.5] * 32}}, True),
        ({"golden": {"rows": [[1, 2, 3]] * 31, "scores": [0.5] * 31}}, False),
        ({"training": {**TRAINING, "from_ms": 8, "to_ms": 8}}, True),
        ({"training": {**TRAINING, "from_ms": EARLIEST_TABLE_MS, "to_ms": LATEST_TABLE_MS}}, True),
        ({"training": {**TRAINING, "from_ms": EARLIEST_TABLE_MS - 1}}, False),
        ({"training": {**TRAINING, "to_ms": LATEST_TABLE_MS + 1}}, False),
        ({"artifact": {"format": "skops", "sha256": "0" * 64, "size_bytes": 0}}, True),
        ({"artifact": {"format": "skops", "sha256": "0" * 64, "size_bytes": 2**63 - 1}}, True),
        ({"artifact": {"format": "skops", "sha256": "0" * 64, "size_bytes": -1}}, False),
        ({"artifact": {"format": "skops", "sha256": "0" * 64, "size_bytes": 2**63}}, False),
        ({"artifact": {"format": "skops", "sha256": "0" * 63, "size_bytes": 3}}, False),
        ({"metrics": METRICS | {"n": 0}}, True),
        ({"metrics": METRICS | {"n": -1}}, False),
        ({"reference": {"a": {"b": {"c": [{"d": {"e": [{"f": {"g": {"h": 1}}}]}}]}}}}, True),
        ({"reference": {"a": {"b": {"c": [{"d": {"e": [{"f": {"g": {"h": {}}}}]}}]}}}}, False),
        ({"reference": {"a": 1, "b": [[[[[[[[[]]]]]]]]]}}, True),
        ({"reference": {"a": 1, "b": [[[[[[[[[[]]]]]]]]]]}}, False),
        ({"reference": None}, True),
    ],
)
def test_a_manifest_is_valid_up_to_its_bounds(trained: TrainedModel, change: dict[str, object], is_valid: bool) -> None:
    data = json.dumps({**json.loads(trained.manifest.to_bytes()), **change}).encode()
    if is_valid:
        Manifest.from_bytes(data)
        return
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


@pytest.mark.parametrize("depth", [9, 10, 11, 500, 900, 100_000])
def test_a_manifest_may_not_be_deep(trained: TrainedModel, depth: int) -> None:
    text = trained.manifest.to_bytes().decode()
    deep = text.replace('"reference":{', '"reference":{"deep":' + "[" * depth + "]" * depth + ",", 1)
    if depth < 10:
        assert Manifest.from_bytes(deep.encode()).reference is not None
        return
    with pytest.raises(ManifestError, match=r"nested more than 10 deep|recursion"):
        Manifest.from_bytes(deep.encode())


@pytest.mark.parametrize("change", ["name", "codes", "one less", "none"])
def test_a_reference_of_other_features_than_the_signature_is_refused(trained: TrainedModel, change: str) -> None:
    """Workers count in its cells what the signature names: one metric more or less would end them."""
    body = json.loads(trained.manifest.to_bytes())
    amount, colour, *_ = body["reference"]["metrics"]
    if change == "name":
        amount["name"] = "price"
    elif change == "codes":
        body["signature"]["features"][1]["values"] = ["red", "green"]
    elif change == "one less":
        body["reference"]["metrics"].remove(colour)
    else:
        body["reference"] = None
    manifest = Manifest.from_bytes(json.dumps(body).encode())
    with pytest.raises(ManifestError):
        manifest.read_reference()


@pytest.mark.parametrize(
    ("reference", "words"),
    [(None, "has no reference; train the version again"), ({"format": 4}, "is not valid: not a reference")],
)
def test_a_version_without_a_reference_that_can_be_read_says_so(
    trained: TrainedModel, reference: dict[str, object] | None, words: str
) -> None:
    with pytest.raises(ManifestError, match=rf"The manifest of shop-returns 1\.0\.0 {words}"):
        msgspec.structs.replace(trained.manifest, reference=reference).read_reference()


def test_nothing_of_a_manifest_can_be_changed(trained: TrainedModel) -> None:
    manifest = trained.manifest
    signature = manifest.signature
    parts = manifest.training, manifest.metrics, manifest.golden, manifest.artifact
    for part in (manifest, signature, signature.features[0], *parts):
        for name in part.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(part, name, getattr(part, name))


@given(st.binary(max_size=40))
def test_rubbish_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_two_features_of_one_name_are_refused(trained: TrainedModel) -> None:
    body = json.loads(trained.manifest.to_bytes())
    body["signature"]["features"][1]["name"] = "amount"
    with pytest.raises(ManifestError, match="same name"):
        Manifest.from_bytes(json.dumps(body).encode())


def test_the_reference_comes_out_as_it_went_in(trained: TrainedModel) -> None:
    reference = Manifest.from_bytes(trained.manifest.to_bytes()).read_reference()
    assert reference.names == ("amount", "colour", "items", "score", "outcome")
    assert json.loads(to_json(reference)) == trained.manifest.reference


@given(version=VERSIONS, bump=st.sampled_from(["major", "minor", "patch"]))
def test_a_bumped_version_is_later(version: str, bump: str) -> None:
    assert parse_version(bump_version(version, bump)) > parse_version(version)  # type: ignore[arg-type]  # one of three


def test_versions_sort_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.0", "1.2.10", "1.2.9"], key=parse_version) == ["1.2.9", "1.2.10", "1.9.0", "1.10.0"]
    assert [bump_version("1.2.3", bump) for bump in ("major", "minor", "patch")] == ["2.0.0", "1.3.0", "1.2.4"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a|b", "-a", "A", "a b", "a\n"])
def test_a_name_that_could_leave_its_folder_or_key_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="is not a model name"):
        check_name(name)


def test_the_digest_of_the_data_changes_with_any_bit_but_not_with_the_kind_of_nan() -> None:
    matrix, labels, times = np.array([[1.0, np.nan], [2.0, 3.0]]), np.array([0.0, 1.0]), np.array([5, 6])
    digest = digest_training_data(matrix, labels, times)
    other_nan = np.array([0xFFF8000000000123], dtype=np.uint64).view(np.float64)[0]
    same = matrix.copy()
    same[0, 1] = other_nan
    assert digest_training_data(same, labels, times) == digest
    assert digest_training_data(np.asfortranarray(matrix), labels, times) == digest
    assert digest_training_data(np.nextafter(matrix, 9), labels, times) != digest
    assert digest_training_data(matrix, 1 - labels, times) != digest
    assert digest_training_data(matrix, labels, times + 1) != digest
    assert digest_training_data(np.where(np.isnan(matrix), 0.0, matrix), labels, times) != digest
    wide, tall = np.ones((1, 4)), np.ones((4, 1))
    assert digest_training_data(wide, labels, times) != digest_training_data(tall, labels, times)


def test_the_digest_of_the_data_is_of_its_shape_and_its_little_endian_bytes() -> None:
    matrix, labels, times = np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]]), np.array([0.0, 1.0]), np.array([5, 6])
    data = b"2x3" + struct.pack("<6d2d2q", 1, 2, np.nan, 4, 5, 6, 0, 1, 5, 6)
    assert digest_training_data(matrix, labels, times) == hashlib.sha256(data).hexdigest()
    assert digest_training_data(matrix.astype(">f8"), labels.astype(">f8"), times.astype(">i8")) == (
        hashlib.sha256(data).hexdigest()
    )
