"""The models that score offline: a registered version, or those that scored when events were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from app.adapters.recordings.file import MODEL_UPDATES, Recording, RecordingError
from app.adapters.recordings.versions import read_versions
from app.core.scoring import ActiveModel
from app.replay.drive import RecordedSelector
from models.versions.registry import Registry, RegistryError, resolve
from models.versions.timeline import Begins
from models.versions.verify import Expected, verify
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import ModelUpdate, decode_json


def load_model(pipeline: Pipeline, registry: Registry, version: str, uri: str | None = None) -> ActiveModel:
    """A registered version, verified and ready to score.

    Parameters
    ----------
    uri
        Where it was when it was announced; tried when the registry does not have it.

    Raises
    ------
    RegistryError, RefusedModelError
        When it is not there, or is not what it should be.
    """
    name = pipeline.model.name
    try:
        manifest, artifact = registry.load(name, version)
    except RegistryError:
        if uri is None:
            raise
        manifest, artifact = resolve(uri)
    verified = verify(manifest, artifact, Expected(pipeline.feature_set, model=(name, version)))
    return ActiveModel.champion(pipeline, manifest, verified.scorer)


def load_recorded_models(pipeline: Pipeline, registry: Registry, recording: Recording) -> dict[int, RecordedSelector]:
    """A selector for each partition that scores its events with the versions of the recorded scores."""
    updates = list(_read_updates(recording))
    begins = Begins(updates, pipeline.model.score_from_ms)
    scored = {partition: read_versions(recording, partition, begins.highest_ms) for partition in recording.partitions}
    versions = sorted({version for recorded in scored.values() for _, version in recorded.starts})
    if not versions:
        raise RecordingError(f"{recording.path} holds no scores; choose a version by --models.")
    before_ms = begins.highest_ms
    may_be_refused = frozenset(update.version for update in updates).difference(versions)
    begins = Begins(updates, pipeline.model.score_from_ms, may_be_refused)
    if begins.highest_ms > before_ms:
        scored = {partition: read_versions(recording, partition, begins.highest_ms) for partition in scored}
    uris = {update.version: update.uri for update in updates}
    models = {version: load_model(pipeline, registry, version, uris.get(version)) for version in versions}
    # A partition without scores may have events that were never scored: the first version of all scores those.
    first = [(0, versions[0])]
    return {
        partition: RecordedSelector(recorded.starts or first, models, begins.of(recorded.starts), recorded.early)
        for partition, recorded in scored.items()
    }


def _read_updates(recording: Recording) -> Iterator[ModelUpdate]:
    for batch in recording.read(MODEL_UPDATES, 0):
        for value in batch.values:
            with suppress(RefusedRecordError):
                yield decode_json(value, ModelUpdate)
