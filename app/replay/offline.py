"""The core without Kafka: training sets, replays and batch runs over a source or a recording.

What a stream would give is what these give: the same flow of each partition, in the same order.

Over 350 lines: all that runs the core without Kafka is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.adapters.recordings.file import (
    EVENTS,
    LABELS,
    MODEL_UPDATES,
    RecordedLog,
    Recording,
    RecordingError,
    read_versions,
)
from app.adapters.recordings.part import reach_ms
from app.adapters.sources.features import compile_features
from app.adapters.sources.source import cut_with_promises, read_source
from app.core.batches import Floats, Ints, Promise, RecordBatch
from app.core.counts.calendar import Window
from app.core.counts.stream_start import StreamStart
from app.core.drift.filling import Filling, FillTimes
from app.core.features.plan import FeaturePlan
from app.core.labels.delays import LabelDelays
from app.core.labels.held import Held, Refused
from app.core.labels.maturity import FEWEST_IN_TRAINING, LabelTimes, Maturity, weigh
from app.core.scoring import ActiveModel, ModelSelector
from app.flow.step import Step
from app.pipeline import new_board
from app.replay.drive import PartitionRun, RecordedSelector, drive, drive_partitions, new_flow
from models.training_rows import LabelledRows, TrainingRange, WeighedRows
from models.versions.registry import Registry, RegistryError, resolve
from models.versions.timeline import Begins
from models.versions.verify import Expected, verify
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import ModelUpdate, decode_json

#: Processing time of an offline run; nothing depends on it.
OFFLINE_MS = 0
#: Events of a stream may pause for so long, at night and at weekends; where none is for longer, there was no stream.
_LONGEST_PAUSE_MS = 3 * 86_400_000


def run(
    pipeline: Pipeline,
    plan: FeaturePlan,
    log: Iterable[RecordBatch | Promise],
    models: ModelSelector | Callable[[int], ModelSelector | None] | None,
    now_ms: int = OFFLINE_MS,
) -> Iterator[Step]:
    """Run batches of the events and labels topics, as they come, through the core; at their end everything goes.

    Parameters
    ----------
    log
        Each topic partition in its order; partitions and topics may interleave in any way.
    models
        Who scores; a function gives each partition its own. None: features alone.
    """
    models_of = models if callable(models) else lambda _: models
    yield from drive(pipeline, plan, log, models_of, now_ms)


def run_recording(
    pipeline: Pipeline,
    plan: FeaturePlan,
    recording: RecordedLog,
    models_of: Callable[[int], ModelSelector | None],
    now_ms: int = OFFLINE_MS,
) -> Iterator[Step]:
    """Run a recording, in bounded memory: one partition after the other, or side by side where they share windows."""
    board = new_board(plan, recording.partitions)
    runs = []
    for partition in recording.partitions:
        models = models_of(partition)
        labels = recording.read(LABELS, partition, pipeline) if pipeline.labels is not None else iter(())
        flow = new_flow(pipeline, plan, partition, models, board=board)
        runs.append(PartitionRun(flow, models, recording.read(EVENTS, partition, pipeline), labels))
    yield from drive_partitions(runs, board, now_ms)


# -- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrainingSet(LabelledRows):
    """Labelled events in the order of their times, with their ids.

    They are those that were old enough for their labels to have come. ``maturity``: what was left out, and why.
    ``filling``: features that were not full yet at their beginning. ``young``: others that may be fitted on beside
    them, if that was asked for.
    """

    event_id: list[str]
    maturity: Maturity
    filling: list[Filling]
    young: WeighedRows | None = None

    def to_training_range(self) -> TrainingRange:
        """What `models.training.train` learns from."""
        maturity, n_weighed = self.maturity, 0 if self.young is None else len(self.young)
        facts = maturity.facts(n_weighed)
        return TrainingRange(self, maturity.times.from_ms, maturity.times.to_ms, maturity.n_events, self.young, facts)


def build_training_set(
    pipeline: Pipeline,
    recording: Path | None,
    from_ms: int,
    to_ms: int,
    plan: FeaturePlan | None = None,
    *,
    maturity_ms: int | None = None,
    weigh_young: bool = False,
    see: Callable[[Step], None] = lambda _: None,
) -> TrainingSet:
    """The labelled events of from_ms <= event time < to_ms whose labels must have come before ``to_ms``.

    Features are those that a stream would have served: each event sees what had arrived before it. Earlier records are
    run as well, as far back as windows reach.

    Parameters
    ----------
    recording
        Where the records come from; None: the pipeline's source.
    maturity_ms
        How old an event must be when the last label is known; None: as the pipeline file says; 0: any.
    weigh_young
        Younger events with a label are given as well, weighed by how likely it is to be here
        (`app.core.labels.maturity`).
    see
        Is shown each step.

    Raises
    ------
    PipelineError, SourceError, RecordingError
        When the data cannot be read.
    MaturityError
        When young events are asked for and cannot be weighed, or no model of these labels can be right.
    """
    plan = plan or compile_features(pipeline)
    read_from_ms = None
    if recording is None:
        # Labels in windows belong to events that waited for the horizon.
        read_from_ms = from_ms - reach_ms(pipeline) - pipeline.horizon_ms
        chunks = read_source(pipeline, read_from_ms, to_ms)
        steps = run(pipeline, plan, cut_with_promises(chunks, pipeline), None)
    else:
        opened = Recording(recording)
        opened.check_fits(pipeline)
        steps = run_recording(pipeline, plan, opened, lambda _: None)
    collectors: dict[int, _Collector] = {}
    maturity_ms = pipeline.performance.maturity_ms if maturity_ms is None else maturity_ms
    stream_start = StreamStart()
    delays = LabelDelays(pipeline.name, pipeline.drift.slice_ms, max(pipeline.horizon_ms, 1), maturity_ms)
    for step in steps:
        see(step)
        collector = collectors.get(step.partition)
        if collector is None:
            collector = collectors[step.partition] = _Collector(from_ms, to_ms, delays, pipeline.horizon_ms)
        collector.add(step)
        slices, counts = np.unique(step.events.event_time_ms // pipeline.drift.slice_ms, return_counts=True)
        for number, n in zip(slices.tolist(), counts.tolist(), strict=True):
            stream_start.add(number * pipeline.drift.slice_ms, n)
    rows = _Rows.of([collectors[partition] for partition in sorted(collectors)], len(pipeline.features))
    # After the last label of all partitions, nobody knows whether labels came or were not sent.
    known_ms = max((each.newest_label_ms for each in collectors.values()), default=from_ms)
    times = LabelTimes(from_ms, to_ms, known_ms, maturity_ms, pipeline.horizon_ms)
    law = delays.law(known_ms, FEWEST_IN_TRAINING)
    maturity = Maturity.of(rows.times, rows.labels, law, times, _held(list(collectors.values())))
    is_labelled, is_mature = ~np.isnan(rows.labels), times.is_old_enough(rows.times)
    young = None
    if weigh_young:
        maturity.check()
        (others,) = np.nonzero(is_labelled & ~is_mature)
        weights = weigh(law, rows.labels[others], times.ages_ms(rows.times[others]))
        used, weights = others[weights > 0], weights[weights > 0]
        young = WeighedRows(rows.matrix[used], rows.labels[used], rows.times[used], weights)
    (kept,) = np.nonzero(is_labelled & is_mature)
    event_ids = [rows.event_ids[row] for row in kept.tolist()]
    start_ms = stream_start.before(to_ms)
    if start_ms is not None and read_from_ms is not None and start_ms < read_from_ms + _LONGEST_PAUSE_MS:
        start_ms = None  # the source was not read from its start
    filling = FillTimes(pipeline).filling(pipeline.feature_names, Window(from_ms, to_ms), start_ms)
    return TrainingSet(rows.matrix[kept], rows.labels[kept], rows.times[kept], event_ids, maturity, filling, young)


class _Collector:
    """Gathers one partition's rows, and the labels that were known in time; counts how long they took."""

    def __init__(self, from_ms: int, to_ms: int, delays: LabelDelays, horizon_ms: int) -> None:
        self._from_ms = from_ms
        self._to_ms = to_ms
        self._delays = delays
        #: From here on a source and a recording have the same events and labels.
        self._same_from_ms = from_ms - horizon_ms
        self._rows: dict[str, int] = {}
        self._is_over = False
        self.newest_label_ms = from_ms
        self.n_labels = self.n_strays = 0
        self.refused_events = self.refused_labels = Refused()
        self.first_label_ms: int | None = None
        self.event_times_ms: tuple[int, int] | None = None
        self.matrices: list[Floats] = []
        self.times: list[int] = []
        self.event_ids: list[str] = []
        self.labels: list[float] = []

    def add(self, step: Step) -> None:
        """Take a step; from the first event that is not before the range's end on, nothing more was known in time."""
        self.n_strays += len(step.labels.missing) + len(step.labels.late)
        for letter in step.dead_letters:
            refused = Refused(1, letter.detail if letter.detail.endswith(".") else f"{letter.detail}.")
            if letter.stage == "label":
                self.refused_labels += refused
            else:
                self.refused_events += refused
        if len(step.labels):
            self._count(step)
        times = step.events.event_time_ms
        if len(times):
            first, last = self.event_times_ms or (int(times[0]), int(times[0]))
            self.event_times_ms = min(first, int(times.min())), max(last, int(times.max()))
        if self._is_over:
            return
        beyond = np.flatnonzero(times >= self._to_ms)
        stop = int(beyond[0]) if len(beyond) else len(times)
        self._is_over = stop < len(times)
        kept = np.flatnonzero(times[:stop] >= self._from_ms).tolist()
        self.matrices.append(step.matrix[kept])
        joined, place = step.labels, 0
        for row in [*kept, stop]:
            while place < len(joined) and joined.before[place] <= row:
                self._label(joined.event_id[place], joined.label[place], joined.effective_ms[place])
                place += 1
            if row < stop:
                self._rows[step.events.event_id[row]] = len(self.times)
                self.times.append(int(times[row]))
                self.event_ids.append(step.events.event_id[row])
                self.labels.append(np.nan)

    def _label(self, event_id: str, label: float, effective_ms: int) -> None:
        row = self._rows.pop(event_id, None)
        if row is not None and effective_ms < self._to_ms:
            self.labels[row] = label

    def _count(self, step: Step) -> None:
        effective_ms, labels = np.array(step.labels.effective_ms), np.array(step.labels.label)
        times, is_known = step.labels.event_times(step.events), effective_ms < self._to_ms
        self.newest_label_ms = int(effective_ms[is_known].max(initial=self.newest_label_ms))
        self.n_labels += int(is_known.sum())
        first_ms = int(effective_ms.min())
        self.first_label_ms = min(first_ms, first_ms if self.first_label_ms is None else self.first_label_ms)
        is_known &= times >= self._same_from_ms
        self._delays.count_each(times[is_known], labels[is_known], (effective_ms - times)[is_known])


def _held(collectors: list[_Collector]) -> Held:
    events = [each.event_times_ms for each in collectors if each.event_times_ms is not None]
    return Held(
        min((first for first, _ in events), default=None),
        max((last for _, last in events), default=None),
        sum(each.n_labels for each in collectors),
        min((each.first_label_ms for each in collectors if each.first_label_ms is not None), default=None),
        sum(each.n_strays for each in collectors),
        sum((each.refused_events for each in collectors), Refused()),
        sum((each.refused_labels for each in collectors), Refused()),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """The events of all partitions in the order of their times; NaN: no label."""

    matrix: Floats
    labels: Floats
    times: Ints
    event_ids: list[str]

    @classmethod
    def of(cls, collectors: list[_Collector], width: int) -> _Rows:
        matrix = np.concatenate([np.zeros((0, width)), *(matrix for found in collectors for matrix in found.matrices)])
        times = np.array([time for found in collectors for time in found.times], dtype=np.int64)
        labels = np.array([label for found in collectors for label in found.labels], dtype=np.float64)
        event_ids = [event_id for found in collectors for event_id in found.event_ids]
        order = np.argsort(times, kind="stable")
        return cls(matrix[order], labels[order], times[order], [event_ids[row] for row in order.tolist()])


# -- models ----------------------------------------------------------------------------------------------------------


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
    return ActiveModel(
        model=name,
        version=version,
        role="champion",
        feature_set=manifest.feature_set,
        threshold=pipeline.model.threshold,
        scorer=verified.scorer,
        reference=manifest.read_reference(),
    )


def load_recorded_models(pipeline: Pipeline, registry: Registry, recording: Recording) -> dict[int, RecordedSelector]:
    """A selector for each partition that scores its events with the versions of the recorded scores."""
    updates = list(_read_updates(recording))
    begins = Begins(updates, pipeline.model.score_from_ms)
    found = {partition: read_versions(recording, partition, begins.highest_ms) for partition in recording.partitions}
    versions = sorted({version for of in found.values() for _, version in of.starts})
    if not versions:
        raise RecordingError(f"{recording.path} holds no scores; choose a version by --models.")
    before_ms = begins.highest_ms
    may_be_refused = frozenset(update.version for update in updates).difference(versions)
    begins = Begins(updates, pipeline.model.score_from_ms, may_be_refused)
    if begins.highest_ms > before_ms:
        found = {partition: read_versions(recording, partition, begins.highest_ms) for partition in found}
    uris = {update.version: update.uri for update in updates}
    models = {version: load_model(pipeline, registry, version, uris.get(version)) for version in versions}
    # A partition without scores may have events that were never scored: the first version of any partition does those.
    first = [(0, versions[0])]
    return {
        partition: RecordedSelector(of.starts or first, models, begins.of(of.starts), of.early)
        for partition, of in found.items()
    }


def _read_updates(recording: Recording) -> Iterator[ModelUpdate]:
    for batch in recording.read(MODEL_UPDATES, 0):
        for value in batch.values:
            with suppress(RefusedRecordError):
                yield decode_json(value, ModelUpdate)
