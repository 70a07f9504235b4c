"""The ledger: every record of the events topic has exactly one outcome, a score or a dead letter.

Identity is where the event was read, (partition, offset) of the events topic. What a topic or a table holds is brought
into arrays once; comparing them is pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.adapters.kafka.topic_reader import read_to_end
from app.core.batches import Floats, Ints
from app.kafka_access import KafkaAccess
from schemas.topics import Topics

#: Answers SQL with rows, each a mapping by column.
Query = Callable[[str], Sequence[Mapping[str, Any]]]

#: Offsets below 2**48 share an int64 with the partition.
_OFFSET_BITS = 48
_EXAMPLES = 5


@dataclass(frozen=True, eq=False)
class Positions:
    """Where events were read: one int64 per event, made of partition and offset; in any order, repeats included."""

    codes: Ints

    @classmethod
    def of(cls, partition: Ints | int, offset: Ints | Sequence[int]) -> Positions:
        """Code partitions and offsets of equal length.

        Examples
        --------
        >>> Positions.of(1, [7, 8]).names()
        ['1@7', '1@8']
        """
        offsets = np.asarray(offset, dtype=np.int64)
        return cls((np.asarray(partition, dtype=np.int64) << _OFFSET_BITS) | offsets)

    @classmethod
    def join(cls, parts: Sequence[Positions]) -> Positions:
        """Put positions one after the other."""
        return cls(np.concatenate([part.codes for part in parts]) if parts else np.zeros(0, dtype=np.int64))

    @property
    def partitions(self) -> Ints:
        return self.codes >> _OFFSET_BITS

    @property
    def offsets(self) -> Ints:
        return self.codes & ((1 << _OFFSET_BITS) - 1)

    def names(self, limit: int = _EXAMPLES) -> list[str]:
        """Name the first ones as a person writes them: ``partition@offset``."""
        first = Positions(self.codes[:limit])
        return [f"{p}@{o}" for p, o in zip(first.partitions.tolist(), first.offsets.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class ScoredPositions:
    """Scores: of which event, how much, and by which version."""

    positions: Positions
    scores: Floats
    versions: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """All outcomes that one place (topics, or the warehouse) holds."""

    scored: ScoredPositions
    rejected: Positions


@dataclass(frozen=True)
class Fault:
    """How many events are wrong in one way, with the first of them."""

    count: int
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, codes: Ints) -> Fault:
        return cls(len(codes), tuple(Positions(codes).names()))


@dataclass(frozen=True)
class Balance:
    """What became of the events, as one place tells it.

    ``lost``: events without an outcome. ``doubled``: outcomes beyond the first of the same event. ``unknown``: outcomes
    of no event.
    """

    where: str
    events: int
    scored: int
    dead_letters: int
    lost: Fault
    doubled: Fault
    unknown: Fault

    @property
    def is_balanced(self) -> bool:
        return not (self.lost.count or self.doubled.count or self.unknown.count)


def balance(where: str, events: Positions, outcomes: Outcomes) -> Balance:
    """Hold the outcomes of one place against the events.

    Examples
    --------
    Of three events the first was scored twice, the last has no outcome:

    >>> scored = ScoredPositions(Positions.of(0, [0, 0, 1]), np.zeros(3), np.array(["1.0.0"] * 3))
    >>> found = balance("topics", Positions.of(0, [0, 1, 2]), Outcomes(scored, Positions.of(0, [])))
    >>> found.doubled, found.lost
    (Fault(count=1, examples=('0@0',)), Fault(count=1, examples=('0@2',)))
    """
    known = np.unique(events.codes)
    told = Positions.join([outcomes.scored.positions, outcomes.rejected]).codes
    distinct, times = np.unique(told, return_counts=True)
    return Balance(
        where=where,
        events=len(known),
        scored=len(outcomes.scored),
        dead_letters=len(outcomes.rejected),
        lost=Fault.of(np.setdiff1d(known, distinct, assume_unique=True)),
        doubled=Fault.of(np.repeat(distinct, times - 1)),
        unknown=Fault.of(np.setdiff1d(distinct, known, assume_unique=True)),
    )


@dataclass(frozen=True)
class VersionRun:
    """Consecutive scores of one partition by one version; offsets inclusive."""

    partition: int
    version: str
    first_offset: int
    last_offset: int
    n: int


def version_runs(scored: ScoredPositions) -> list[VersionRun]:
    """Cut each partition's scores, in offset order, wherever the version changes."""
    if not len(scored):
        return []
    order = np.argsort(scored.positions.codes, kind="stable")
    positions, versions = Positions(scored.positions.codes[order]), scored.versions[order]
    partitions, offsets = positions.partitions, positions.offsets
    starts = np.flatnonzero((partitions[1:] != partitions[:-1]) | (versions[1:] != versions[:-1])) + 1
    bounds = [0, *starts.tolist(), len(order)]
    return [
        VersionRun(
            int(partitions[start]), str(versions[start]), int(offsets[start]), int(offsets[end - 1]), int(end - start)
        )
        for start, end in itertools.pairwise(bounds)
    ]


def find_version_faults(runs: Sequence[VersionRun], promoted: Sequence[str]) -> list[str]:
    """Sentences about versions that were never promoted, or that do not follow each other in the order of promotion.

    ``promoted`` names a version once for each time that it became champion: after a roll-back it may stand there again.
    """
    faults: list[str] = []
    reached: dict[int, int] = {}
    for run in runs:
        where = f"Partition {run.partition}, offsets {run.first_offset} to {run.last_offset}"
        if run.version not in promoted:
            faults.append(f"{where}: scored by {run.version}, which was never promoted.")
            continue
        try:
            reached[run.partition] = promoted.index(run.version, reached.get(run.partition, -1) + 1)
        except ValueError:
            faults.append(f"{where}: scored by {run.version}, after a version that was promoted later.")
    return faults


def find_differences(topic: ScoredPositions, warehouse: ScoredPositions) -> Fault:
    """Events scored in both places whose score or version is not the same, to the last bit."""
    _, here, there = np.intersect1d(topic.positions.codes, warehouse.positions.codes, return_indices=True)
    differ = (topic.scores[here] != warehouse.scores[there]) | (topic.versions[here] != warehouse.versions[there])
    return Fault.of(topic.positions.codes[here[differ]])


@dataclass(frozen=True)
class Ledger:
    """The whole account: both places, the versions, and whether the two places agree."""

    topics: Balance
    warehouse: Balance
    runs: tuple[VersionRun, ...]
    version_faults: tuple[str, ...]
    differing: Fault

    @property
    def is_balanced(self) -> bool:
        accounts = self.topics.is_balanced and self.warehouse.is_balanced
        return accounts and not self.version_faults and not self.differing.count

    @property
    def versions(self) -> list[str]:
        """Every version that scored something, in the order of its first run."""
        return list(dict.fromkeys(run.version for run in self.runs))

    @property
    def faults(self) -> list[str]:
        """What is wrong, one sentence each; none when everything balances."""
        said = []
        for account in (self.topics, self.warehouse):
            for kind, fault in (("lost", account.lost), ("doubled", account.doubled), ("unknown", account.unknown)):
                if fault.count:
                    said.append(f"{account.where}: {fault.count} {kind}, e.g. {', '.join(fault.examples)}.")
        if self.differing.count:
            where = ", ".join(self.differing.examples)
            said.append(f"{self.differing.count} scores differ between topic and ClickHouse, e.g. {where}.")
        return [*said, *self.version_faults]


def draw_up(events: Positions, topics: Outcomes, warehouse: Outcomes, promoted: Sequence[str]) -> Ledger:
    """Draw up the ledger from what the topics and the warehouse hold."""
    runs = version_runs(topics.scored)
    return Ledger(
        topics=balance("topics", events, topics),
        warehouse=balance("ClickHouse", events, warehouse),
        runs=tuple(runs),
        version_faults=tuple(find_version_faults(runs, promoted)),
        differing=find_differences(topics.scored, warehouse.scored),
    )


# -- reading ---------------------------------------------------------------------------------------------------------


class _Source(msgspec.Struct):
    partition: int
    offset: int


class _ScoreHead(msgspec.Struct):
    """The few fields of a score that the ledger needs; the rest is skipped while parsing."""

    score: float
    version: str
    source: _Source


async def read_topics(kafka: KafkaAccess, topics: Topics) -> tuple[Positions, Outcomes]:
    """Read events and outcomes from the topics: committed records only, up to their present ends."""
    events: list[Positions] = []
    rejected: list[Positions] = []
    decoder = msgspec.json.Decoder(_ScoreHead)
    heads: list[_ScoreHead] = []
    async for batch in read_to_end(kafka, [topics.events, topics.scores, topics.dead_letters]):
        if batch.topic == topics.events:
            events.append(Positions.of(batch.partition, batch.offsets))
        elif batch.topic == topics.scores:
            heads.extend(decoder.decode(value) for value in batch.values if value is not None)
        else:
            for headers in batch.headers or []:
                words = dict(headers)
                if words["streamgauge-topic"].decode() == topics.events:  # labels can be dead letters too
                    partition, offset = (int(words[f"streamgauge-{name}"]) for name in ("partition", "offset"))
                    rejected.append(Positions.of(partition, [offset]))
    scored = _scored(
        [head.source.partition for head in heads],
        [head.source.offset for head in heads],
        [head.score for head in heads],
        [head.version for head in heads],
    )
    return Positions.join(events), Outcomes(scored, Positions.join(rejected))


def read_warehouse(query: Query, topics: Topics) -> Outcomes:
    """Read the outcomes from ClickHouse, as its users read them. One query per partition keeps answers small."""
    partition, offsets, scores, versions = [], [], [], []
    rejected: list[Positions] = []
    for k in range(topics.partitions):
        # Names from a pipeline file, which takes letters, digits, - and _ alone.
        where = f"pipeline = '{topics.pipeline}' AND topic = '{topics.events}' AND partition = {k}"
        for row in query(
            "SELECT version, groupArray(offset) AS offsets, groupArray(score) AS scores"  # noqa: S608  # as above
            f" FROM scores WHERE {where} GROUP BY version"
        ):
            offsets += row["offsets"]
            scores += row["scores"]
            versions += [row["version"]] * len(row["offsets"])
            partition += [k] * len(row["offsets"])
        letters = query(f"SELECT groupArray(offset) AS offsets FROM dead_letters WHERE {where}")  # noqa: S608  # as above
        rejected.extend(Positions.of(k, row["offsets"]) for row in letters)
    return Outcomes(_scored(partition, offsets, scores, versions), Positions.join(rejected))


def _scored(partition: list[int], offset: list[int], score: list[float], version: list[str]) -> ScoredPositions:
    return ScoredPositions(
        Positions.of(np.array(partition, dtype=np.int64), offset),
        np.array(score, dtype=np.float64),
        np.array(version, dtype=np.str_),
    )
