"""The state of one partition as its changelog holds it: windows, events that wait for labels, what is shared."""

from __future__ import annotations

from typing import Any

import msgspec

from app.core.features.plan import FeaturePlan
from app.core.features.state_log import META, TILES, Generation, Restored, StateReader
from app.core.intake.pending import PendingEvents
from app.core.intake.sent_once import SentOnce
from app.core.records.rules import RecordRules
from app.core.shared.part import SharedPart
from app.core.tiles.row_cache import RowCache, Snapshot
from app.core.tiles.stored import Change
from app.flow.inputs import QueuedEvents
from app.flow.marks import Marks
from schemas.pipeline.spec import Pipeline


class FlowState:
    """What a partition remembers between two runs.

    Parameters
    ----------
    shared
        Its part of the windows that partitions share; None: there are none.
    rows
        The rows of the windows that are on disk; None: all are in memory.
    is_drained
        False: nothing will be drained, so no changelog is kept.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        shared: SharedPart[QueuedEvents] | None,
        rows: RowCache | None,
        *,
        is_drained: bool,
    ) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self.shared = shared
        self._is_drained = is_drained
        self._generation = Generation()
        self._to_share: list[Change] = []
        self._to_repartition: list[tuple[int, bytes]] = []
        self.rows = rows
        self.windows = plan.new_state(with_changelog=is_drained, rows=rows)
        #: Scored events that wait for their labels.
        self.pending = PendingEvents(pipeline.horizon_ms, with_changelog=is_drained)
        self.sent = SentOnce(with_changelog=is_drained)

    @property
    def generation(self) -> int:
        """Number of the generation that is written (`app.core.features.state_log`)."""
        return self._generation.number

    def drain(self, marks: Marks, meta: dict[str, Any]) -> list[Change]:
        """Records of the changelog since the last drain; the last one is ``meta``: how far the partition has come."""
        changes = [(TILES + key, value) for key, value in self.windows.drain_changes()]
        if self.shared is not None:
            topic, opened, asked = self.shared.drain(marks.event_watermark_ms, marks.events_end or 0)
            self._to_share.extend(topic)
            self._to_repartition.extend(asked)
            changes.extend(opened)
            meta["shared"] = self.shared.contributor.position()
            if self.shared.repartition is not None:
                meta["repartition"] = self.shared.repartition.position()
        changes.extend(self.pending.drain_changes())
        self.sent.expire(marks.events_end or 0)
        changes.extend(self.sent.drain_changes())
        last = (META, msgspec.msgpack.encode(meta))
        if self.rows is not None:
            self.rows.put_log([*(change for change in changes if change[0][:1] != TILES), last])
            self.rows.seal()
        return [*self._generation.clear_some(), *self._generation.name(changes), last]

    def committed(self, position: int, now_ms: int) -> None:
        """What was drained first, and not yet said so of, has been committed, up to an offset of the changelog."""
        if self.shared is not None:
            self.shared.committed()
        if self.rows is not None:
            self.rows.commit()
            if self.rows.wants_write:
                self.rows.write(Snapshot(self._pipeline.feature_set, self.generation, position, now_ms))

    def drain_shared(self) -> list[Change]:
        """What the other partitions are to know, as of the last `drain`."""
        records, self._to_share = self._to_share, []
        return records

    def drain_repartition(self) -> list[tuple[int, bytes]]:
        """Partitions of ``<p>.repartition`` and what they are to hear, as of the last `drain`."""
        records, self._to_repartition = self._to_repartition, []
        return records

    def reader(self, rules: RecordRules, n_segments: int, clock_ms: int | None) -> StateReader:
        """What takes the changelog batch by batch, for `go_on_from`.

        Parameters
        ----------
        rules
            What its records must satisfy.
        n_segments
            How many segments an event may be in.
        clock_ms
            Bounds how far the partition can have come; None: there is no clock.
        """
        latest_ms = rules.latest_come_to_ms(clock_ms)
        types = {field.name: field.type for field in self._pipeline.events.fields}
        texts = tuple(types.get(name) == "string" for name in self._plan.label_fields)
        needed = ["shared"] if self.shared is not None else []
        if self.shared is not None and self.shared.repartition is not None:
            needed.append("repartition")
        return StateReader(
            self._pipeline.feature_set,
            lambda: self._plan.new_state(with_changelog=self._is_drained, rows=self.rows),
            lambda: PendingEvents(
                self._pipeline.horizon_ms,
                with_changelog=self._is_drained,
                texts=texts,
                n_segments=n_segments,
                latest_ms=latest_ms,
                times_ms=(rules.earliest_ms, rules.latest_ms),
            ),
            lambda: SentOnce(with_changelog=self._is_drained),
            latest_ms=latest_ms,
            needed=tuple(needed),
            keeps_other=self.shared is not None,
            cache=self.rows,
        )

    def go_on_from(self, reader: StateReader) -> Restored:
        """Take over what was read to its end; say what was left aside."""
        restored = reader.finish()
        self.windows, self.pending, self.sent = reader.state, reader.pending, reader.sent
        self._generation = reader.generation
        if self.shared is None:
            return restored
        if not reader.meta:
            self.shared.contributor.begin_anew()
            return restored
        self.shared.contributor.restore(reader.meta["shared"], list(reader.others.items()), self.pending)
        if self.shared.repartition is not None:
            self.shared.repartition.restore(reader.meta["repartition"])
        return restored
