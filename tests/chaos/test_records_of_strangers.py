"""P8 for what workers and monitor tell each other: each kind of record, changed in every way, and its reader lives."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter

import pytest
from chaos_report import Figure, Row, record, seed_of
from record_attacks import attack
from record_kinds import KINDS, Kind, take

FULL = os.environ.get("STREAMGAUGE_CHAOS") == "full"
RECORDS = 100_000 if FULL else 300
#: Records between two settlings, and in the life of a reader: it remembers what it has taken.
SETTLE, LIFE = 100, 2_000
MOST_S = 5.0
MOST_GROWTH_BYTES = 1 << 30


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_no_record_stops_whoever_reads_it_or_takes_long_or_much_memory(kind: Kind) -> None:
    seed = seed_of(f"records of strangers {kind.name}")
    goods = kind.goods()
    before = peak_bytes()
    reader = kind.reader()
    refused: Counter[str] = Counter()
    slowest_s = 0.0
    for number in range(RECORDS):
        started = time.process_time()
        refused[take(kind, reader, attack(goods, kind.codec, seed * 1_000_003 + number))] += 1
        if number % SETTLE == SETTLE - 1:
            reader.settle()
        slowest_s = max(slowest_s, time.process_time() - started)
        if number % LIFE == LIFE - 1:
            reader = kind.reader()
    reader.settle()
    grown = peak_bytes() - before
    row = record(
        Row(
            "P8",
            f"forged records: {kind.name}",
            seed=seed,
            load=f"{refused['']} of them taken",
            events=RECORDS,
            faults=RECORDS - refused[""],
            wrong_counts=0,
            passed=slowest_s < MOST_S and grown < MOST_GROWTH_BYTES,
            figures=(Figure("slowest", round(slowest_s, 3), "s"), Figure("grown by", grown >> 20, "MiB")),
        )
    )
    assert row.passed, (slowest_s, grown)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
