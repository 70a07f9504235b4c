"""What is known of one window of one version: counts, labels, traffic, what is not compared, what is to be judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.sketches import ALL, Sketch
from app.core.drift.budget import OF_LABELS, OF_OUTCOMES, alpha_of_window, of_windows
from app.core.drift.judgement import View
from app.core.drift.over_time import Past
from app.core.drift.silences import Silence, is_shared, server
from app.core.faults.since import Course, Part
from app.core.faults.traffic import Traffic, choose_past, events_by_hour, events_due, of_same_season
from app.core.findings import Subject
from app.core.labels.delays import COMPLETE
from app.core.labels.selection import WindowLabels, find_one_kind, find_selection
from app.core.performance.label_checks import thinning

if TYPE_CHECKING:
    from app.core.batches import Ints
    from app.core.counts.calendar import Calendar, Window
    from app.core.counts.windows import Stage, WindowStore
    from app.core.drift.filling import Filling, FillTimes
    from app.core.drift.history import History
    from app.core.errors.stream import Errors
    from app.core.labels.delays import LabelDelays
    from app.core.monitoring.versions import WatchedVersion
    from models.reference.reference import Counts
    from schemas.pipeline.spec import Pipeline


@dataclass(frozen=True, eq=False)
class Sources:
    """Where all that is known of windows is kept.

    Parameters
    ----------
    pipeline, calendar
        What is monitored, and how its time is cut.
    versions
        The registered ones.
    store
        The counts of windows.
    history
        The deciles of past windows, and their numbers of events.
    delays
        How long labels take.
    fill_times
        How long features take to fill.
    """

    pipeline: Pipeline
    calendar: Calendar
    versions: dict[str, WatchedVersion]
    store: WindowStore
    history: History
    delays: LabelDelays
    fill_times: FillTimes

    def of_full_features(self, errors: Errors) -> Errors:
        """Those of events whose features were filled: while they are filling, a model does worse than in training."""
        filling_ms = self.fill_times.longest_ms
        if not filling_ms:
            return errors
        filling_ms += self.pipeline.performance.maturity_ms  # until the last of their labels has come
        slices, at = np.unique(errors.times_ms // self.pipeline.drift.slice_ms, return_inverse=True)
        ends_ms = (slices + 1) * self.pipeline.drift.slice_ms
        began = [self.store.start.before(end_ms) for end_ms in ends_ms.tolist()]
        full_ms = np.array([-math.inf if start_ms is None else start_ms + filling_ms for start_ms in began])
        is_full = errors.times_ms >= full_ms[at]
        return errors.take(np.flatnonzero(is_full))

    def of_own_windows(self, version: str, errors: Errors) -> Errors:
        """Those of events in windows that no other version shares: in a swap, the events that one keeps are no sample.

        A decision counts a maturity after its event, or when its label comes if that is later: those few are left in.
        """
        slice_ms = self.pipeline.drift.slice_ms
        slices, at = np.unique(
            (errors.times_ms - self.pipeline.performance.maturity_ms) // slice_ms, return_inverse=True
        )
        windows = [self.calendar.windows_of(self.calendar.pane_at(number * slice_ms)) for number in slices.tolist()]
        is_own = [not any(is_shared(version, self.store.panes.n_scored(window)) for window in held) for held in windows]
        return errors.take(np.flatnonzero(np.array(is_own, np.bool_)[at]))


class VersionWindow:
    """One window of one version, as it is known now; changes nothing."""

    def __init__(self, sources: Sources, window: Window, version: str) -> None:
        self.window = window
        self.version = version
        self._sources = sources

    @property
    def known(self) -> WatchedVersion:
        return self._sources.versions[self.version]

    def about(self, revision: int) -> Subject:
        """What rows say that they are about."""
        pipeline = self._sources.pipeline
        return Subject(pipeline.name, pipeline.model.name, self.version, self.window, revision)

    @property
    def is_mature(self) -> bool:
        """Whether its labels are final."""
        return self._sources.store.is_mature(self.window)

    @cached_property
    def counts(self) -> dict[str, Counts]:
        """By segment, those of all events first."""
        return self._counts_of(self.window)

    @property
    def whole(self) -> Counts:
        """Of all events."""
        return self.counts[ALL]

    @cached_property
    def labels(self) -> WindowLabels:
        """What is known of its labels."""
        if not self.is_mature:
            return WindowLabels(is_mature=False)
        arrived = self._sources.delays.arrived(self.window)
        one_kind = find_one_kind(self.known.reference, self.whole) if arrived is not None else None
        labels = WindowLabels(True, arrived, one_kind)
        # Labels of one kind are not those of chosen events: where the scores are high, more come true. And young labels
        # may only seem to be chosen.
        if arrived is None or min(arrived) < COMPLETE or labels.unsent is not None:
            return labels
        return labels._replace(chosen=find_selection(self.known.reference, self.whole))

    @cached_property
    def silence(self) -> Silence:
        """What is not compared."""
        store, fill_times = self._sources.store, self._sources.fill_times
        filling: list[Filling] = []
        if fill_times.longest_ms:
            began_ms = store.start.before(self.window.end_ms)
            filling = fill_times.filling(self.known.reference.names, self.window, began_ms)
        return Silence(self.version, is_shared(self.version, store.panes.n_scored(self.window)), filling)

    @cached_property
    def past(self) -> list[Window]:
        """The windows before it that it is compared with."""
        return self._sources.history.before(self.window)

    def alpha(self, share: float) -> float:
        """What a share of the budget of false alarms allows it to spend."""
        false_alarms, step_ms = self._sources.pipeline.drift.false_alarms, self._sources.calendar.step_ms
        return alpha_of_window(false_alarms, share, step_ms, self.whole.n)

    @property
    def alpha_of_labels(self) -> float:
        """What the tests of its labels may spend."""
        return self.alpha(OF_LABELS)

    def view(self, stage: Stage) -> View:
        """What is to be judged of it."""
        return self._view(self.known.metrics(stage))

    def view_of_sizes(self) -> View:
        """Its numbers of events alone."""
        return self._view(range(0))

    def _view(self, metrics: range) -> View:
        known, drift, has_labels = self.known, self._sources.pipeline.drift, self._sources.pipeline.labels is not None
        reference, absence = self._reference()
        share = of_windows(has_labels=has_labels, has_detectors=bool(drift.detectors))
        silent = self.silence.notes(known.reference.metrics, metrics)
        outcome = len(known.reference.metrics) - 1
        if outcome in metrics:
            share = OF_OUTCOMES
            if self.labels.silence:
                silent[outcome] = self.labels.silence
            elif self.labels.arrived is not None and drift.against is None:  # of past windows, as many are here
                reference[:, outcome, :2] = np.rint(reference[:, outcome, :2] * thinning(self.labels.arrived))
        return View(
            segments=list(self.counts),
            rows=metrics,
            reference=reference,
            detection=np.stack([sketch.counts for sketch in self.counts.values()]),
            past=self._over_time(metrics),
            alpha=self.alpha(share),
            absence=absence,
            silent=silent,
        )

    def _reference(self) -> tuple[Ints, str]:
        """The counts that it is compared with, segments x metrics x cells; and why a segment has none."""
        known, drift = self.known, self._sources.pipeline.drift
        if drift.against is None:
            against, absence = dict(known.reference.by_segment()), "training had no such events"
        else:
            before = self._sources.calendar.before(self.window, drift.against)
            is_own = before < self.window and not is_shared(self.version, self._sources.store.panes.n_scored(before))
            against = self._counts_of(before) if is_own else {}
            absence = f"version {self.version} scored none of {before}, which it is compared with, or only a part"
        nothing = known.reference.zeros()
        return np.stack([against.get(segment, nothing).counts for segment in self.counts]), absence

    def _over_time(self, metrics: range) -> list[Past]:
        """Of each segment: what is known of metrics over time."""
        history, past = self._sources.history, self.past
        names = tuple(self.known.reference.metrics[row].name for row in metrics)
        times = np.array([self._sources.calendar.ordinal(window) for window in (*past, self.window)], np.float64)
        return [
            Past(
                times=times,
                deciles=history.past(past, self.version, segment, names),
                current=history.current(self.window, self.version, segment, names),
                reference=self.known.training_deciles[metrics.start : metrics.stop],
            )
            for segment in self.counts
            if names
        ]

    def course(self) -> Course | None:
        """Its parts, and those of the one before; None where that was not the version's own, or is not known."""
        parts, before = self._sources.store.parts, self._sources.calendar.preceding(self.window)
        if is_shared(self.version, parts.numbers(before)) or not parts.of(before, self.version):
            return None
        reference = self.known.reference
        current, earlier = (
            [Part(start_ms, sketch.to_counts(reference)) for start_ms, sketch in parts.of(window, self.version)]
            for window in (self.window, before)
        )
        return Course(current, earlier, self.window.start_ms - before.start_ms)

    def traffic(self) -> Traffic | None:
        """How many events past windows and this one had, whichever version scored them; one version tells it."""
        if self.version != server(self._sources.store.panes.n_scored(self.window)):
            return None
        past_windows, events = self.past, self._sources.history.events
        compared = choose_past(self.window, past_windows)
        past, current = [events(window) for window in compared], events(self.window)
        segments = sorted({segment for numbers in (*past, current) for segment in numbers} - {ALL})
        season = of_same_season(self.window, compared) if compared is past_windows else []
        return Traffic(
            n=current.get(ALL, 0),
            past=[numbers.get(ALL, 0) for numbers in past],
            season=[events(window).get(ALL, 0) for window in season],
            segments={segment: [numbers.get(segment, 0) for numbers in past] for segment in segments},
            segments_now={segment: current.get(segment, 0) for segment in segments},
            promised=lambda: self._promised(compared),
        )

    def _promised(self, past: list[Window]) -> tuple[float, list[float]]:
        """How many events the hours of the version's training promise for this window and for past ones."""
        by_hour = events_by_hour(self.known.reference.errors.events, self.known.training)
        return events_due(by_hour, self.window), [events_due(by_hour, window) for window in past]

    def _counts_of(self, window: Window) -> dict[str, Counts]:
        reference = self.known.reference
        held = self._sources.store.panes.counts(window, self.version)
        segments = [ALL, *sorted(held.keys() - {ALL})]
        return {segment: held.get(segment, Sketch()).to_counts(reference) for segment in segments}
