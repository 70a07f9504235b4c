"""What a window is described by is what numpy says of its events."""

from __future__ import annotations

import numpy as np
import pytest

from app.core.drift.describer import Describer
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, category, numeric

N = 500


@pytest.fixture(scope="module")
def described() -> tuple[Reference, np.ndarray, np.ndarray, np.ndarray]:
    """A reference; 500 events with a number of few values, a category, and nothing; their scores and labels."""
    rng = np.random.default_rng(1)
    number = rng.integers(-3, 4, N).astype(float) / 2
    number[rng.random(N) < 0.1] = np.nan
    kind = rng.choice([0.0, 1.0, 2.0, np.nan], N, p=[0.5, 0.3, 0.1, 0.1])
    matrix = np.column_stack([number, kind, np.full(N, np.nan)])
    scores, labels = rng.choice([0.125, 0.25, 0.75], N), rng.choice([0.0, 1.0, np.nan], N)
    columns = [numeric("number"), category("kind", 3), numeric("nothing")]
    reference = fit_reference(TrainingEvents(matrix, scores, labels), columns, 64)
    return reference, matrix, scores, labels


def test_each_statistic_is_numpys(described: tuple[Reference, np.ndarray, np.ndarray, np.ndarray]) -> None:
    reference, matrix, scores, labels = described
    counts = count(reference, matrix, scores, labels)
    found = Describer(reference).describe(counts, range(5))
    rows = {(metric, name): value for metric, name, value in found.rows()}
    assert found.metrics == ("number", "kind", "nothing", "score", "outcome")
    assert found.deciles.shape == (5, 10)
    for place, (metric, values) in enumerate(
        zip(found.metrics, [*matrix.T, scores, labels], strict=True),
    ):
        present = values[~np.isnan(values)]
        said = {name: rows[metric, name] for name in ("n", "null_rate", "min", "max", "mean", "d10")}
        expected = dict.fromkeys(said, np.nan) | {"n": N, "null_rate": np.isnan(values).mean()}
        if len(present):
            expected |= {"min": present.min(), "max": present.max(), "d10": present.max(), "mean": present.mean()}
        assert said == pytest.approx(expected, nan_ok=True), metric
        assert found.deciles[place, 9] == pytest.approx(rows[metric, "d10"], nan_ok=True)
    ranked = np.sort(matrix[~np.isnan(matrix[:, 0]), 0])
    for tenth in range(1, 10):  # of single values: that of the rank
        assert rows["number", f"d{tenth}"] == ranked[int(np.ceil(tenth * len(ranked) / 10)) - 1]


def test_a_category_has_the_share_of_each_value_and_of_the_unseen_among_events_with_a_value() -> None:
    codes = np.array([0.0, 0.0, 1.0, 3.0, 3.0, 3.0, np.nan, 1.0, 0.0])  # none is "c"; 3 is in no vocabulary
    scores = np.full(len(codes), 0.5)
    matrix = np.column_stack([codes, codes])
    columns = [category("kind", 4, ("a", "b", "c")), category("bare", 4)]
    reference = fit_reference(TrainingEvents(matrix, scores, scores), columns, 8)
    for events, expected in (
        (matrix, {"a": 3 / 8, "b": 2 / 8, "c": 0.0, "unseen": 3 / 8}),
        (matrix[6:7], dict.fromkeys(("a", "b", "c", "unseen"), np.nan)),
    ):
        found = Describer(reference).describe(count(reference, events, scores[: len(events)]), range(2))
        shares = {(m, name): value for m, name, value in found.rows() if name.startswith("share:")}
        assert shares == pytest.approx(
            {("kind", f"share:{value}"): share for value, share in expected.items()}, nan_ok=True
        )


def test_some_metrics_are_described_as_all_of_them_are(
    described: tuple[Reference, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    reference, matrix, scores, labels = described
    counts = count(reference, matrix, scores, labels)
    rows = Describer(reference).describe(counts, range(5)).rows()
    whole = {(metric, name): value for metric, name, value in rows}
    part = Describer(reference).describe(counts, range(1, 3))
    assert part.metrics == ("kind", "nothing")
    assert {metric for metric, _ in part.labels} == {"kind", "nothing"}
    for metric, name, value in part.rows():
        assert value == pytest.approx(whole[metric, name], nan_ok=True)


def test_of_no_events_nothing_is_known_but_their_number(
    described: tuple[Reference, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    reference, *_ = described
    rows = {
        (metric, name): value
        for metric, name, value in Describer(reference).describe(reference.zeros(), range(5)).rows()
    }
    assert {value for (_, name), value in rows.items() if name == "n"} == {0.0}
    assert all(np.isnan(value) for (_, name), value in rows.items() if name != "n")
