"""The manifest of a model version: all that is known of it without loading it, as canonical JSON.

The bytes are a function of the values (keys sorted, floats in their shortest exact form, no spaces), so a manifest has
one digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.reference.as_json import from_json
from models.reference.reference import Reference
from models.scoring.categories import Vocabularies
from schemas.ranges import EARLIEST_TABLE_MS, LATEST_TABLE_MS, MODEL_NAME, VERSION

Floats = NDArray[np.float64]

Bump = Literal["major", "minor", "patch"]

#: How many golden rows a manifest has at least.
FEWEST_GOLDEN_ROWS = 32

_VERSION = re.compile(VERSION)
_NAME = re.compile(MODEL_NAME)
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Twice as deep as a reference is.
_DEEPEST = 10


class ManifestError(ValueError):
    """A manifest, version or name that is not well formed, as one sentence."""


class FeatureSpec(msgspec.Struct, frozen=True):
    """One column of the matrix: its name, its type, and for a category the values whose positions are its codes."""

    name: str
    type: Literal["float", "int", "bool", "category"]
    values: tuple[str, ...] = ()


class Signature(msgspec.Struct, frozen=True):
    """Inputs, in the order of the matrix's columns (float64, NaN is missing), and the name of the output."""

    features: tuple[FeatureSpec, ...]
    output: str = "score"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def vocabularies(self) -> Vocabularies:
        return Vocabularies([len(feature.values) for feature in self.features])


class LabelDelay(msgspec.Struct, frozen=True):
    """How long labels of one value (0 or 1) took before training: ``n`` of them, half and 99 % within these times."""

    label: int
    n: int
    half_ms: float
    share_99_ms: float


class LabelFacts(msgspec.Struct, frozen=True):
    """What was known of the labels of the training's range.

    Labels were known up to ``known_ms``, and the events learnt from were those that were ``maturity_ms`` old by then.
    ``young_rows`` were younger: ``young_labelled_rows`` of them had a label, and ``weighed_rows`` of these were fitted
    on by weight; nothing else was done with them. ``unlabelled_rows`` were old enough and had no label.
    """

    known_ms: int
    maturity_ms: int
    young_rows: int
    young_labelled_rows: int
    unlabelled_rows: int
    weighed_rows: int = 0
    delays: tuple[LabelDelay, ...] = ()


class TrainingData(msgspec.Struct, frozen=True):
    """What the version was fitted on.

    ``from_ms`` and ``to_ms`` are the half-open range of event time that was asked for. ``rows`` counts its events,
    ``labelled_rows`` the labelled ones that were old enough: the rows fitted on. ``label_facts`` says what became of
    the others (None: a version from before they were told apart). ``sha256`` is the digest of matrix and labels
    (`digest_training_data`). ``refitted_on_all`` says that the metrics come from a model fitted on the rows before the
    hold-out only.
    """

    from_ms: int
    to_ms: int
    rows: int
    labelled_rows: int
    positive_share: float
    sha256: str
    refitted_on_all: bool = True
    label_facts: LabelFacts | None = None


class Metrics(msgspec.Struct, frozen=True):
    """Measured on the newest rows, unseen by the measured model. ``auc`` is None when they hold one class only.

    ``positives`` of the ``n`` rows are positive. ``constant_log_loss`` is that of giving each row the rate of positives
    among the rows fitted on, as a model that knows nothing would. Versions of former releases have neither.
    """

    auc: float | None
    log_loss: float
    accuracy: float
    n: int
    from_ms: int
    to_ms: int
    positives: int | None = None
    constant_log_loss: float | None = None


class GoldenRows(msgspec.Struct, frozen=True):
    """Rows with the scores that any worker must reproduce; None is a missing value."""

    rows: tuple[tuple[float | None, ...], ...]
    scores: tuple[float, ...]

    @property
    def matrix(self) -> Floats:
        """The rows as float64 [n x features], missing as NaN."""
        return np.array([[np.nan if value is None else value for value in row] for row in self.rows], dtype=np.float64)

    @classmethod
    def of(cls, matrix: Floats, scores: Floats) -> GoldenRows:
        rows = tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in matrix)
        return cls(rows, tuple(float(score) for score in scores))


class Artifact(msgspec.Struct, frozen=True):
    """The file that holds the fitted estimator."""

    format: Literal["skops", "joblib"]
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is known of one immutable model version.

    ``reference`` is the JSON form of `models.reference.reference.Reference`: frozen bin edges and counts, which drift
    is measured against. ``libraries`` maps python, numpy, scikit-learn, skops and streamgauge to their versions.
    """

    model: str
    version: str
    family: str
    target: str
    signature: Signature
    feature_set: str
    training: TrainingData
    libraries: dict[str, str]
    metrics: Metrics
    golden: GoldenRows
    artifact: Artifact
    created_at_ms: int
    reference: dict[str, Any] | None = None
    parent: str | None = None
    manifest_version: int = 1

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def read_reference(self) -> Reference:
        """Return the frozen reference; ManifestError when there is none."""
        if self.reference is None:
            raise ManifestError(
                f"The manifest of {self.model} {self.version} has no reference; train the version again."
            )
        try:
            reference = from_json(json.dumps(self.reference))
        except ValueError as error:
            raise ManifestError(f"The manifest of {self.model} {self.version} is not valid: {error}.") from error
        codes = [len(feature.values) + 1 if feature.type == "category" else 0 for feature in self.signature.features]
        features = reference.metrics[:-2]
        if [(metric.name, metric.codes) for metric in features] != list(zip(self.signature.names, codes, strict=True)):
            raise ManifestError(
                f"The manifest of {self.model} {self.version} is not valid: its reference is of other features than its"
                " signature."
            )
        return reference

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what `to_bytes` wrote; ManifestError, in one sentence, when it is anything else."""
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ManifestError(f"The manifest cannot be read: {error!s:.300}.") from None
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raise ManifestError for the first thing that is not well formed."""
        check_name(self.model)
        parse_version(self.version)
        width = len(self.signature.features)
        trained = self.training
        wrong = (
            (self.manifest_version != 1, f"manifest_version is {self.manifest_version}; this program reads version 1"),
            (width == 0, "the signature has no features"),
            (len(set(self.signature.names)) != width, "two features have the same name"),
            (not _DIGEST.fullmatch(self.artifact.sha256), "artifact.sha256 is not 64 hex digits"),
            (len(self.golden.rows) < FEWEST_GOLDEN_ROWS, f"it has fewer than {FEWEST_GOLDEN_ROWS} golden rows"),
            (len(self.golden.rows) != len(self.golden.scores), "golden rows and golden scores differ in number"),
            (any(len(row) != width for row in self.golden.rows), f"a golden row does not have {width} values"),
            (
                not EARLIEST_TABLE_MS <= trained.from_ms <= trained.to_ms <= LATEST_TABLE_MS,
                "the range of its training data is not between the years 1900 and 2299",
            ),
            (not 0 <= self.artifact.size_bytes < 2**63, "artifact.size_bytes is no size"),
            (not 0 <= self.metrics.n < 2**53, "metrics.n is no number of rows"),
            (_is_deeper(self.reference, _DEEPEST), f"the reference is nested more than {_DEEPEST} deep"),
        )
        for is_wrong, what in wrong:
            if is_wrong:
                raise ManifestError(f"The manifest of {self.model} {self.version} is not valid: {what}.")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper. Without recursion: deep nesting must not exhaust the stack here."""
    level = [value]
    for _ in range(depth):
        inside = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [child for children in inside for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def check_name(name: str) -> str:
    """Return the name of a model; ManifestError when it could not be a folder, a key and part of a URI."""
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"{name!r} is not a model name: use lower-case letters, digits, - and _, and begin with a letter or digit."
        )
    return name


def parse_version(version: str) -> tuple[int, int, int]:
    """Return a semantic version as numbers that sort; ManifestError when it is not MAJOR.MINOR.PATCH.

    Examples
    --------
    >>> parse_version("1.10.0") > parse_version("1.9.3")
    True
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ManifestError(f"{version!r} is not a version: write MAJOR.MINOR.PATCH, as in 1.0.0.")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


def bump_version(version: str, bump: Bump) -> str:
    """Return the version after this one.

    Examples
    --------
    >>> bump_version("1.2.3", "minor")
    '1.3.0'
    """
    major, minor, patch = parse_version(version)
    if bump == "major":
        return f"{major + 1}.0.0"
    if bump == "minor":
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def digest_training_data(matrix: Floats, labels: Floats, event_time_ms: NDArray[np.int64]) -> str:
    """SHA-256 over shape, matrix, labels and event times as little-endian bytes, every NaN as the same NaN."""
    digest = hashlib.sha256(f"{matrix.shape[0]}x{matrix.shape[1]}".encode())
    # A NaN has many bit patterns, and which one arithmetic gives depends on the processor.
    digest.update(np.where(np.isnan(matrix), np.nan, matrix).astype("<f8", order="C").tobytes())
    digest.update(labels.astype("<f8").tobytes())
    digest.update(event_time_ms.astype("<i8").tobytes())
    return digest.hexdigest()
