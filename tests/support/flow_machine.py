"""Everything that can happen to the flow of one partition, in any order, against `core_oracle`.

Records are written and delivered in any cuts; labels come early, late or never; the worker commits, dies, and goes on
from what it committed; versions are announced; promises are kept; clocks advance. At the end, what was committed must
be what the two logs say.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from core_oracle import Expected, Given, read, recompute
from core_setting import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, Setting, batch, build, event, label
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from app.core.counts.sketches import Sketch, split_record
from app.core.errors.stream import Errors
from app.core.intake.merge import BEGINNING_MS
from app.core.scoring import ActiveModel, ChampionTimeline
from app.flow.step import Step
from app.pipeline import PartitionPipeline
from models.reference.counting import count, count_outcomes
from models.reference.reference import Reference
from schemas.topics import WATERMARK_HEADER
from schemas.wire import DeadLetter, Score, SketchRecord, decode_packed, encode_packed

_NOW_MS = START_MS + 30 * DAY_MS

BAD_EVENTS: list[tuple[bytes | None, str]] = [
    (None, "tombstone"),
    (b"", "empty"),
    (b"rubbish", "not_json"),
    (event(1, START_MS, amount="7"), "wrong_type"),
    (event(1, START_MS, card=...), "missing_field"),
    (event(1, START_MS // 1000), "time_too_early"),
    (event(1, START_MS * 1000), "time_too_late"),
    (event(1, _NOW_MS + DAY_MS + 1), "time_ahead"),
    (event(1, START_MS, id=""), "empty_key"),
]
BAD_LABELS: list[tuple[bytes | None, str]] = [
    (None, "tombstone"),
    (b"{", "not_json"),
    (label("e1", START_MS, 7), "not_binary"),
    (label("e1", START_MS // 1000), "time_too_early"),
    (label("e1", _NOW_MS + DAY_MS + 1), "time_ahead"),
]


LATE_MINUTES = st.sampled_from([0, 0, 0, 0, 0, 1, 7, 40, 100, 250, 4000])
LABEL_MINUTES = st.sampled_from([0, 1, 3, 10, 20, 60, 120, 200])


@cache
def setting() -> Setting:
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder))


@cache
def version(number: int, valid_from_ms: int | None) -> ActiveModel:
    return setting().version(number, valid_from_ms)


@dataclass
class Written:
    """A record of one of the logs. ``reason``: of its dead letter, "" when it is good."""

    value: bytes | None
    reason: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    not_before: int = 0
    not_after: float = math.inf


@dataclass
class Output:
    """What was published; of one transaction, or of all that were committed."""

    scores: list[Score] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    joined: list[tuple[str, float, int]] = field(default_factory=list)
    timelines: dict[int, tuple[ActiveModel, ...]] = field(default_factory=dict)
    sketches: list[SketchRecord] = field(default_factory=list)

    def add(self, other: Output) -> None:
        self.scores += other.scores
        self.letters += other.letters
        self.joined += other.joined
        self.timelines |= other.timelines
        self.sketches += other.sketches


class FlowMachine(RuleBasedStateMachine):
    #: What all runs of this process came to.
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Written] = []
        self.labels: list[Written] = []
        self.minute = 0
        self.now_ms = _NOW_MS
        self.champions: tuple[ActiveModel, ...] = (version(1, None),)
        self.score_from_ms: int | None = None
        self.committed = Output()
        self.changelog: dict[bytes, bytes] = {}
        self.position = [0, 0]
        self.crashes = 0
        self._start()

    def _start(self) -> None:
        """A worker takes the partition over, from what was committed."""
        self.flow = PartitionPipeline(setting().pipeline, setting().plan, 0)
        self.flow.restore(list(self.changelog.items()))
        for champion in self.champions:
            self.flow.know(champion.version, champion.reference)
        self.delivered = list(self.position)
        self.open = Output()
        for written in self.labels[self.position[1] :]:
            written.not_before, written.not_after = 0, math.inf

    @property
    def stepped(self) -> int:
        """Good events that have been processed."""
        return len(self.committed.timelines) + len(self.open.timelines)

    # -- the world outside ---------------------------------------------------------------------------------------------

    @rule(found=st.lists(st.tuples(st.integers(0, 9), LATE_MINUTES, st.integers(0, 12)), min_size=1, max_size=12))
    def write_events(self, found: list[tuple[int, int, int]]) -> None:
        """In time mostly; sometimes out of order, or older than any window and horizon reaches."""
        for number, late, more in found:
            self.minute += more
            # Ids come again: a duplicate is an event of its own.
            value = event(number + len(self.events) // 8 * 5, START_MS + (self.minute - late) * MINUTE_MS)
            self.events.append(Written(value, fields=read(value)))

    @rule(bad=st.sampled_from(BAD_EVENTS))
    def write_bad_event(self, bad: tuple[bytes | None, str]) -> None:
        self.events.append(Written(*bad))

    @precondition(lambda self: self.events)
    @rule(found=st.lists(st.tuples(st.integers(0, 14), LABEL_MINUTES, st.sampled_from([0, 1])), min_size=1, max_size=9))
    def write_labels(self, found: list[tuple[int, int, int]]) -> None:
        """Of recent events mostly, again, too late, or of none."""
        good = [written for written in self.events if not written.reason]
        for ago, minutes, value in found:
            fields = good[-1 - ago].fields if ago < len(good) else {"id": "unknown", "at": START_MS}
            data = label(fields["id"], fields["at"] + minutes * MINUTE_MS, value)
            self.labels.append(Written(data, fields=read(data)))

    @rule(bad=st.sampled_from(BAD_LABELS))
    def write_bad_label(self, bad: tuple[bytes | None, str]) -> None:
        self.labels.append(Written(*bad))

    @rule(ahead=st.integers(-30, 90))
    def write_watermark(self, ahead: int) -> None:
        time_ms = START_MS + (self.minute + ahead) * MINUTE_MS
        fields = {"event_id": "", "label": math.nan, "label_time_ms": time_ms}
        self.labels.append(Written(None, headers=((WATERMARK_HEADER, str(time_ms).encode()),), fields=fields))

    @initialize(first=st.none() | st.integers(0, 8), score_from=st.none() | st.integers(0, 8))
    def begin(self, first: int | None, score_from: int | None) -> None:
        """From when on events are scored at all."""
        self.champions = (version(1, None if first is None else START_MS + first * HOUR_MS),)
        self.score_from_ms = None if score_from is None else START_MS + score_from * HOUR_MS

    @rule(hours=st.none() | st.integers(0, 8))
    def announce_version(self, hours: int | None) -> None:
        valid_from_ms = None if hours is None else START_MS + hours * HOUR_MS
        champion = version(len(self.champions) + 1, valid_from_ms)
        self.champions = (*self.champions, champion)
        self.flow.know(champion.version, champion.reference)

    @rule(by_ms=st.integers(-HOUR_MS, HOUR_MS))
    def move_clock(self, by_ms: int) -> None:
        self.now_ms += by_ms

    # -- the worker ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.delivered[0] < len(self.events))
    @rule(most=st.integers(1, 9))
    def deliver_events(self, most: int) -> None:
        start = self.delivered[0]
        found = self.events[start : start + most]
        self.delivered[0] += len(found)
        stamps = [_NOW_MS] * len(found)
        self.flow.receive_events(
            batch("cards.events", [w.value for w in found], stamps, first=start), self.now_ms + DAY_MS
        )

    @precondition(lambda self: self.delivered[1] < len(self.labels))
    @rule(most=st.integers(1, 9))
    def deliver_labels(self, most: int) -> None:
        start = self.delivered[1]
        found = self.labels[start : start + most]
        self.delivered[1] += len(found)
        for written in found:
            written.not_before = self.stepped
        headers = [w.headers for w in found]
        records = batch("cards.labels", [w.value for w in found], [_NOW_MS] * len(found), first=start, headers=headers)
        self.flow.receive_labels(records, self.now_ms, self.now_ms + DAY_MS)

    @precondition(lambda self: self.flow.merge.holds_back)
    @rule(all_labels=st.booleans())
    def let_go(self, all_labels: bool) -> None:
        """The labels are read to their end; or waited for in vain."""
        if all_labels and self.delivered[1] < len(self.labels):
            self.deliver_labels(len(self.labels))
        self.flow.merge.let_go(self.flow.merge.events_received)

    @rule(most=st.sampled_from([1, 2, 5, 5000]))
    def step(self, most: int) -> None:
        self._take(self.flow.step(ChampionTimeline(self.champions, self.score_from_ms), most, self.now_ms))

    def _take(self, step: Step | None) -> None:
        if step is None:
            return
        assert step.n_scored == len(step.outgoing_scores)
        assert len(step.events) == len(step.matrix)
        self.open.scores += [msgspec.json.decode(value or b"", type=Score) for _, value, _ in step.outgoing_scores]
        self.open.timelines |= dict.fromkeys(step.events.offsets.tolist(), self.champions)
        self.open.letters += step.dead_letters
        joined = step.labels
        self.open.joined += zip(joined.event_id, joined.label, joined.label_time_ms, strict=True)

    @precondition(lambda self: not self.flow.merge.has_events and self.delivered[0] == len(self.events))
    @rule()
    def keep_promise(self) -> None:
        promised = self.flow.merge.newest_watermark_record_ms()
        if promised is None:
            return
        self._apply_labels(lambda: self.flow.keep_promise(promised, self.now_ms))

    def _apply_labels(self, apply: Any) -> None:
        """Apply labels without an event; remember which."""
        start = self.flow.merge.first_label_offset()
        self._take(apply())
        stop = self.flow.merge.first_label_offset()
        for written in (
            self.labels[start : stop if stop is not None else self.delivered[1]] if start is not None else []
        ):
            written.not_after = min(written.not_after, self.stepped)

    @rule()
    def work(self) -> None:
        """What a worker does when all is well."""
        self.let_go_all()
        self.step(5000)
        self.commit()

    def let_go_all(self) -> None:
        while self.delivered[0] < len(self.events):
            self.deliver_events(7)
        while self.delivered[1] < len(self.labels):
            self.deliver_labels(7)
        self.flow.merge.let_go(self.flow.merge.events_received)

    @rule()
    def commit(self) -> None:
        record = self.flow.drain_sketch()
        if record is not None:
            parts = [decode_packed(encode_packed(part), SketchRecord) for part in split_record(record, 700)]
            assert [part.watermark_ms for part in parts][-1] == record.watermark_ms
            self.open.sketches += parts
        for key, value in self.flow.drain_state():
            self.changelog.pop(key, None)
            if value is not None:
                self.changelog[key] = value
        position = self.flow.position()
        self.position = [position.events or self.position[0], position.labels or self.position[1]]
        self.committed.add(self.open)
        self.open = Output()

    @rule()
    def crash(self) -> None:
        """What was not committed is read again."""
        self.crashes += 1
        self._start()

    # -- the verdict ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.let_go_all()
        while self.flow.merge.has_events:
            self.step(3)
        self._apply_labels(lambda: self.flow.finish(self.now_ms))
        self.commit()
        expected = self._expected()
        self._check_scores(expected)
        self._check_letters()
        self._check_counts(expected)
        assert sum(record.unscored for record in self.committed.sketches) == len(expected.unscored)
        assert self.committed.joined == expected.joined
        assert self.position == [len(self.events), len(self.labels)]
        assert self._waiting() == expected.waiting
        self._start()
        assert self._waiting() == expected.waiting
        self.tally.update(runs=1, events=len(self.events), scores=len(self.committed.scores), crashes=self.crashes)
        self.tally.update(
            letters=len(self.committed.letters), unscored=len(expected.unscored), joined=len(self.committed.joined)
        )
        marks = [r.watermark_ms for r in self.committed.sketches if r.watermark_ms > -(2**62)]
        assert max(marks, default=0) <= _NOW_MS + DAY_MS

    def _expected(self) -> Expected:
        events = [Given(offset, w.fields) for offset, w in enumerate(self.events) if not w.reason]
        labels = [
            Given(offset, w.fields, w.not_before, w.not_after) for offset, w in enumerate(self.labels) if not w.reason
        ]
        return recompute(setting().pipeline, events, labels, self.committed.timelines, self.score_from_ms)

    def _waiting(self) -> dict[str, tuple[int, str]]:
        waiting = self.flow._state.pending._waiting  # what no output shows
        return {name: (scored.effective_ms, scored.version) for name, scored in waiting.items()}

    def _check_scores(self, expected: Expected) -> None:
        names = setting().pipeline.feature_names
        assert [score.source.offset for score in self.committed.scores] == list(expected.scores)
        for score in self.committed.scores:
            offset = score.source.offset
            features = [math.nan if score.features[name] is None else score.features[name] for name in names]
            assert np.array(features).tobytes() == np.array(expected.features[offset]).tobytes(), (offset, features)
            assert (score.version, score.score) == expected.scores[offset]
            fields = self.events[offset].fields
            assert (score.event_id, score.entity, score.event_time_ms) == (fields["id"], fields["card"], fields["at"])

    def _check_letters(self) -> None:
        for topic, log in (("cards.events", self.events), ("cards.labels", self.labels)):
            found = Counter(
                (d.source.offset, d.reason, d.value) for d in self.committed.letters if d.source.topic == topic
            )
            assert found == {(offset, w.reason, w.value): 1 for offset, w in enumerate(log) if w.reason}

    def _check_counts(self, expected: Expected) -> None:
        found: dict[tuple[str, int], Sketch] = {}
        for record in self.committed.sketches:
            for delta in record.deltas:
                found.setdefault((delta.version, delta.slice_start_ms), Sketch()).add(delta)
        references = {champion.version: champion.reference for champion in self.champions}
        assert found.keys() == expected.counted.keys()
        for place, (rows, outcomes) in expected.counted.items():
            reference = references[place[0]]
            counts = reference.zeros()
            if rows:
                counts += count(reference, np.array([row for row, _ in rows]), np.array([score for _, score in rows]))
            if outcomes:
                counts += count_outcomes(reference, *(np.array(column) for column in zip(*outcomes, strict=True)))
            mine = vars(found[place].to_counts(reference))
            assert {k: _bits(v) for k, v in mine.items()} == {k: _bits(v) for k, v in vars(counts).items()}
        self._check_errors(found, references)

    def _check_errors(self, found: dict[tuple[str, int], Sketch], references: dict[str, Reference]) -> None:
        """Each label that counts is one decision, and none comes before what was said of labels by then."""
        numbers = Counter[str]()
        said_ms = BEGINNING_MS
        for record in self.committed.sketches:
            for run in record.errors:
                errors = Errors.of(run)
                assert errors.times_ms.min() >= said_ms
                numbers.update({run.version: len(errors.wrong), f"{run.version} wrong": int(errors.wrong.sum())})
            said_ms = max(said_ms, record.label_watermark_ms)
        counted = {version for version, _ in found}
        for version, reference in references.items():
            counts = [sketch.to_counts(reference) for (of, _), sketch in found.items() if of == version]
            lost = sum(each.n_labels for each in counts) - numbers[version]
            wrong_lost = sum(each.n_labels - each.n_correct for each in counts) - numbers[f"{version} wrong"]
            assert 0 <= wrong_lost <= lost
            assert not lost or len(counted) > 1  # of a version that was replaced, late labels are left out


def _bits(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value
