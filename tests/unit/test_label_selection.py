"""Labels of chosen events are told from labels that come at random, and no figure over all events is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.core.labels.selection import OneKind, Selection, WindowLabels, find_one_kind, find_selection
from app.core.performance.label_checks import LabelCheck
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric

THRESHOLD = 0.5
Floats = np.ndarray[Any, Any]


def draw(n: int, seed: int) -> tuple[Floats, Floats]:
    """Calibrated scores, a tenth of them at or above the threshold, and what comes true."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.6, 2.4, n)
    return scores, (rng.random(n) < scores).astype(np.float64)


@pytest.fixture(scope="module")
def reference() -> Reference:
    scores, labels = draw(20_000, 1)
    return fit_reference(TrainingEvents(np.zeros((20_000, 1)), scores, labels), [numeric("x")], 16, THRESHOLD)


def window(reference: Reference, *, below: float, above: float, n: int = 10_000, seed: int = 2) -> Selection | None:
    scores, labels = draw(n, seed)
    chance = np.where(scores >= THRESHOLD, above, below)
    labels[np.random.default_rng(seed + 100).random(n) >= chance] = np.nan
    return find_selection(reference, count(reference, np.zeros((n, 1)), scores, labels))


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.01, 0.0])
def test_labels_at_random_are_no_selection_however_few(reference: Reference, share: float) -> None:
    assert [window(reference, below=share, above=share, seed=seed) for seed in range(20)] == [None] * 20


@pytest.mark.parametrize("share", [1.0, 0.3, 0.06])
def test_labels_of_positive_decisions_alone_are_said_to_be_that(reference: Reference, share: float) -> None:
    selection = window(reference, below=0.0, above=share)
    assert selection is not None
    assert (selection.side, selection.is_one_sided, selection.labelled[0]) == (1, True, 0)
    assert sum(selection.events) == 10_000
    words = selection.describe()
    assert words.startswith(f"Labels come only of events scored at or above 0.5 ({selection.labelled[1]:,} of ")
    assert "the AUC, the recall and the rate of positives of all events cannot be known." in words
    assert selection.check.p_direction > 0.001
    assert selection.check.n_labels == selection.labelled[1]
    assert "The calibration at or above it can and the precision can: " in words


def test_labels_of_negative_decisions_alone_are_said_to_be_that(reference: Reference) -> None:
    """Payments that are stopped have no outcome."""
    selection = window(reference, below=0.9, above=0.0)
    assert selection is not None
    assert (selection.side, selection.is_one_sided) == (0, True)
    assert selection.describe().startswith("Labels come only of events scored below 0.5 (")
    assert "The calibration below it can: " in selection.describe()


def test_labels_that_lean_to_one_side_are_said_to_lean(reference: Reference) -> None:
    selection = window(reference, below=0.05, above=0.8)
    assert selection is not None
    assert (selection.side, selection.is_one_sided) == (1, False)
    words = selection.describe()
    assert words.startswith("Labels come of 81% of the events scored at or above 0.5 and of 5.0% of the others: ")
    assert "as many positives as the scores say (p = " in words
    assert "are not those of all" in words
    assert window(reference, below=0.6, above=0.8) is None


def test_a_handful_of_labels_on_the_other_side_makes_them_no_less_one_sided(reference: Reference) -> None:
    selection = window(reference, below=0.004, above=1.0)
    assert selection is not None
    assert 0 < selection.labelled[0] < 0.01 * selection.events[0]
    assert selection.is_one_sided
    assert f"others {selection.labelled[0]}): the AUC" in selection.describe()


def test_shares_that_may_differ_by_chance_are_no_selection(reference: Reference) -> None:
    assert [window(reference, below=0.03, above=0.08, n=500, seed=seed) for seed in range(20)] == [None] * 20


def test_where_a_side_has_too_few_events_nothing_is_said(reference: Reference) -> None:
    assert window(reference, below=1.0, above=0.0, n=150) is None
    assert window(reference, below=0.0, above=0.02, n=2_000) is None
    scores, labels = np.full(500, 0.1), np.zeros(500)
    assert find_selection(reference, count(reference, np.zeros((500, 1)), scores, labels)) is None


def test_a_calibration_that_goes_is_seen_in_chosen_labels(reference: Reference) -> None:
    scores, labels = draw(10_000, 5)
    is_above = scores >= THRESHOLD
    labels[~is_above] = np.nan
    labels[np.flatnonzero(is_above)[::2]] = 0.0
    selection = find_selection(reference, count(reference, np.zeros((10_000, 1)), scores, labels))
    assert selection is not None
    assert selection.check.p_direction < 1e-6
    assert "fewer positives than the scores say (p = " in selection.describe()


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_kind_are_found_where_the_scores_promise_many_of_the_other(
    reference: Reference, label: int
) -> None:
    scores, labels = draw(2_000, 8)
    labels[labels != label] = np.nan
    counts = count(reference, np.zeros((2_000, 1)), scores, labels)
    one_kind = find_one_kind(reference, counts)
    assert one_kind is not None
    assert (one_kind.label, one_kind.n, one_kind.unlabelled) == (label, counts.n_labels, 2_000 - counts.n_labels)
    assert one_kind.due == pytest.approx(float((scores if label == 0 else 1 - scores)[labels == label].sum()), rel=0.05)
    assert one_kind.is_unsent
    assert one_kind.fault is not None
    assert one_kind.sentence.endswith(f"labels {1 - label} are not sent any more.")
    # A label or two of the other kind change nothing.
    labels[np.flatnonzero(np.isnan(labels))[:2]] = 1.0 - label
    assert find_one_kind(reference, count(reference, np.zeros((2_000, 1)), scores, labels)) is not None


@pytest.mark.parametrize("label", [0, 1])
def test_where_every_event_has_a_label_the_other_kind_came_true_of_none(reference: Reference, label: int) -> None:
    scores = draw(2_000, 8)[0]
    one_kind = find_one_kind(reference, count(reference, np.zeros((2_000, 1)), scores, np.full(2_000, float(label))))
    assert one_kind is not None
    assert one_kind.fault is None
    assert one_kind.sentence.endswith(f"{1 - label}, and of none that came true, though all have a label.")


def test_labels_of_either_kind_and_few_labels_are_nothing(reference: Reference) -> None:
    for label in (0, 1):
        few = count(reference, np.zeros((60, 1)), np.full(60, 0.3 if label == 0 else 0.7), np.full(60, float(label)))
        assert find_one_kind(reference, few) is None
    assert find_one_kind(reference, count(reference, np.zeros((2_000, 1)), *draw(2_000, 8))) is None
    assert find_one_kind(reference, reference.zeros()) is None


def test_labels_that_came_twice_are_no_more_than_the_events(reference: Reference) -> None:
    scores, labels = draw(10_000, 6)
    labels[scores < THRESHOLD] = np.nan
    counts = count(reference, np.zeros((10_000, 1)), scores, labels)
    counts.outcomes *= 2
    selection = find_selection(reference, counts)
    assert selection is not None
    assert selection.labelled[1] <= selection.events[1]


# -- what is known of a window's labels --------------------------------------------------------------------------------


SOME = Selection(0.5, (10, 90), (1_000, 100), False, LabelCheck(100, 0.5, 0.5, 0.5, 0.0, 0.0, 0.5, 0.0))
UNSENT, TRUE_OF_NONE = OneKind(1, 178, 173.0, 20_911), OneKind(1, 178, 173.0, 0)


@pytest.mark.parametrize(
    ("labels", "is_judged", "silence", "notes"),
    [
        (WindowLabels(is_mature=False), False, "too few of either", []),
        (WindowLabels(True), False, "too few of either", ["Its labels are not judged: too few"]),
        (WindowLabels(True, (1.0, 1.0)), True, "", []),
        (WindowLabels(True, (1.0, 1.0), chosen=SOME), True, "labels come of one side of the thresh", ["Labels"]),
        (
            WindowLabels(True, (1.0, 1.0), chosen=replace(SOME, is_one_sided=True)),
            False,
            "labels come of one side of the threshold alone",
            ["Labels come only of events"],
        ),
        (WindowLabels(True, (1.0, 1.0), UNSENT), False, "labels 0 are not sent any more", []),
        (WindowLabels(True, (1.0, 1.0), TRUE_OF_NONE), True, "", ["All 178 labels are 1; "]),
    ],
)
def test_labels_are_judged_and_compared_where_they_may_be_and_else_it_is_said(
    labels: WindowLabels, is_judged: bool, silence: str, notes: list[str]
) -> None:
    assert labels.can_be_judged == is_judged
    assert labels.silence.startswith(silence)
    assert bool(labels.silence) == bool(silence)
    sentences = labels.notes(178)
    assert len(sentences) == len(notes)
    assert all(sentence.startswith(note) for sentence, note in zip(sentences, notes, strict=True))
    nobody = ["None of them has a label, though all are old enough."] if is_judged else []
    assert labels.notes(0) == sentences + nobody
    assert (labels.unsent is not None) == (labels.one_kind == UNSENT)
