"""What windows with divided keys cost: asking, adding up, answering, joining, and memory. Prints figures as JSON.

::

    python scripts/bench/repartition.py --keys 1000000

Two windows (a count and a sum, two stores) over that many keys, in 8 partitions. One partition's records of all events
are added up as one of 8 owners of keys does; its share of the keys is in its memory. Times are of the CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.core.batches import EventBatch, Ints
from app.core.intake.merge import Merged, no_labels
from app.core.shared.answerer import Answerer
from app.core.shared.board import SharedBoard
from app.core.shared.contributor import Contributor
from app.core.shared.plan import SharedPlan
from app.core.shared.repartition import Repartition
from schemas.pipeline.file import load

PARTITIONS = 8
BATCH = 5_000
START_MS = 1_700_000_000_000 // 60_000 * 60_000
#: Events of all keys take this long, and come twice.
ROUND_MS = 20 * 60_000

PIPELINE = """
name = "bench-repartition"
partitions = 8

[model]
name = "m"

[events]
entity = "card"
id = "id"
time = "at_ms"

[events.fields]
id = "string"
card = "string"
device = "string"
at_ms = "int"
amount = "float"

[[features]]
name = "device_count_1h"
type = "int"
[features.window]
of = "events"
key = ["device"]
size = "1h"
hop = "1m"
aggregate = "count"
delay = "1m"
repartition = true

[[features]]
name = "device_mean_1h"
type = "float"
[features.window]
of = "events"
key = ["device"]
size = "1h"
hop = "1m"
aggregate = "mean"
field = "amount"
delay = "1m"
repartition = true
"""


def new_plan() -> SharedPlan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(PIPELINE)
        return SharedPlan.compile(load(path))


def batches(keys: int) -> Iterator[tuple[EventBatch, Ints]]:
    """Each key has two events, a round apart: the events of one partition, with their times."""
    rng = np.random.default_rng(1)
    for turn in range(2):
        order = rng.permutation(keys)
        for first in range(0, keys, BATCH):
            numbers = order[first : first + BATCH]
            times = np.full(len(numbers), START_MS + turn * ROUND_MS + first * ROUND_MS // keys)
            devices = np.array([f"device-{number:09d}" for number in numbers.tolist()], dtype=object)
            columns = {"device": devices, "amount": rng.normal(50, 20, len(numbers))}
            offsets = turn * keys + first + np.arange(len(numbers))
            yield EventBatch(offsets, times, [""] * len(numbers), [""] * len(numbers), columns), times


def merged(events: EventBatch, times_ms: Ints) -> Merged[None]:
    labels, label_times = no_labels()
    return Merged(
        None,
        0,
        len(events),
        last=True,
        before=label_times,
        labels=labels,
        times_ms=times_ms,
        label_times_ms=label_times,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    plan = new_plan()
    spent = dict.fromkeys(("ask", "hear", "answer", "join"), 0.0)
    repartition = Repartition(plan, "bench", 0, PARTITIONS, 1)
    contributor = Contributor(SharedBoard(plan, [0]), 0, 0, (), repartition.asker, with_drain=True)
    before = psutil.Process().memory_info().rss
    answerer = Answerer(plan, "bench", [0])
    asked_bytes = answer_bytes = asked = 0

    def measure(what: str, since: float) -> float:
        now = time.process_time()
        spent[what] += now - since
        return now

    place = 0
    log: list[bytes] = []
    for events, times in batches(keys):
        at = time.process_time()
        repartition.hold(events, times, contributor.next_event)
        contributor.add(merged(events, times), events)
        records = repartition.drain(contributor.added_ms, int(times[0]), int(events.offsets[0]))
        at = measure("ask", at)
        asked_bytes += sum(len(record) for _, record in records)
        mine = [record for to, record in records if to == 0]
        at = time.process_time()
        for record in mine:
            answerer.hear(place, record)
            place += 1
        at = measure("hear", at)
        log += mine
        answers = answerer.answer()
        measure("answer", at)
        answer_bytes += sum(len(record) for _, record in answers)
        at = time.process_time()
        for number, (_, record) in enumerate(answers):
            repartition.hear(place + number, record)
        measure("join", at)
        asked += len(events.offsets)
        if asked % (20 * BATCH) == 0:  # a partition holds no more; the other owners' answers are not made here
            held = [""] * (20 * BATCH)
            repartition.answers.fill(np.zeros((len(held), 2)), EventBatch(np.arange(len(held)), times, held, held, {}))
    grown = psutil.Process().memory_info().rss - before - sum(map(len, log))
    share, entries = keys / PARTITIONS, answerer.entries()
    again, at = Answerer(plan, "bench", [0]), time.process_time()
    for number, record in enumerate(log):
        again.hear(number, record)
    again.answer()
    restore_s = time.process_time() - at
    figures = [
        ("repartition.ask", spent["ask"] / asked * 1e6, "us/event"),
        ("repartition.hear", spent["hear"] / (asked / PARTITIONS) * 1e6, "us/event"),
        ("repartition.answer", spent["answer"] / (asked / PARTITIONS) * 1e6, "us/event"),
        ("repartition.join", spent["join"] / (asked / PARTITIONS) * 1e6, "us/event"),
        ("repartition.restore", asked / PARTITIONS / restore_s, "events/s"),
        ("repartition.asked", asked_bytes / asked, "bytes/event"),
        ("repartition.answers", answer_bytes / (asked / PARTITIONS), "bytes/event"),
        ("repartition.memory", grown / share, "bytes/key"),
        ("repartition.entries", entries / share, "entries/key"),
        ("repartition.keys", share, "keys of one owner"),
    ]
    found: list[dict[str, Any]] = [{"name": n, "value": round(float(v), 3), "unit": u} for n, v, u in figures]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
