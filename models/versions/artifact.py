"""Save and load fitted estimators as bytes, trusting nothing that the bytes say of themselves.

The order is: size cap, SHA-256, then limits on what the archive would unpack to, and only then parsing. skops builds
objects only of types in a list that is pinned here; asking a file which types it wants (``get_untrusted_types``) and
granting them would be no check. It does not check values: a crafted tree index crashes at predict. So
`models.versions.verify` loads in a limited child process first.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any, Literal

#: Types beyond skops's own that the families' estimators are made of: holders of arrays and numbers, and the
#: ``partial(check_array, …)`` by which boosted trees with categories check their input (what a partial calls is itself
#: on trial here).
TRUSTED_TYPES = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)

LARGEST_ARTIFACT_BYTES = 64 * 2**20
#: An archive of 467 KB can name contents of more than a gigabyte.
LARGEST_UNPACKED_BYTES = 256 * 2**20
MOST_MEMBERS = 20_000


class ArtifactError(ValueError):
    """Bytes that are not the artifact they should be, or may not be loaded; one sentence. ``reason``: one word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def save(estimator: Any, *, allow_joblib: bool = False) -> tuple[Literal["skops", "joblib"], bytes]:
    """Serialise a fitted estimator; returns the format and the bytes.

    As skops, proven by loading the result again under the pinned list; the same estimator always gives the same bytes.
    What skops cannot hold (river's models) needs ``allow_joblib``.
    """
    if not allow_joblib:
        import skops.io  # noqa: PLC0415  # with scikit-learn behind it, two seconds that a monitor does not need

        try:
            data = _canonical(skops.io.dumps(estimator))
        except Exception as error:  # whatever an unknown type raises, the sentence is the same
            raise ArtifactError("format", f"A {type(estimator).__name__} cannot be saved as skops: {error}.") from error
        load(data, hashlib.sha256(data).hexdigest(), "skops")
        return "skops", data
    import joblib  # noqa: PLC0415  # only for those who ask for it

    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    return "joblib", buffer.getvalue()


def load(
    data: bytes,
    sha256: str,
    artifact_format: str,
    *,
    allow_joblib: bool = False,
    largest_bytes: int = LARGEST_ARTIFACT_BYTES,
) -> Any:
    """Load an estimator; ArtifactError, before anything is parsed, when size, digest or format are not right."""
    check_bytes(data, sha256, largest_bytes=largest_bytes)
    if artifact_format == "skops":
        return _load_skops(data)
    if artifact_format != "joblib":
        raise ArtifactError("format", f"The artifact's format is {artifact_format!r}; known are skops and joblib.")
    if not allow_joblib:
        raise ArtifactError(
            "format",
            "The artifact is a joblib file, which can run any code when loaded; allow it only if you made it yourself.",
        )
    import joblib  # noqa: PLC0415  # only for those who ask for it

    return joblib.load(io.BytesIO(data))


def check_bytes(data: bytes, sha256: str, *, largest_bytes: int = LARGEST_ARTIFACT_BYTES) -> None:
    """Raise ArtifactError unless the bytes are small enough and have this digest."""
    if len(data) > largest_bytes:
        raise ArtifactError("size", f"The artifact has {len(data)} bytes; at most {largest_bytes} are loaded.")
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ArtifactError(
            "digest", f"The artifact's SHA-256 is {digest}, not {sha256}: it is damaged or another file."
        )


def _load_skops(data: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            unpacked_bytes = sum(member.file_size for member in members)
    except zipfile.BadZipFile as error:
        raise ArtifactError("load", f"The artifact is not a skops file: {error}.") from error
    if len(members) > MOST_MEMBERS or unpacked_bytes > LARGEST_UNPACKED_BYTES:
        raise ArtifactError(
            "size", f"The artifact would unpack to {unpacked_bytes} bytes in {len(members)} files, which is too much."
        )
    import skops.io  # noqa: PLC0415  # as in `save`

    try:
        return skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except MemoryError:
        raise  # of the limited child process; it has its own answer
    except Exception as error:  # any exception of a parser of hostile bytes is the same refusal
        reason = "untrusted" if type(error).__name__ == "UntrustedTypesFoundException" else "load"
        raise ArtifactError(reason, f"The artifact cannot be loaded: {' '.join(str(error).split())}") from error


def _canonical(data: bytes) -> bytes:
    """Rewrite an archive so that its bytes depend on the estimator alone.

    skops names objects and files by their memory address, and zip stamps the time of day.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(contents.pop("schema.json"))
    names: dict[str, str] = {}
    _renumber(schema, {}, names, frozenset(contents))
    contents = {names[name]: content for name, content in contents.items()}
    contents["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(contents.items()):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED, compresslevel=6)
    return buffer.getvalue()


def _renumber(node: Any, ids: dict[int, int], names: dict[str, str], files: frozenset[str]) -> None:
    """Replace addresses by 1, 2, 3, … in the order in which the schema mentions them, in place."""
    if isinstance(node, list):
        for inner in node:
            _renumber(inner, ids, names, files)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "__id__" and isinstance(value, int):
                node[key] = ids.setdefault(value, len(ids) + 1)
            elif key == "file" and isinstance(value, str) and value in files:
                suffix = value.partition(".")[2]
                node[key] = names.setdefault(value, f"{len(names) + 1}.{suffix}")
            else:
                _renumber(value, ids, names, files)
