"""Stretches in which only a rare label has come are no sample of decisions, and detectors do not see them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.core.errors.fair import STRETCH, FairErrors
from app.core.errors.stream import Errors
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric


def reference_of(share: float) -> Reference:
    n = 20_000
    labels = (np.arange(n) < share * n).astype(float)
    scores = 0.1 + 0.8 * np.random.default_rng(1).random(n)
    return fit_reference(TrainingEvents(np.zeros((n, 1)), scores, labels), [numeric("x")], 8, 0.5)


REFERENCES = {share: reference_of(share) for share in (0.0, 0.008, 0.05, 0.3, 0.7, 0.99)}


def errors_of(is_positive: np.ndarray[Any, Any]) -> Errors:
    """Each decision was negative: wrong where the label is 1; their times number them."""
    positive = is_positive.astype(np.uint8)
    return Errors(np.arange(len(positive)), 3 * positive, np.zeros(len(positive), np.uint8))


@pytest.mark.parametrize("share", [0.008, 0.05, 0.3, 0.7])
def test_a_fair_stream_goes_on_whole(share: float) -> None:
    is_positive = np.random.default_rng(2).random(160_000) < share
    kept = FairErrors(REFERENCES[share]).take(errors_of(is_positive))
    assert len(kept.decisions) > 0.999 * len(is_positive)


@pytest.mark.parametrize("share", [0.008, 0.05])
def test_three_times_as_many_of_a_rare_label_go_on_too(share: float) -> None:
    is_positive = np.random.default_rng(3).random(160_000) < 3 * share
    kept = FairErrors(REFERENCES[share]).take(errors_of(is_positive))
    assert len(kept.decisions) > 0.998 * len(is_positive)
    assert kept.is_positive.mean() > 2.9 * share


@pytest.mark.parametrize(("share", "rare"), [(0.008, True), (0.05, True), (0.99, False)])
def test_of_a_rare_label_that_comes_alone_hardly_any_goes_on(share: float, rare: bool) -> None:
    fair, rng = FairErrors(REFERENCES[share]), np.random.default_rng(4)
    before = rng.random(3_000) < share
    kept = fair.take(errors_of(np.concatenate([before, np.full(5_000, rare), before])))
    numbers = kept.times_ms[(kept.times_ms >= 3_000) & (kept.times_ms < 8_000)]
    assert len(numbers) <= STRETCH
    assert len(kept.decisions) >= 2 * 3_000 - 4 * STRETCH


def test_as_many_of_a_rare_label_go_on_as_a_stretch_holds_when_it_is_five_times_as_frequent() -> None:
    """Of sixteen at 5 x 0.8 %, more than four are seen in one stretch of three thousand."""
    assert stats.binom.sf(4, STRETCH, 0.04) < 1e-3 < stats.binom.sf(3, STRETCH, 0.04)
    for number in range(STRETCH + 1):
        kept = FairErrors(REFERENCES[0.008]).take(errors_of(np.arange(STRETCH) < number))
        assert len(kept.decisions) == (STRETCH if number <= 4 else 0), number


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(0, 2**32))
def test_what_goes_on_does_not_depend_on_where_batches_are_cut_or_on_a_restart(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = errors_of(rng.random(300) < np.repeat(rng.choice([0.01, 1.0], 10), 30))
    whole = FairErrors(REFERENCES[0.008]).take(errors)
    fair, parts, start = FairErrors(REFERENCES[0.008]), [], 0
    for cut in [*cuts, 300]:
        stop = min(start + cut, 300)
        parts.append(fair.take(errors.take(np.arange(start, stop))))
        start, state = stop, json.loads(json.dumps(fair.snapshot()))
        fair = FairErrors(REFERENCES[0.008])
        fair.restore(state)
        assert fair.snapshot() == state
    joined = Errors.join(parts)
    assert all(np.array_equal(*columns) for columns in zip(joined, whole, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_where_no_label_is_rare_nothing_waits(share: float) -> None:
    fair = FairErrors(REFERENCES[share])
    assert len(fair.take(errors_of(np.ones(5, bool))).decisions) == 5
    assert fair.snapshot() == ["", "", ""]
