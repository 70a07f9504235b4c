"""Training sets: what a stream would have served of the labelled events of a range of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.adapters.recordings.file import Recording
from app.adapters.recordings.part import reach_ms
from app.adapters.sources.features import compile_features
from app.adapters.sources.source import cut_with_promises, read_source
from app.core.batches import Floats, Ints
from app.core.counts.calendar import Window
from app.core.counts.stream_start import StreamStart
from app.core.drift.filling import Filling, FillTimes
from app.core.features.plan import FeaturePlan
from app.core.labels.delays import LabelDelays
from app.core.labels.held import Held, Refused
from app.core.labels.maturity import FEWEST_IN_TRAINING, LabelTimes, Maturity, weigh
from app.flow.step import Step
from app.replay.offline import run, run_recording
from models.training_rows import LabelledRows, TrainingRange, WeighedRows
from schemas.pipeline.spec import Pipeline

#: Events of a stream may pause for so long, at night and at weekends; where none is for longer, there was no stream.
_LONGEST_PAUSE_MS = 3 * 86_400_000


@dataclass(frozen=True, eq=False)
class TrainingSet(LabelledRows):
    """Labelled events in the order of their times, with their ids.

    They are the events that were old enough for their labels to have come. ``maturity``: what was left out, and why.
    ``filling``: features whose windows were not full at the beginning. ``young``: younger events to fit on as well, if
    they were asked for.
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

    Features are those that a stream would have served: an event sees what had arrived before it. Earlier records run as
    well, as far back as windows reach.

    Parameters
    ----------
    recording
        Where the records come from; None: the pipeline's source.
    maturity_ms
        How old an event must be when the last label is known; None: as the pipeline file says; 0: any.
    weigh_young
        Whether younger events with a label are given as well, weighed by how likely it is that the label has come
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
        # Labels in windows may belong to events that are older by the horizon.
        read_from_ms = from_ms - reach_ms(pipeline) - pipeline.horizon_ms
        chunks = read_source(pipeline, read_from_ms, to_ms)
        steps = run(pipeline, plan, cut_with_promises(chunks, pipeline), None)
    else:
        opened = Recording(recording)
        opened.check_fits(pipeline)
        steps = run_recording(pipeline, plan, opened, lambda _: None)
    maturity_ms = pipeline.performance.maturity_ms if maturity_ms is None else maturity_ms
    gathered = _Gathered(pipeline, from_ms, to_ms, maturity_ms)
    for step in steps:
        see(step)
        gathered.add(step)
    rows, known_ms = gathered.rows(), gathered.known_ms
    times = LabelTimes(from_ms, to_ms, known_ms, maturity_ms, pipeline.horizon_ms)
    law = gathered.delays.law(known_ms, FEWEST_IN_TRAINING)
    maturity = Maturity.of(rows.times, rows.labels, law, times, gathered.held())
    is_labelled, is_mature = ~np.isnan(rows.labels), times.is_old_enough(rows.times)
    young = None
    if weigh_young:
        maturity.check()
        (young_rows,) = np.nonzero(is_labelled & ~is_mature)
        weights = weigh(law, rows.labels[young_rows], times.ages_ms(rows.times[young_rows]))
        used, weights = young_rows[weights > 0], weights[weights > 0]
        young = WeighedRows(rows.matrix[used], rows.labels[used], rows.times[used], weights)
    (kept,) = np.nonzero(is_labelled & is_mature)
    event_ids = [rows.event_ids[row] for row in kept.tolist()]
    start_ms = gathered.stream_start.before(to_ms)
    if start_ms is not None and read_from_ms is not None and start_ms < read_from_ms + _LONGEST_PAUSE_MS:
        start_ms = None  # the source was not read from its start
    filling = FillTimes(pipeline).filling(pipeline.feature_names, Window(from_ms, to_ms), start_ms)
    return TrainingSet(rows.matrix[kept], rows.labels[kept], rows.times[kept], event_ids, maturity, filling, young)


class _Gathered:
    """What the steps of all partitions give: events of the range, and counts of all that was read."""

    def __init__(self, pipeline: Pipeline, from_ms: int, to_ms: int, maturity_ms: int) -> None:
        self.stream_start = StreamStart()
        self.delays = LabelDelays(pipeline.name, pipeline.drift.slice_ms, max(pipeline.horizon_ms, 1), maturity_ms)
        self._pipeline = pipeline
        self._from_ms = from_ms
        self._to_ms = to_ms
        self._rows: dict[int, _RangeRows] = {}
        self._tallies: dict[int, _ReadTally] = {}

    def add(self, step: Step) -> None:
        partition, slice_ms = step.partition, self._pipeline.drift.slice_ms
        if partition not in self._rows:
            self._rows[partition] = _RangeRows(self._from_ms, self._to_ms)
            self._tallies[partition] = _ReadTally(self._from_ms, self._to_ms, self.delays, self._pipeline.horizon_ms)
        self._rows[partition].add(step)
        self._tallies[partition].add(step)
        slices, counts = np.unique(step.events.event_time_ms // slice_ms, return_counts=True)
        for number, n in zip(slices.tolist(), counts.tolist(), strict=True):
            self.stream_start.add(number * slice_ms, n)

    def rows(self) -> _Rows:
        """The events of the range, of all partitions."""
        return _Rows.of([self._rows[partition] for partition in sorted(self._rows)], len(self._pipeline.features))

    @property
    def known_ms(self) -> int:
        """The last label of all partitions: beyond it, it is not known whether labels came or were not sent."""
        return max((tally.newest_label_ms for tally in self._tallies.values()), default=self._from_ms)

    def held(self) -> Held:
        """What was read of all partitions."""
        tallies = list(self._tallies.values())
        event_times_ms = [tally.event_times_ms for tally in tallies if tally.event_times_ms is not None]
        return Held(
            min((first for first, _ in event_times_ms), default=None),
            max((last for _, last in event_times_ms), default=None),
            sum(tally.n_labels for tally in tallies),
            min((tally.first_label_ms for tally in tallies if tally.first_label_ms is not None), default=None),
            sum(tally.n_strays for tally in tallies),
            sum((tally.refused_events for tally in tallies), Refused()),
            sum((tally.refused_labels for tally in tallies), Refused()),
        )


class _RangeRows:
    """One partition's events of the range, each with its label if that was known before the range's end."""

    def __init__(self, from_ms: int, to_ms: int) -> None:
        self._from_ms = from_ms
        self._to_ms = to_ms
        #: Event id -> row, of events without a label.
        self._unlabelled: dict[str, int] = {}
        self._is_over = False
        self.matrices: list[Floats] = []
        self.times: list[int] = []
        self.event_ids: list[str] = []
        self.labels: list[float] = []

    def add(self, step: Step) -> None:
        """Take a step; after the first event that is not before the range's end, nothing more was known in time."""
        if self._is_over:
            return
        times = step.events.event_time_ms
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
                self._unlabelled[step.events.event_id[row]] = len(self.times)
                self.times.append(int(times[row]))
                self.event_ids.append(step.events.event_id[row])
                self.labels.append(np.nan)

    def _label(self, event_id: str, label: float, effective_ms: int) -> None:
        row = self._unlabelled.pop(event_id, None)
        if row is not None and effective_ms < self._to_ms:
            self.labels[row] = label


class _ReadTally:
    """Counts what was read of one partition, in the range and beyond it, and how long its labels took."""

    def __init__(self, from_ms: int, to_ms: int, delays: LabelDelays, horizon_ms: int) -> None:
        self._to_ms = to_ms
        self._delays = delays
        #: From here on a source and a recording have the same events and labels.
        self._same_from_ms = from_ms - horizon_ms
        self.newest_label_ms = from_ms
        self.first_label_ms: int | None = None
        self.n_labels = self.n_strays = 0
        self.refused_events = self.refused_labels = Refused()
        self.event_times_ms: tuple[int, int] | None = None

    def add(self, step: Step) -> None:
        self.n_strays += len(step.labels.missing) + len(step.labels.late)
        for letter in step.dead_letters:
            refused = Refused(1, letter.detail if letter.detail.endswith(".") else f"{letter.detail}.")
            if letter.stage == "label":
                self.refused_labels += refused
            else:
                self.refused_events += refused
        if len(step.labels):
            self._add_labels(step)
        times = step.events.event_time_ms
        if len(times):
            first, last = self.event_times_ms or (int(times[0]), int(times[0]))
            self.event_times_ms = min(first, int(times.min())), max(last, int(times.max()))

    def _add_labels(self, step: Step) -> None:
        effective_ms, labels = np.array(step.labels.effective_ms), np.array(step.labels.label)
        times, is_known = step.labels.event_times(step.events), effective_ms < self._to_ms
        self.newest_label_ms = int(effective_ms[is_known].max(initial=self.newest_label_ms))
        self.n_labels += int(is_known.sum())
        first_ms = int(effective_ms.min())
        self.first_label_ms = min(first_ms, first_ms if self.first_label_ms is None else self.first_label_ms)
        is_known &= times >= self._same_from_ms
        self._delays.count_each(times[is_known], labels[is_known], (effective_ms - times)[is_known])


@dataclass(frozen=True, eq=False)
class _Rows:
    """The events of all partitions in the order of their times; NaN: no label."""

    matrix: Floats
    labels: Floats
    times: Ints
    event_ids: list[str]

    @classmethod
    def of(cls, partitions: list[_RangeRows], width: int) -> _Rows:
        matrix = np.concatenate([np.zeros((0, width)), *(matrix for part in partitions for matrix in part.matrices)])
        times = np.array([time for part in partitions for time in part.times], dtype=np.int64)
        labels = np.array([label for part in partitions for label in part.labels], dtype=np.float64)
        event_ids = [event_id for part in partitions for event_id in part.event_ids]
        order = np.argsort(times, kind="stable")
        return cls(matrix[order], labels[order], times[order], [event_ids[row] for row in order.tolist()])
