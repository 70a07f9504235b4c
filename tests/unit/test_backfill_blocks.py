"""Laws of a backfill: every event of the part is written once, and a run that is repeated adds what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import EventBatch, Floats, Ints
from app.core.intake.joining import JoinedLabels
from app.core.scoring import ActiveModel
from app.flow.step import Step
from app.replay import backfill_blocks
from app.replay.backfill_blocks import BackfillWriter, Block, Held, fingerprint
from schemas.pipeline.spec import Pipeline


class Rows:
    """Takes rows in memory, and says what it holds of each block as the table would."""

    def __init__(self) -> None:
        self.inserts = 0
        self.held: dict[tuple[int, int], float] = {}

    def insert(self, table: str, columns: Mapping[str, Any], token: str | None = None) -> int:
        assert (table, token) == ("backfilled_scores", None)
        assert len({len(values) for values in columns.values()}) == 1
        assert set(columns["role"]) == {"backfill"}
        self.inserts += 1
        places = zip(columns["partition"], columns["offset"].tolist(), strict=True)
        self.held.update(zip(places, columns["score"].tolist(), strict=True))
        return len(columns["offset"])

    def blocks(self, size: int) -> dict[Block, Held]:
        written: dict[Block, list[tuple[int, float]]] = {}
        for (partition, offset), score in self.held.items():
            written.setdefault((partition, offset // size), []).append((offset, score))
        return {
            block: Held(len(rows), fingerprint(np.array([o for o, _ in rows]), np.array([s for _, s in rows])))
            for block, rows in written.items()
        }


class Half:
    def score(self, matrix: Floats) -> Floats:
        return matrix[:, 0]


def steps(pipeline: Pipeline, offsets: list[int], cut: int) -> list[Step]:
    model = ActiveModel("shop-returns", "1.0.0", "champion", "f", 0.5, Half(), None)  # type: ignore[arg-type]  # not read
    made = []
    for start in range(0, len(offsets), cut):
        part: Ints = np.array(offsets[start : start + cut], dtype=np.int64)
        n = len(part)
        events = EventBatch(part, part, ["c"] * n, [f"e{o}" for o in part.tolist()], {})
        matrix = np.tile(part[:, None] / 1000, (1, len(pipeline.features)))
        made.append(Step(0, events, matrix, matrix[:, 0], [(0, n, model)], JoinedLabels(), events))
    return made


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_blocks, "BLOCK_OFFSETS", 10)


def write(pipeline: Pipeline, rows: Rows, written: list[Step]) -> BackfillWriter:
    writer = BackfillWriter(rows, pipeline, rows.blocks(10), with_features=False)  # type: ignore[arg-type]  # a fake
    for step in written:
        writer.add(step)
    writer.finish()
    return writer


@given(offsets=st.sets(st.integers(0, 60), min_size=1), cut=st.integers(1, 70), gone=st.sets(st.integers(0, 60)))
def test_a_repeated_run_writes_what_is_missing_and_nothing_else(
    small_pipeline: Pipeline, offsets: set[int], cut: int, gone: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill_blocks, "BLOCK_OFFSETS", 10)
        rows = Rows()
        first = write(small_pipeline, rows, steps(small_pipeline, sorted(offsets), cut))
        whole = {(0, offset): offset / 1000 for offset in offsets}
        assert rows.held == whole
        assert (first.written, first.kept, rows.inserts) == (len(offsets), 0, len({o // 10 for o in offsets}))
        for offset in gone & offsets:
            del rows.held[0, offset]
        harmed = {offset // 10 for offset in gone & offsets}
        second = write(small_pipeline, rows, steps(small_pipeline, sorted(offsets), 7))
        assert rows.held == whole
        assert second.written == sum(offset // 10 in harmed for offset in offsets)
        assert second.kept == len(offsets) - second.written


def test_a_score_that_is_another_by_one_bit_is_written_again(small_pipeline: Pipeline) -> None:
    rows = Rows()
    written = steps(small_pipeline, list(range(30)), 30)
    write(small_pipeline, rows, written)
    rows.held[0, 15] = float(np.nextafter(rows.held[0, 15], 1))
    again = write(small_pipeline, rows, written)
    assert (again.written, again.kept) == (10, 20)


def test_two_scores_that_change_places_change_the_fingerprint() -> None:
    offsets, scores = np.array([3, 4]), np.array([0.25, 0.5])
    assert fingerprint(offsets, scores) != fingerprint(offsets, scores[::-1])
