"""Where a monitor that takes over goes on: plans, checkpoint and tables need not fit together."""

from __future__ import annotations

import msgspec
import pytest
from faust.types import TP
from memory_warehouse import MemoryWarehouse

from app.core.findings import Findings, MetadataRow, PerformanceRow
from app.monitor.block_writer import Start
from app.monitor.reign import Plan, Reign
from app.monitor.rows import findings_columns
from app.monitor.takeover import Bounds, Legacy, Saved, are_new, inherit, start_of
from app.ports import Checkpoint, FencedError
from schemas.wire import DriftReport, Source, WindowVerdict

TP0 = TP("p.scores", 0)
ROWS = (Source("p.events", 0, 9), Source("p.events", 0, 4))


def legacy(saved: int | None, plan: Plan | None, *, is_missing: bool = False) -> Legacy:
    checkpoint = None if saved is None else Checkpoint(1, {"p.scores": {0: saved}})
    plans = {} if plan is None else {("p.scores", 0): plan}
    missing = frozenset({("p.scores", 0)}) if is_missing else frozenset()
    return Legacy(checkpoint, plans, {("p.scores", 0): ROWS}, missing)


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (legacy(None, None), Start(0, witnesses=ROWS)),
        (legacy(7, None), Start(7, witnesses=ROWS)),
        # The block that was planned is in: the checkpoint says so.
        (legacy(12, Plan("p.scores", 0, 7, 12, 3)), Start(12, None, 3, ROWS)),
        # It may be in, whatever the checkpoint says otherwise: it is written again as it was.
        (legacy(7, Plan("p.scores", 0, 7, 12, 3)), Start(7, 12, 3, ROWS)),
        (legacy(2, Plan("p.scores", 0, 7, 12)), Start(7, 12, 0, ROWS)),
        (legacy(15, Plan("p.scores", 0, 7, 12)), Start(7, 12, 0, ROWS)),
        (legacy(None, Plan("p.scores", 0, 7, 12)), Start(7, 12, 0, ROWS)),
        # The topic lost its end: what was planned can no longer be cut.
        (legacy(7, Plan("p.scores", 0, 7, 200)), Start(7, None, 0, ROWS)),
        (legacy(12, Plan("p.scores", 0, 7, 12, 3), is_missing=True), Start(0, None, 8)),
    ],
)
def test_records_go_on_where_the_table_is_known_to_end(found: Legacy, start: Start) -> None:
    assert start_of(TP0, found, Bounds(0, 100), is_new=False, term=8) == start


def test_topics_that_are_shorter_than_what_was_written_are_new() -> None:
    bounds = {TP0: Bounds(0, 10)}

    assert not are_new(legacy(10, None), bounds)
    assert are_new(legacy(11, None), bounds)
    assert are_new(legacy(0, Plan("p.scores", 0, 11, 12)), bounds)
    assert start_of(TP0, legacy(11, None), bounds[TP0], is_new=True, term=8) == Start()


def save(warehouse: MemoryWarehouse, saved: Saved) -> None:
    reign = Reign.claim(warehouse, "p", "a", 0)
    reign.save(warehouse, {}, msgspec.msgpack.encode(saved))


def insert_score(warehouse: MemoryWarehouse, offset: int) -> None:
    words = {name: ["p"] for name in ("pipeline", "customer_id", "event_id", "model", "version", "role")}
    place = {"topic": ["p.events"], "partition": [0], "offset": [offset]}
    rest = {"event_time": [0], "score": [0.5], "decision": [True], "features": [{}], "scored_at": [1]}
    warehouse.insert("scores", {**words, **place, **rest})


def test_a_table_has_lost_rows_only_when_none_of_the_witnesses_is_left() -> None:
    """Of one entity, rows may have been erased on purpose."""
    warehouse = MemoryWarehouse()
    save(warehouse, Saved(b"", Findings(), witnesses={"p.scores": {0: ROWS}}))
    tables = {"p.scores": "scores"}

    assert inherit(warehouse, "p", tables).missing == {("p.scores", 0)}
    insert_score(warehouse, 4)
    assert not inherit(warehouse, "p", tables).missing


def test_reports_that_are_gone_are_named_and_revisions_are_those_of_the_table() -> None:
    warehouse = MemoryWarehouse()
    row = MetadataRow("p", "m", "1", "scoring", "all", "score", "n", 5.0, 1, 1_000, 2_000, 3)
    report = DriftReport("p", "m", "1", "all", "a", "psi", 1_000, 2_000, 0.3, None, 0.2, 0.3, 5, 6, "DRIFT")
    save(warehouse, Saved(b"", Findings(), Findings(metadata=[row], reports=[report])))

    assert inherit(warehouse, "p", {}).lost_findings == {"model_metadata", "drift_reports"}

    words = {name: [getattr(row, name)] for name in ("pipeline", "model", "version", "stage", "segment", "metric")}
    times = {"timestamp": [1], "window_start": [1_000], "window_end": [2_000]}
    warehouse.insert("model_metadata", {**words, **times, "decile": ["n"], "value": [5.0], "revision": [3]})

    found = inherit(warehouse, "p", {})
    assert found.lost_findings == {"drift_reports"}
    assert found.revisions == {("1", 1_000, "features"): 3}

    # The verdict and the performance change with other versions of the window, too: they have revisions of their own.
    verdict = WindowVerdict(
        *("p", "m", "1", 1_000, 2_000, "none", "Nothing has moved.", [], [], None, "watch", "There is nothing to do."),
        *(9, 5, True, 7),
    )
    row_8 = PerformanceRow("p", "m", "1", "all", 1_000, 2_000, "auc", *[0.7] * 8, 5, 1.0, 8)
    for revision, findings in ((7, Findings(verdicts=[verdict])), (8, Findings(performance=[row_8]))):
        for table, columns in findings_columns(findings).items():
            warehouse.insert(table, columns)
        assert inherit(warehouse, "p", {}).revisions == {("1", 1_000, "features"): 3, ("1", 1_000, "verdict"): revision}


def test_a_state_of_another_release_says_nothing_of_rows() -> None:
    warehouse = MemoryWarehouse()
    Reign.claim(warehouse, "p", "a", 0).save(warehouse, {}, b"of another release")

    found = inherit(warehouse, "p", {"p.scores": "scores"})

    assert not found.missing
    assert not found.lost_findings


def test_two_that_claim_at_once_do_not_share_a_term() -> None:
    """The second claim arrives between the first one's insert and its look: the first must go higher."""

    class Racing(MemoryWarehouse):
        has_raced = False

        def insert(self, table: str, columns: object, token: str | None = None) -> int:
            rows = super().insert(table, columns, token)  # type: ignore[arg-type]
            if table == "monitor_terms" and not self.has_raced:
                self.has_raced = True
                super().insert(table, {"pipeline": ["p"], "term": [1], "owner": ["b"], "claimed_at": [0]})
            return rows

    warehouse = Racing()
    first = Reign.claim(warehouse, "p", "a", 0)

    assert first.term == 2
    first.check(warehouse)
    with pytest.raises(FencedError):
        Reign("p", 1).check(warehouse)
    assert first.new_token() != first.new_token()
