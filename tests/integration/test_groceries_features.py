"""The features of a grocer's offers: against naive definitions, for look-ahead."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.adapters.sources.python_features import load_function
from app.core.batches import Floats
from app.replay.training_set import TrainingSet, build_training_set
from schemas.pipeline.file import SHIPPED, load
from schemas.pipeline.spec import Pipeline

DAY_MS = 86_400_000
HOP_MS = 7 * DAY_MS
#: From the first mailer, 2 January 2017, up to the eleventh; features are looked at from the ninth on.
FIRST_MS, FROM_MS, TO_MS = 1_483_246_800_000, 1_487_998_800_000, 1_489_381_200_000
SAMPLE = 500

#: Labels by household: item, department, when it came, label.
Labels = dict[str, list[tuple[str, str, int, float]]]


@dataclass
class Offers:
    """What was offered, and what became of it; which department each item is of."""

    department: dict[str, str]
    events: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    labels: Labels = field(default_factory=lambda: defaultdict(list))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("groceries")


@pytest.fixture(scope="module")
def department() -> dict[str, str]:
    with (SHIPPED / "groceries_items.csv").open(encoding="utf-8", newline="") as file:
        return {row["item"]: row["department"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def offers(pipeline: Pipeline, department: dict[str, str]) -> Offers:
    found = Offers(department)
    for chunk in load_function("groceries_source.py:records", pipeline)(FIRST_MS, TO_MS):
        for kind, household, time_ms, value in chunk:
            if kind == "event":
                found.events[value["offer_id"]] = household, value["item"], value["products"]
            elif kind == "label":
                _, item, _ = found.events[value["event_id"]]
                found.labels[household].append((item, department[item], time_ms, value["label"]))
    return found


@pytest.fixture(scope="module")
def served(pipeline: Pipeline) -> TrainingSet:
    """Every labelled offer with the features that a stream would have served."""
    return build_training_set(pipeline, None, FROM_MS, TO_MS, maturity_ms=0)


@pytest.fixture(scope="module")
def sample(served: TrainingSet) -> list[int]:
    return np.random.default_rng(0).choice(len(served.event_id), SAMPLE, replace=False).tolist()


def column(served: TrainingSet, pipeline: Pipeline, name: str) -> Floats:
    values: Floats = served.matrix[:, pipeline.feature_names.index(name)]
    return values


def seen_labels(offers: Offers, offer_id: str, time_ms: int, weeks: int) -> list[tuple[str, str, float]]:
    """What had become of the household's offers, in the tiles of so many weeks up to the one under way."""
    first_ms = (time_ms // HOP_MS + 1) * HOP_MS - weeks * HOP_MS
    household = offers.events[offer_id][0]
    return [(i, d, label) for i, d, known_ms, label in offers.labels[household] if first_ms <= known_ms <= time_ms]


def test_windows_of_an_item_hold_what_had_become_of_its_offers(
    served: TrainingSet, offers: Offers, pipeline: Pipeline, sample: list[int]
) -> None:
    offered, bought, recent, share = (
        column(served, pipeline, name) for name in ("offered_12w", "bought_12w", "bought_4w", "item_share")
    )
    with_history = 0

    for row in sample:
        offer_id, time_ms = served.event_id[row], int(served.event_time_ms[row])
        item = offers.events[offer_id][1]
        long = [label for of, _, label in seen_labels(offers, offer_id, time_ms, 12) if of == item]
        short = [label for of, _, label in seen_labels(offers, offer_id, time_ms, 4) if of == item]
        assert (offered[row], bought[row], recent[row]) == (len(long), sum(long), sum(short))
        assert share[row] == pytest.approx((sum(long) + 1) / (len(long) + 20), rel=1e-12)
        with_history += bool(long)

    assert with_history > SAMPLE * 0.3


@pytest.mark.parametrize(("name", "weeks"), [("department_share_12w", 12), ("household_share_4w", 4)])
def test_a_share_is_the_mean_of_the_labels_that_had_come(
    served: TrainingSet, offers: Offers, pipeline: Pipeline, sample: list[int], *, name: str, weeks: int
) -> None:
    values = column(served, pipeline, name)

    for row in sample:
        offer_id, time_ms = served.event_id[row], int(served.event_time_ms[row])
        own = offers.department[offers.events[offer_id][1]] if name.startswith("department") else None
        found = [label for _, of, label in seen_labels(offers, offer_id, time_ms, weeks) if own in (None, of)]
        assert values[row] == pytest.approx(sum(found) / len(found) if found else np.nan, nan_ok=True, rel=1e-12)


def test_an_item_is_known_by_its_name(
    served: TrainingSet, offers: Offers, pipeline: Pipeline, department: dict[str, str], sample: list[int]
) -> None:
    codes = next(feature.values for feature in pipeline.features if feature.name == "department")
    values, products = column(served, pipeline, "department"), column(served, pipeline, "products")

    for row in sample:
        _, item, shown = offers.events[served.event_id[row]]
        assert (codes[int(values[row])], products[row]) == (department[item], shown)
