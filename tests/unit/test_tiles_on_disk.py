from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows_in_memory import RowsInMemory

import app.core.tiles.row_cache
from app.adapters.rocks_rows import RocksRows, StateDiskError
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.features.state_log import META, SNAPSHOT_KEPT_MS, TILES
from app.core.tiles.row_cache import RowCache, RowsOnDisk
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

NOW_MS = 1_800_000_000_000
HEAD = """
name = "cards"
[events]
entity = "card"
id = "id"
time = "at_ms"
earliest = 1970-01-01T00:00:00Z
max_ahead = "1s"
[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
shop = "string"
"""
WINDOWS = {
    "n": ("card", "count", ""), "spent": ("card", "sum", "amount"), "spread": ("card", "variance", "amount"),
    "most": ("card", "max", "amount"), "latest": ("card", "last", "amount"), "shops": ("card", "distinct", "shop"),
    "since": ("card", "time_since_last", ""), "at_shop": ('card", "shop', "count", ""),
}  # fmt: skip
FILE = HEAD + "".join(
    f'[[features]]\nname = "{name}"\ntype = "float"\n'
    f'window = {{ of = "events", key = ["{key}"], size = "8s", hop = "1s", '
    f'aggregate = "{aggregate}"' + (f', field = "{field}"' if field else "") + " }\n"
    for name, (key, aggregate, field) in WINDOWS.items()
)
Change = tuple[bytes, bytes | None]
Event = tuple[int, int, int, int]  # second, card, shop, amount


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = tmp_path_factory.mktemp("cards") / "cards.toml"
    path.write_text(FILE)
    return load(path)


@pytest.fixture(params=["fake", "rocksdb"])
def new_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    opened: list[Any] = []

    def build() -> Any:
        if request.param == "fake":
            return RowsInMemory()
        opened.append(RocksRows.open_free(tmp_path, "0"))
        return opened[-1]

    yield build
    for disk in opened:
        disk.close()


def flow_of(pipeline: Pipeline, disk: RowsOnDisk | None, most: int = 1) -> PartitionPipeline:
    rows = RowCache(disk, most) if disk is not None else None
    return PartitionPipeline(pipeline, FeaturePlan.compile(pipeline, {}, {}), 0, outputs=FlowOutput.STATE, rows=rows)


def run(flow: PartitionPipeline, events: list[Event], first: int) -> bytes:
    if not events:
        return b""
    values: list[bytes | None] = [
        f'{{"id":"{n}","card":"c{card}","at_ms":{second * 1000},"amount":{amount},"shop":"s{shop}"}}'.encode()
        for n, (second, card, shop, amount) in enumerate(events, first)
    ]
    offsets = np.arange(first, first + len(events))
    times = np.array([event[0] * 1000 for event in events])
    flow.receive_events(RecordBatch("cards.events", 0, offsets, times, [b"c"] * len(events), values))
    found = flow.step(None, 1000, 0)
    assert found is not None
    return found.matrix.tobytes()


def take_over(pipeline: Pipeline, disk: RowsOnDisk, log: list[Change], now_ms: int = NOW_MS) -> tuple[Any, int]:
    """A flow on the disk and the log's tail; and how much of it was read."""
    flow = flow_of(pipeline, disk)
    reader = flow.state_reader()
    start = reader.open_snapshot(0, len(log), now_ms)
    for at in range(start, len(log), 7):
        some = log[at : at + 7]
        offsets = np.arange(at, at + len(some))
        reader.take(
            RecordBatch("cards.state", 0, offsets, offsets, [key for key, _ in some], [value for _, value in some]),
            now_ms,
        )
    assert flow.go_on_from(reader).left_aside == ""
    return flow, len(log) - start


events_ = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 4), st.integers(0, 3), st.integers(-3, 9)), min_size=1, max_size=12
)
in_time = events_.map(sorted)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(in_time | events_, st.sampled_from(["go on", "commit", "write", "die"])), max_size=8),
    last=in_time,
)
def test_rows_on_disk_give_the_same_bits_whatever_dies_and_when(
    pipeline: Pipeline, new_disk: Callable[[], Any], turns: list[tuple[list[Event], str]], last: list[Event]
) -> None:
    disk = new_disk()
    disk.clear()
    memory, flow = flow_of(pipeline, None), flow_of(pipeline, disk)
    log: list[Change] = []
    committed: list[tuple[list[Event], int]] = []
    pending: list[tuple[list[Event], int]] = []
    at = 0
    for events, then in [*turns, (last, "commit")]:
        pending.append((events, at))
        at += len(events)
        assert run(flow, events, pending[-1][1]) == run(memory, events, pending[-1][1])
        if then == "die":  # what was not committed happens again: here, it is as if it had never been
            pending = []
            flow, _ = take_over(pipeline, disk, log)
            memory = flow_of(pipeline, None)
            memory.restore(log)
            continue
        if then != "go on":
            log += flow.drain_state()
            memory.drain_state()
            committed += pending
            pending = []
            before, app.core.tiles.row_cache._MOST_WAITING = (
                app.core.tiles.row_cache._MOST_WAITING,
                0 if then == "write" else 10**9,
            )
            flow.state_committed(len(log), NOW_MS)
            app.core.tiles.row_cache._MOST_WAITING = before
    again, _ = take_over(pipeline, disk, log)
    assert run(again, last, at) == run(memory, last, at)


def filled(pipeline: Pipeline, disk: RowsOnDisk, *, cards: int = 40) -> tuple[PartitionPipeline, list[Change]]:
    """A flow with all of it on disk, and its log."""
    flow = flow_of(pipeline, disk, most=8)
    run(flow, [(second, card, 1, 1) for second in range(3) for card in range(cards)], 0)
    log = flow.drain_state()
    assert flow._state.rows is not None
    before, app.core.tiles.row_cache._MOST_WAITING = app.core.tiles.row_cache._MOST_WAITING, 0
    flow.state_committed(len(log), NOW_MS)
    app.core.tiles.row_cache._MOST_WAITING = before
    return flow, log


def test_beside_the_rows_only_what_is_no_tile_is_on_disk(pipeline: Pipeline) -> None:
    """Tiles are in the rows themselves: once more, they would double what is written."""
    flow, log = filled(pipeline, RowsInMemory(), cards=3)
    assert flow._state.rows is not None
    kept = {key for key, _ in flow._state.rows.read_log()}
    assert META in kept
    assert [key for key in kept if key.startswith(TILES)] == []
    assert any(key.startswith(TILES) for key, _ in log)


def test_a_take_over_reads_only_what_follows_the_snapshot(pipeline: Pipeline, new_disk: Callable[[], Any]) -> None:
    disk = new_disk()
    flow, log = filled(pipeline, disk)
    run(flow, [(3, 7, 1, 1)], 1000)
    log += flow.drain_state()

    again, tail = take_over(pipeline, disk, log)

    assert tail < 10 < len(log)
    assert run(again, [(4, card, 1, 1) for card in range(40)], 2000) == run(
        flow, [(4, card, 1, 1) for card in range(40)], 2000
    )


def test_memory_holds_no_more_keys_than_it_may_after_a_drain(pipeline: Pipeline) -> None:
    flow, _ = filled(pipeline, RowsInMemory(), cards=300)

    assert flow._state.windows.keys <= 2 * 8  # of both kinds of key


@pytest.mark.parametrize("why", ["older than tombstones are kept", "beyond the log", "of another feature set"])
def test_a_snapshot_that_cannot_be_trusted_is_cleared_and_the_log_read_whole(pipeline: Pipeline, why: str) -> None:
    disk = RowsInMemory()
    _, log = filled(pipeline, disk)
    now_ms = NOW_MS
    if why.startswith("older"):
        now_ms += SNAPSHOT_KEPT_MS
    elif why.startswith("beyond"):
        log = log[-20:]
    else:
        entry = next(key for key in disk.entries if key == b"p")
        disk.entries[entry] = disk.entries[entry].replace(pipeline.feature_set.encode(), b"0123456789ab")

    _, tail = take_over(pipeline, disk, log, now_ms)

    assert tail == len(log)


@pytest.mark.parametrize(
    ("first", "end", "age_ms", "is_used"),
    [
        (0, 0, SNAPSHOT_KEPT_MS - 1, True),
        (-5, 5, 0, True),
        (0, 0, SNAPSHOT_KEPT_MS, False),
        (1, 5, 0, False),
        (-5, -1, 0, False),
    ],
    ids=["just young enough", "amid the log", "too old", "before the log", "beyond the log"],
)
def test_a_snapshot_is_used_within_the_log_and_while_tombstones_are_kept(
    pipeline: Pipeline, first: int, end: int, age_ms: int, *, is_used: bool
) -> None:
    """``first`` and ``end`` of the log are as far from the snapshot's position."""
    disk = RowsInMemory()
    _, log = filled(pipeline, disk)
    position = len(log)

    start = flow_of(pipeline, disk).state_reader().open_snapshot(position + first, position + end, NOW_MS + age_ms)

    assert start == (position if is_used else position + first)
    assert bool(disk.entries) is is_used


def test_what_is_not_committed_is_never_on_disk(pipeline: Pipeline) -> None:
    disk = RowsInMemory()
    flow, _ = filled(pipeline, disk)
    before = dict(disk.entries)
    run(flow, [(5, card, 2, 3) for card in range(200)], 5000)
    flow.drain_state()

    assert disk.entries == before


@pytest.mark.slow
def test_quiet_keys_on_disk_are_forgotten_and_cleared_from_the_changelog(pipeline: Pipeline) -> None:
    disk = RowsInMemory()
    flow = flow_of(pipeline, disk, most=4)
    log: dict[bytes, bytes | None] = {}
    at = 0
    app.core.tiles.row_cache._MOST_WAITING, before = 0, app.core.tiles.row_cache._MOST_WAITING
    for day in range(12):
        for _ in range(4):
            events = [(day * 86_400, 100 * day + card, 1, 1) for card in range(20)]
            run(flow, events, at)
            at += len(events)
            log.update(flow.drain_state())
            flow.state_committed(at, NOW_MS)
    app.core.tiles.row_cache._MOST_WAITING = before

    rows = [key for key in disk.entries if key.startswith(b"r")]
    kept_days = 3  # window, max_ahead and a day, and until the next sweep
    assert len(rows) <= kept_days * 2 * 20
    assert sum(value is not None for key, value in log.items() if key != META) <= len(rows) + 2


# -- the contract of rows on disk, on the fake and on RocksDB ----------------------------------------------------


def test_what_is_written_is_read_and_scanned_in_order(new_disk: Callable[[], Any]) -> None:
    disk = new_disk()
    disk.write({b"rb": b"2", b"ra": b"1", b"rc": b"", b"s": b"4"})
    disk.write({b"ra": None, b"rb": b"5", b"rd": None})

    assert disk.read([b"rb", b"ra", b"s", b"rc"]) == [b"5", None, b"4", b""]
    assert disk.read([]) == []
    assert disk.scan(b"r", b"r", 10) == [(b"rb", b"5"), (b"rc", b"")]
    assert disk.scan(b"r", b"rb", 10) == [(b"rc", b"")]
    assert disk.scan(b"r", b"r", 1) == [(b"rb", b"5")]
    disk.clear()
    assert disk.scan(b"", b"", 10) == []


def test_a_closed_database_opens_with_all_that_was_written(tmp_path: Path) -> None:
    disk = RocksRows.open_free(tmp_path, "0")
    disk.write({b"r%d" % n: b"x" for n in range(1000)})
    disk.close()

    again = RocksRows.open_free(tmp_path, "0")
    assert len(again.scan(b"r", b"r", 10_000)) == 1000
    again.close()


def test_a_second_owner_gets_a_database_of_its_own(tmp_path: Path) -> None:
    first, second = RocksRows.open_free(tmp_path, "0"), RocksRows.open_free(tmp_path, "0")

    assert (first.folder.name, second.folder.name) == ("0", "0.1")
    first.close()
    second.close()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from app.adapters.rocks_rows import RocksRows, StateDiskError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
disk = RocksRows.open_free(Path(sys.argv[1]), "0")
disk.write({b"r": b"1", b"p": b"1"})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for n in range(100):
        disk.write({b"r%d" % n: bytes(50_000), b"p": b"%d" % n})
except StateDiskError as error:
    print(error)
    sys.exit(78)
"""


def test_a_full_disk_is_said_and_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, "the state cannot be kept on disk" in done.stdout) == (78, True), done.stderr
    again = RocksRows.open_free(tmp_path, "0")
    (position,) = again.read([b"p"])
    assert position is not None
    assert len(again.scan(b"r", b"r", 1000)) == int(position) + 1  # every write before it, and none in part
    again.close()


def test_an_error_of_the_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "CURRENT").write_text("nonsense")

    with pytest.raises(StateDiskError, match="free space or mend the disk and start again"):
        RocksRows.open_free(tmp_path, "0")
