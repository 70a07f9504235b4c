"""Served windows against the same windows computed by SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from app.adapters.clickhouse.scratch_engine import ScratchEngine
from app.adapters.recordings.file import LABELS
from app.adapters.recordings.part import RecordingPart
from app.core.batches import Column, Floats, Ints
from app.core.features.plan import FeaturePlan
from app.core.intake.decode import LabelDecoder
from app.core.replay.parity import TOLERANCE, FeatureParity
from app.core.replay.window_sql import ZERO_OF_NONE, create_tables, derive_tables, fields_used, window_queries
from app.flow.step import Step
from schemas.pipeline.spec import Pipeline

#: Reads of one SQL query: bounds what its join holds.
_READS = 20_000


@dataclass
class _Kept:
    """The compared events of one partition, what was served, and the columns that features made of windows read.

    ``seq``: their numbers in the log. The lists grow with each step; `joined` concatenates them.
    """

    seq: list[Ints] = field(default_factory=list)
    offsets: list[Ints] = field(default_factory=list)
    times_ms: list[Ints] = field(default_factory=list)
    served: list[Floats] = field(default_factory=list)
    columns: dict[str, list[Column]] = field(default_factory=lambda: defaultdict(list))

    def add(self, step: Step, rows: Ints, served: Floats, first: int, plan: FeaturePlan) -> None:
        """Take rows of a step whose first applied event has the number ``first``."""
        offsets = step.events.offsets[rows]
        self.seq.append(first + np.searchsorted(step.applied.offsets, offsets))
        self.offsets.append(offsets)
        self.times_ms.append(step.events.event_time_ms[rows])
        self.served.append(served)
        for name in plan.derived_reads:
            self.columns[name].append(step.events.columns[name][rows])

    def joined(self) -> _Compared:
        return _Compared(
            np.concatenate(self.seq),
            np.concatenate(self.offsets),
            np.concatenate(self.times_ms),
            np.concatenate(self.served),
            {name: np.concatenate(parts) for name, parts in self.columns.items()},
        )


@dataclass(frozen=True)
class _Compared:
    """`_Kept`, with its lists concatenated."""

    seq: Ints
    offsets: Ints
    times_ms: Ints
    served: Floats
    columns: dict[str, Column]


class SqlParity:
    """Takes a part of a recording step by step; at its end SQL computes its windows anew."""

    def __init__(self, engine: ScratchEngine, pipeline: Pipeline, plan: FeaturePlan, part: RecordingPart) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._plan = plan
        self._part = part
        #: How many events windows have seen, by partition.
        self._applied = dict.fromkeys(part.partitions, 0)
        self._kept: dict[int, _Kept] = {}
        for statement in create_tables(pipeline):
            engine.run(statement)

    def add(self, step: Step, compared: tuple[Ints, Floats] | None) -> None:
        """Take a step: the rows that are to be compared, and what was served of them; None: none are."""
        first = self._applied[step.partition]
        self._applied[step.partition] += len(step.applied)
        self._load_events(step, first)
        if compared is not None:
            self._kept.setdefault(step.partition, _Kept()).add(step, *compared, first, self._plan)

    def compare(self, see: Callable[[int], None]) -> list[FeatureParity]:
        """Compare windows with SQL's, and features made of windows with the same made of SQL's; needs a row to compare.

        SQL's windows differ in the last bits, and an expression may magnify that. So where a served window is within
        the tolerance of SQL's, features are made of the served one, and must be equal to the last bit.

        Parameters
        ----------
        see
            Is told how many rows are done.
        """
        self._load_labels()
        for statement in derive_tables(self._pipeline):
            self._engine.run(statement)
        plan, kept = self._plan, {partition: kept.joined() for partition, kept in sorted(self._kept.items())}
        queries = window_queries(self._pipeline)
        windows = [FeatureParity(query.feature, TOLERANCE) for query in queries]
        derived = [(column, FeatureParity(plan.names[column])) for column in plan.derived]
        begin = min(int(compared.seq[0]) for compared in kept.values())
        end = max(int(compared.seq[-1]) for compared in kept.values()) + 1
        size = max(1, _READS // len(kept))
        for start in range(begin, end, size):
            rows = {
                partition: slice(*np.searchsorted(compared.seq, (start, start + size)).tolist())
                for partition, compared in kept.items()
            }
            anew = {partition: compared.served[rows[partition]].copy() for partition, compared in kept.items()}
            for query, feature in zip(queries, windows, strict=True):
                partitions, reads, values = self._engine.read_values(query.for_reads(start, start + size))
                for partition, compared in kept.items():
                    computed = np.full(size, 0.0 if query.window.aggregate in ZERO_OF_NONE else np.nan)
                    ours = partitions == partition
                    computed[reads[ours] - start] = values[ours]
                    computed = computed[compared.seq[rows[partition]] - start]
                    served = np.ascontiguousarray(compared.served[rows[partition], query.column])
                    feature.add(partition, compared.offsets[rows[partition]], served, computed)
                    anew[partition][:, query.column] = np.where(feature.is_same(served, computed), served, computed)
            for partition, compared in kept.items() if derived else ():
                mine = rows[partition]
                columns = {name: column[mine] for name, column in compared.columns.items()}
                plan.derive(anew[partition], compared.times_ms[mine], columns)
                for column, feature in derived:
                    served, computed = compared.served[mine, column], anew[partition][:, column]
                    feature.add(partition, compared.offsets[mine], *map(np.ascontiguousarray, (served, computed)))
            see(sum(rows[partition].stop for partition in kept))
        return [*windows, *(feature for _, feature in derived)]

    def _load_events(self, step: Step, first: int) -> None:
        """Load the events that windows see, including those that were rejected afterwards."""
        events, n = step.applied, len(step.applied)
        counts = self._part.counts(step.partition, int(events.offsets[0]))
        fields = {used.name: events.columns[used.name] for used in fields_used(self._pipeline)}
        self._engine.insert(
            "events",
            {
                "partition": np.full(n, step.partition, dtype=np.int32),
                "seq": np.arange(first, first + n, dtype=np.int64),
                "time_ms": events.event_time_ms,
                "event_id": events.event_id,
                "counts": np.full(n, counts, dtype=np.uint8),
                **{
                    f"f_{name}": column if column.dtype != object else column.tolist()
                    for name, column in fields.items()
                },
            },
        )

    def _load_labels(self) -> None:
        if self._pipeline.labels is None:
            return
        decode = LabelDecoder(self._pipeline).decode
        for partition in self._part.partitions:
            first = 0
            for batch in self._part.read(LABELS, partition, self._pipeline):
                labels, _ = decode(batch)
                n = len(labels)
                if not n:
                    continue
                self._engine.insert(
                    "labels",
                    {
                        "partition": np.full(n, partition, dtype=np.int32),
                        "seq": np.arange(first, first + n, dtype=np.int64),
                        "time_ms": labels.label_time_ms,
                        "event_id": labels.event_id,
                        "label": np.nan_to_num(labels.label),  # of a watermark record, which has no event
                    },
                )
                first += n
