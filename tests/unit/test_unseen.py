"""Values that are in no vocabulary: a model takes them as missing, drift counts them and tells them from nulls."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from core_setting import batch

from app.core.drift.comparison import Comparison
from app.core.drift.describer import Describer
from app.core.drift.judge import Judge
from app.core.drift.judgement import DriftResult, View
from app.core.drift.over_time import Past
from app.core.features.plan import FeaturePlan
from app.core.monitoring.core import MonitorCore
from app.core.scoring import ActiveModel, ChampionTimeline
from app.core.verdict.movements import Movements
from app.pipeline import PartitionPipeline
from models.reference.counting import count
from models.reference.reference import Counts, MetricCells, Reference
from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from schemas.pipeline.drift import default_test
from schemas.pipeline.spec import Pipeline
from schemas.wire import Score, SketchRecord

AT_MS = 1_600_000_000_000
DAY_MS = 86_400_000
COLOUR = 1


def order(number: int, colour: str | None) -> bytes:
    fields = {"order_id": f"o{number}", "ordered_ms": AT_MS, "customer": "c", "amount": number % 97, "items": 2}
    return json.dumps({**fields, "colour": colour}).encode()


def score_orders(
    pipeline: Pipeline, trained: TrainedModel, colours: list[str | None]
) -> tuple[list[Score], SketchRecord]:
    version = ActiveModel(
        pipeline.model.name,
        "1.0.0",
        "champion",
        pipeline.feature_set,
        0.5,
        trained.scorer,
        trained.manifest.read_reference(),
    )
    flow = PartitionPipeline(pipeline, FeaturePlan.compile(pipeline, {}, {}), 0)
    values: list[bytes | None] = [order(number, colour) for number, colour in enumerate(colours)]
    flow.receive_events(batch("shop.events", values, [AT_MS] * len(values)))
    flow.merge.let_go(flow.merge.events_received)
    step = flow.step(ChampionTimeline([version]), 10_000, AT_MS)
    assert step is not None
    record = flow.drain_sketch()
    assert record is not None
    return [msgspec.json.decode(value or b"", type=Score) for _, value, _ in step.outgoing_scores], record


def test_new_values_score_as_nulls_do_and_are_seen_beside_them(small_pipeline: Pipeline, trained: TrainedModel) -> None:
    new, _ = score_orders(small_pipeline, trained, ["mauve", "", "RED"] * 50)
    null, _ = score_orders(small_pipeline, trained, [None] * 150)
    assert [score.score for score in new] == [score.score for score in null]
    assert {score.features["colour"] for score in new} == {3.0}
    assert {score.features["colour"] for score in null} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["mauve", None])
def test_all_new_categories_are_reported_as_unseen_and_all_nulls_as_missing(
    small_pipeline: Pipeline, trained: TrainedModel, colour: str | None
) -> None:
    tests = (default_test("null_rate"), default_test("unseen"))
    pipeline = replace(small_pipeline, drift=replace(small_pipeline.drift, tests=tests, window="1d"))
    monitor = MonitorCore(pipeline)
    monitor.register_version("1.0.0", trained.manifest.read_reference(), {})
    _, record = score_orders(pipeline, trained, [colour] * 300)
    monitor.observe(SketchRecord(0, AT_MS + 2 * DAY_MS, AT_MS + 2 * DAY_MS, record.deltas))
    findings = monitor.collect(0)

    scoring = {row.decile: row.value for row in findings.metadata if (row.stage, row.metric) == ("scoring", "colour")}
    training = {row.decile: row.value for row in findings.metadata if (row.stage, row.metric) == ("training", "colour")}
    shares = {"share:red", "share:green", "share:blue", "share:unseen"}
    assert shares < training.keys()
    assert sum(training[share] for share in shares) == pytest.approx(1)
    assert training["share:unseen"] == 0
    assert scoring["null_rate"] == (colour is None)
    assert [scoring[share] for share in sorted(shares)] == pytest.approx(
        [0, 0, 0, 1] if colour else [math.nan] * 4, nan_ok=True
    )
    signals = {report.test: (report.signal, report.effect) for report in findings.reports if report.metric == "colour"}
    nulls = training["null_rate"]  # that these are gone is drift, too
    assert signals["null_rate"] == ("DRIFT", pytest.approx(nulls if colour else 1 - nulls))
    assert signals["unseen"] == (("DRIFT", 1.0) if colour else ("NONE", None))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["logistic", "hgb"])
@pytest.mark.parametrize("n_values", [3, 255, 400])
def test_a_model_learns_of_new_values_what_it_learns_of_nulls(
    small_pipeline: Pipeline, small_data: Any, family: str, n_values: int
) -> None:
    values = tuple(f"v{code}" for code in range(n_values))
    features = tuple(replace(f, values=values) if f.name == "colour" else f for f in small_pipeline.features)
    pipeline = replace(small_pipeline, features=features)
    with_nulls, with_new = small_data.matrix.copy(), small_data.matrix.copy()
    with_nulls[::5, COLOUR] = np.nan
    with_new[np.isnan(with_nulls[:, COLOUR]), COLOUR] = n_values
    models = [
        train(
            TrainingRange(LabelledRows(matrix, small_data.labels, small_data.event_time_ms), 0, 400_000),
            pipeline,
            family,
            version="1.0.0",
            created_at_ms=0,
        )
        for matrix in (with_nulls, with_new)
    ]
    assert models[0].artifact == models[1].artifact
    scores = [model.scorer.score(matrix) for model in models for matrix in (with_nulls, with_new)]
    assert all(each.tobytes() == scores[0].tobytes() for each in scores)
    references = [model.manifest.read_reference() for model in models]
    n_new = int((with_new[:, COLOUR] == n_values).sum())
    assert [reference.counts[COLOUR, n_values : n_values + 2].tolist() for reference in references] == [
        [0, n_new],
        [n_new, 0],
    ]
    assert references[1].metrics[COLOUR].values == values


def test_a_golden_row_past_the_vocabulary_is_reproduced(trained: TrainedModel) -> None:
    golden = trained.manifest.golden.matrix
    (past,) = np.flatnonzero((golden[:, COLOUR] == 3.0) & (golden[:, 0] < 1e8))
    without = golden[past].copy()
    without[COLOUR] = np.nan
    assert trained.scorer.score(without[None])[0] == trained.manifest.golden.scores[past]


def test_shares_are_of_the_events_with_a_value() -> None:
    cells = (
        MetricCells("kind", "category", np.empty(0), codes=3, values=("a", "b")),
        MetricCells("score", "score", np.empty(0)),
        MetricCells("outcome", "outcome", np.empty(0), codes=2),
    )
    reference = Reference(cells, Counts.zeros(3, 4, 1), 0.5, np.ones(3), np.zeros((3, 4)), np.zeros((0, 2, 1), int))
    counts = count(reference, np.array([[0.0, 0.0, 1.0, 2.0, np.nan]]).T, np.full(5, 0.5))
    described = {decile: value for metric, decile, value in Describer(reference).describe(counts, range(1)).rows()}
    assert [described[f"share:{value}"] for value in ("a", "b", "unseen")] == [0.5, 0.25, 0.25]
    assert (described["null_rate"], described["n"]) == (0.2, 5)
    assert not [
        decile
        for _, decile, _ in Describer(reference).describe(counts, range(1, 3)).rows()
        if decile.startswith("share:")
    ]


KINDS = (
    MetricCells("x", "numeric", np.zeros(3)),
    MetricCells("kind", "category", np.empty(0), codes=3),
    MetricCells("score", "score", np.empty(0)),
    MetricCells("outcome", "outcome", np.empty(0), codes=2),
)


def verdict(before: list[int], now: list[int]) -> DriftResult:
    """Of the category; all else is empty."""
    then, window = Counts.zeros(4, 5, 1), Counts.zeros(4, 5, 1)
    then.counts[1, :4], window.counts[1, :4] = before, now
    reference = Reference(KINDS, then, 0.5, np.ones(4), np.zeros((4, 5)), np.zeros((0, 2, 1), int))
    past = Past(np.zeros(1), np.empty((0, 1, 10)), np.zeros((1, 10)), np.zeros((1, 10)))
    view = View(["all"], [1], then.counts[None], window.counts[None], [past], 0.01)
    (judgement,) = Judge(reference, [default_test("unseen")]).judge(view)
    return judgement.verdict


def test_the_unseen_test_needs_evidence_and_one_in_a_hundred() -> None:
    """Cells: a, b, unseen, missing."""
    assert verdict([500, 500, 0, 0], [500, 400, 100, 0])[3:] == (
        0.1,
        "DRIFT",
        "10.00% against 0.00% are none of its values",
    )
    assert verdict([500, 500, 0, 0], [50, 49, 1, 0]).signal == "NONE"  # one of a hundred may be chance
    assert verdict([50_000, 50_000, 0, 0], [50_000, 49_400, 600, 0]).signal == "WARNING"
    assert verdict([500, 400, 100, 0], [500, 500, 0, 0]).signal == "DRIFT"  # the values that were new are gone again
    assert verdict([500, 500, 0, 0], [50, 50, 0, 900]).signal == "NONE"  # missing values are another test's
    assert verdict([500, 500, 0, 0], [0, 0, 0, 9])[:2] == (None, None)


def test_numbers_and_the_outcome_have_nothing_unseen() -> None:
    reference = Reference(KINDS, Counts.zeros(4, 5, 1), 0.5, np.ones(4), np.zeros((4, 5)), np.zeros((0, 2, 1), int))
    comparison = Comparison(reference, ["unseen"])
    assert [comparison.concerned["unseen"][row] for row in range(4)] == [False, True, False, False]


def test_a_change_has_the_shares_of_each_value_and_of_missing_ones_on_either_side() -> None:
    then, window = Counts.zeros(4, 6, 1), Counts.zeros(4, 6, 1)  # wider than the category is
    then.counts[1, :4], window.counts[1, :4] = [6, 2, 0, 2], [1, 2, 3, 4]
    reference = Reference(KINDS, then, 0.5, np.ones(4), np.zeros((4, 6)), np.zeros((0, 2, 1), int))
    (change,) = Movements(reference).changes([KINDS[1].name], window)
    assert (change.shares_before, change.missing_before) == ((0.6, 0.2, 0.0), 0.2)
    assert (change.shares_now, change.missing_now) == ((0.1, 0.2, 0.3), 0.4)
    assert change.effect == pytest.approx(0.5)  # of the first value
