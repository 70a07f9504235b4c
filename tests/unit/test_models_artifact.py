"""Laws of saving and loading: nothing is believed because the file says so."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from models import artifact
from models.artifact import ArtifactError, load, save
from models.training import TrainedModel


class Stranger:
    """A type that no list names."""

    def __init__(self) -> None:
        self.weight = 1.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_wrong_digest_is_found_before_anything_is_parsed(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object) -> None:
        pytest.fail("the bytes were parsed")

    monkeypatch.setattr(artifact, "_load_skops", parse)
    with pytest.raises(ArtifactError, match="damaged or another file") as refused:
        load(trained.artifact + b" ", trained.manifest.artifact.sha256, "skops")
    assert refused.value.reason == "digest"
    with pytest.raises(ArtifactError, match="at most 100 are loaded") as refused:
        load(trained.artifact, trained.manifest.artifact.sha256, "skops", largest_bytes=100)
    assert refused.value.reason == "size"


def test_a_type_outside_of_the_list_is_refused_at_saving_and_at_loading() -> None:
    with pytest.raises(ArtifactError, match="Stranger"):
        save(Stranger())
    data = skops.io.dumps(Stranger())
    with pytest.raises(ArtifactError, match="Untrusted") as refused:
        load(data, sha256(data), "skops")
    assert refused.value.reason == "untrusted"


def test_joblib_is_loaded_only_by_those_who_ask_for_it() -> None:
    kind, data = save(Stranger(), allow_joblib=True)
    assert kind == "joblib"
    with pytest.raises(ArtifactError, match="can run any code when loaded") as refused:
        load(data, sha256(data), "joblib")
    assert refused.value.reason == "format"
    assert load(data, sha256(data), "joblib", allow_joblib=True).weight == 1.0


def test_a_pickle_called_skops_is_no_skops_file() -> None:
    buffer = io.BytesIO()
    joblib.dump(LogisticRegression(), buffer)
    with pytest.raises(ArtifactError, match="not a skops file"):
        load(buffer.getvalue(), sha256(buffer.getvalue()), "skops")
    with pytest.raises(ArtifactError, match="known are skops and joblib"):
        load(b"", sha256(b""), "pickle")


@pytest.mark.slow
def test_an_archive_that_would_unpack_to_too_much_is_not_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"{}")
        archive.writestr("1.npy", bytes(artifact.LARGEST_UNPACKED_BYTES))
    data = buffer.getvalue()
    assert len(data) < 1_000_000
    with pytest.raises(ArtifactError, match="would unpack to") as refused:
        load(data, sha256(data), "skops")
    assert refused.value.reason == "size"


def test_an_archive_without_sense_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "system", "__module__": "os", "__loader__": "x"}))
    with pytest.raises(ArtifactError):
        load(buffer.getvalue(), sha256(buffer.getvalue()), "skops")


def test_a_saved_model_names_no_memory_address_and_no_time_of_day(trained: TrainedModel) -> None:
    with zipfile.ZipFile(io.BytesIO(trained.artifact)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = [name for name in archive.namelist() if name != "schema.json"]
        assert sorted(int(name.partition(".")[0]) for name in names) == list(range(1, len(names) + 1))
        assert not np.any([len(word) > 12 for word in archive.read("schema.json").decode().split() if word.isdigit()])


def test_a_loaded_model_is_the_saved_one(trained: TrainedModel) -> None:
    loaded = load(trained.artifact, trained.manifest.artifact.sha256, "skops")
    rows = trained.manifest.golden.matrix
    assert loaded.predict_proba(rows).tobytes() == trained.estimator.predict_proba(rows).tobytes()
