"""Lists are judged as scikit-learn judges them, and popular is what was known to be."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from app.evaluation.ranking import judge_lists

ROOT = Path(__file__).parents[2]
TOP = 5


def draw(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Thirty lists of two to forty candidates, of ten entities: scores, labels, lists, entities."""
    chance = np.random.default_rng(seed)
    sizes = chance.integers(2, 40, 30)
    lists = np.repeat(np.arange(30), sizes)
    labels = (chance.random(len(lists)) < 0.15).astype(np.float64)
    scores = chance.integers(0, 4, len(lists)) / 4 if ties else chance.random(len(lists))
    return scores, labels, lists, chance.integers(0, 10, 30)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_that_of_scikit_learn(seed: int, *, ties: bool) -> None:
    scores, labels, lists, entities = draw(seed, ties=ties)
    expected = [
        ndcg_score(labels[lists == of][None], scores[lists == of][None], k=TOP)
        for of in range(30)
        if labels[lists == of].any()
    ]

    assert judge_lists(scores, labels, lists, entities, TOP).ndcg.value == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_precision_is_the_share_of_positives_in_the_first_places(seed: int) -> None:
    scores, labels, lists, entities = draw(seed, ties=False)
    expected = [labels[lists == of][np.argsort(-scores[lists == of])][:TOP].sum() / TOP for of in range(30)]

    assert judge_lists(scores, labels, lists, entities, TOP).precision.value == pytest.approx(np.mean(expected))


@pytest.mark.slow
def test_ties_count_as_the_mean_of_many_draws() -> None:
    scores, labels, lists, entities = draw(7, ties=True)
    chance = np.random.default_rng(0)
    found = judge_lists(scores, labels, lists, entities, TOP)
    drawn = [
        judge_lists(scores + chance.random(len(scores)) / 100, labels, lists, entities, TOP).precision.value
        for _ in range(300)
    ]

    assert found.precision.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(300))


def test_the_order_of_the_rows_and_the_scale_of_scores_change_nothing() -> None:
    scores, labels, lists, entities = draw(3, ties=True)
    shuffled = np.random.default_rng(1).permutation(len(scores))
    found = judge_lists(scores, labels, lists, entities, TOP)
    again = judge_lists(np.exp(scores)[shuffled], labels[shuffled], lists[shuffled], entities, TOP)

    assert again.precision.value == pytest.approx(found.precision.value, rel=1e-12)
    assert again.ndcg.value == pytest.approx(found.ndcg.value, rel=1e-12)


def test_ranges_hold_the_value_and_know_that_lists_of_an_entity_resemble_each_other() -> None:
    """The same lists, each given twice to its entity, say no more than they said once."""
    scores, labels, lists, entities = draw(4, ties=False)
    once = judge_lists(scores, labels, lists, entities, TOP).precision
    twice = judge_lists(
        np.tile(scores, 2),
        np.tile(labels, 2),
        np.concatenate((lists, lists + 30)),
        np.tile(entities, 2),
        TOP,
    ).precision

    assert once.low < once.value < once.high
    assert (twice.low, twice.value, twice.high) == pytest.approx((once.low, once.value, once.high))


def test_lists_without_any_positive_are_refused() -> None:
    scores, labels, lists, entities = draw(0, ties=False)

    with pytest.raises(ValueError, match="judge lists whose labels have come"):
        judge_lists(scores, np.zeros(len(labels)), lists, entities, TOP)


def test_popular_is_what_was_taken_up_in_the_28_days_before_as_far_as_it_was_known() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "ranking.py"))
    day, now = 86_400_000, 100 * 86_400_000
    offers = [
        ("old", now - 29 * day, "a", "milk"),  # too long ago
        ("yes", now - 20 * day, "a", "milk"),
        ("no", now - 20 * day, "b", "milk"),
        ("late", now - day, "b", "milk"),  # its label comes later than now
        ("other", now - day, "b", "bread"),
        ("now", now, "a", "milk"),
        ("new", now, "a", "tea"),
    ]
    labels = {
        "old": (1.0, now - 28 * day),
        "yes": (1.0, now - 19 * day),
        "no": (0.0, now),
        "late": (1.0, now + 1),
        "other": (1.0, now - day + 1),
        "now": (1.0, now + day),
    }

    assert script["find_popularity"](offers[5:], offers, labels).tolist() == [0.5, 0.0]
