"""One verdict: each row of the table, its order, the words, and what to do next."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.faults.fault import Fault, listed, percent
from app.core.verdict.attribution import JOINT, Share
from app.core.verdict.decide import Advice, Verdict, VerdictKind, decide
from app.core.verdict.headlines import HEADLINES
from app.core.verdict.movements import _largest_difference
from app.core.verdict.situation import (
    Misfit,
    Performance,
    Predecessor,
    RateChange,
    ScoreChange,
    SegmentChange,
    Situation,
    Thresholds,
)
from app.core.verdict.words import Change, number_pair, say
from models.reference.reference import MetricCells

COLD = (-10.0, -5.0, -2.0, 0.0, 3.2, 6.0, 9.0, 12.0, 15.0, 22.0)
WARM = (12.0, 15.0, 18.0, 21.0, 24.1, 26.0, 28.0, 30.0, 33.0, 39.0)
LOW = (0.02, 0.05, 0.08, 0.1, 0.14, 0.2, 0.25, 0.3, 0.4, 0.9)
HIGH = (0.05, 0.1, 0.15, 0.2, 0.28, 0.33, 0.4, 0.5, 0.6, 0.95)

TEMP = Change("temp", "numeric", 0.8, COLD, WARM)
SCORE = Change("score", "score", 0.25, LOW, HIGH)
CARRIER = Change(
    "carrier", "category", 0.09, shares_before=(0.6, 0.37, 0.03), shares_now=(0.55, 0.33, 0.12), values=("AA", "UA")
)
NULLS = Fault("missing_values", ("humid",), "`humid` is missing in all events, 0 % in training.", 1.0)
NO_TRAFFIC = Fault("traffic_missing", (), "No events where 1000 are usual: some do not arrive.", 1.0)

QUIET = Situation(n=5_000, n_reference=100_000, events="flights", thresholds=Thresholds(0.001))
FEATURES = replace(QUIET, changes=(TEMP, CARRIER))
SCORES = replace(
    FEATURES,
    changes=(TEMP, CARRIER, SCORE),
    score=replace(
        FEATURES.score,
        reference=0.2,
        detection=0.3,
        attribution=(
            Share("temp", 0.07, 0.7),
            Share(JOINT, 0.02, 0.2),
            Share("humid", 0.01, 0.1),
            Share("wind", 0.0, 0.0),
        ),
    ),
)
OFF = Misfit(p_direction=1e-9, gap=0.2, rate_expected=0.2, rate_realised=0.28, n=4_000)
#: Positives are more frequent than the scores say, and as frequent as in training.
CONCEPT = replace(QUIET, misfit=OFF, rate=RateChange(reference=0.28, detection=0.28))
BLIND = Misfit(p_order=1e-9, losses={"auc": 32.0}, rate_expected=0.28, rate_realised=0.28, n=4_000)
#: The scores tell less than they promise.
LOST = replace(
    QUIET,
    misfit=BLIND,
    rate=RateChange(reference=0.28, detection=0.28),
    performance=Performance("AUC", 0.23, expected=0.87, least=0.02),
)
PRIOR = replace(
    QUIET,
    rate=RateChange(reference=0.24, detection=0.13, p_value=1e-9),
    misfit=replace(OFF, gap=-0.2, rate_expected=0.22, rate_realised=0.13),
)
#: Of one segment alone.
FUEL = Misfit(
    p_order=1e-9,
    losses={"auc": 9.0},
    p_direction=0.3,
    gap=0.1,
    rate_expected=0.1,
    rate_realised=0.14,
    segment="k=fuel",
    n=400,
)
IN_FUEL = replace(QUIET, misfit=Misfit(n=4_000), misfits=(replace(OFF, segment="k=food", p_direction=0.5), FUEL))


# -- which kind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "kind", "action"),
    [
        (QUIET, "none", "watch"),
        (FEATURES, "feature_drift", "watch"),
        (SCORES, "score_drift", "watch"),
        (CONCEPT, "concept_drift", "retrain"),
        (LOST, "concept_drift", "retrain"),
        (IN_FUEL, "concept_drift", "retrain"),
        (PRIOR, "label_prior_drift", "watch"),
        (replace(QUIET, faults=(NULLS,)), "pipeline_fault", "look_upstream"),
        (replace(QUIET, n=0, faults=(NO_TRAFFIC,)), "pipeline_fault", "look_upstream"),
        (replace(QUIET, n=0), "too_little_data", "watch"),
        (replace(QUIET, n=1, changes=(TEMP,), faults=(NULLS,)), "too_little_data", "watch"),
        (replace(QUIET, n_reference=20, changes=(TEMP,)), "too_little_data", "watch"),
        (replace(QUIET, n_reference=0), "no_reference", "watch"),
        (replace(SCORES, n_reference=0), "no_reference", "watch"),
        (replace(QUIET, changes=(Change("outcome", "outcome", 0.1),)), "label_prior_drift", "watch"),
    ],
)
def test_each_row_of_the_table_gives_its_kind_and_advice(situation: Situation, kind: str, action: str) -> None:
    verdict = decide(situation)

    assert (verdict.kind, verdict.advice.action) == (kind, action)


def test_the_rows_come_in_their_order() -> None:
    everything = replace(SCORES, faults=(NULLS,), misfit=OFF, rate=replace(SCORES.rate, reference=0.28, detection=0.28))

    assert decide(everything).kind == "pipeline_fault"
    assert decide(replace(everything, faults=())).kind == "concept_drift"
    assert decide(replace(everything, faults=(), misfit=replace(OFF, p_direction=0.5))).kind == "score_drift"


def test_a_total_loss_is_told_though_a_fault_in_some_events_is_there() -> None:
    """A new word in 8 % of the events does not take 0.64 of an AUC."""
    word = Fault("unseen_values", ("section",), "8 % of the events have a `section` that is new.", 0.08)

    verdict = decide(replace(LOST, faults=(word,)))

    assert verdict.kind == "concept_drift"
    assert [each.words for each in verdict.explained_by] == [word.sentence]
    assert decide(replace(LOST, faults=(replace(word, strength=0.5),))).kind == "pipeline_fault"


def test_positives_that_become_more_frequent_by_what_the_scores_do_not_say_are_a_prior() -> None:
    assert decide(PRIOR).kind == "label_prior_drift"
    assert decide(replace(PRIOR, rate=replace(PRIOR.rate, p_value=0.5))).kind == "label_prior_drift"
    unsure = replace(OFF, gap=-0.2, rate_expected=0.22, rate_realised=0.13, p_direction=0.5)
    assert decide(replace(PRIOR, misfit=unsure)).kind == "label_prior_drift"
    assert decide(replace(PRIOR, rate=replace(PRIOR.rate, reference=0.13, p_value=0.5))).kind == "concept_drift"
    assert decide(replace(PRIOR, misfit=replace(BLIND, rate_expected=0.22, rate_realised=0.13))).kind == "concept_drift"


def test_a_rate_that_moved_as_the_scores_foresaw_is_drift_of_what_moved() -> None:
    fits = Misfit(p_direction=0.5, rate_expected=0.3, rate_realised=0.3)
    foreseen = replace(SCORES, rate=replace(SCORES.rate, reference=0.2, detection=0.3, p_value=1e-9), misfit=fits)

    assert decide(foreseen).kind == "score_drift"
    assert decide(replace(foreseen, changes=(TEMP,))).kind == "feature_drift"
    assert decide(replace(foreseen, changes=())).kind == "label_prior_drift"


def test_two_hundred_events_of_each_are_enough_for_a_verdict() -> None:
    assert decide(replace(CONCEPT, n=199)).kind == decide(replace(CONCEPT, n_reference=199)).kind == "too_little_data"
    assert decide(replace(CONCEPT, n=200, n_reference=200)).kind == "concept_drift"


def test_a_limit_that_is_just_met_is_met_and_a_predecessor_must_be_better_beyond_the_level() -> None:
    assert not Performance("AUC", 0.7, limit=0.7).is_below_limit
    assert Performance("AUC", 0.6999, limit=0.7).is_below_limit
    assert not Performance("AUC", 0.7).is_below_limit

    def is_better(p_value: float) -> bool:
        before = Predecessor("1.0.0", 0.76, p_value, windows_ago=0)
        return replace(QUIET, performance=Performance("AUC", 0.74, predecessor=before)).better_predecessor is not None

    assert [is_better(0.001), is_better(0.000999)] == [False, True]


# -- what to do ------------------------------------------------------------------------------------------------------

GOOD = Performance("AUC", 0.74, limit=0.7)
POOR = Performance("AUC", 0.66, limit=0.7)


BETTER = Predecessor("1.0.0", 0.76, p_value=1e-4, windows_ago=0)


@pytest.mark.parametrize("situation", [QUIET, FEATURES, SCORES, CONCEPT, IN_FUEL, PRIOR])
def test_a_new_version_is_rolled_back_when_the_one_before_surely_did_better(situation: Situation) -> None:
    def advise(predecessor: Predecessor | None) -> Advice:
        return decide(replace(situation, performance=replace(GOOD, predecessor=predecessor))).advice

    assert advise(BETTER) == (
        "roll_back",
        (
            "Version 1.0.0, which scored before, did better on its flights of this window: its AUC was 0.76, not 0.74, "
            "which is more than chance and the usual change between windows explain."
        ),
    )
    not_advised = (
        None,
        replace(BETTER, p_value=0.01),
        replace(BETTER, p_value=float("nan")),
        replace(BETTER, value=0.73),
        replace(BETTER, value=0.74),
    )
    assert {advise(each).action for each in not_advised} == {advise(None).action} != {"roll_back"}


def test_where_the_version_before_did_better_is_said() -> None:
    said = [
        decide(replace(QUIET, performance=replace(GOOD, predecessor=replace(BETTER, windows_ago=ago)))).advice.reason
        for ago in (1, 2)
    ]

    assert "did better on its flights of the window before: " in said[0]
    assert "did better on its flights 2 windows ago: " in said[1]


def test_a_limit_that_is_missed_as_well_does_not_keep_a_new_version_from_being_rolled_back() -> None:
    assert decide(replace(QUIET, performance=replace(POOR, predecessor=BETTER))).advice.action == "roll_back"


@pytest.mark.parametrize("situation", [QUIET, FEATURES, SCORES, CONCEPT, IN_FUEL, PRIOR])
def test_performance_below_its_limit_asks_for_retraining(situation: Situation) -> None:
    advice = decide(replace(situation, performance=POOR)).advice

    assert (advice.action, advice.reason) == ("retrain", "The AUC is 0.66, below its limit of 0.7.")


def test_a_fault_is_neither_learned_nor_rolled_back() -> None:
    faulty = replace(QUIET, faults=(NULLS,), performance=replace(POOR, predecessor=BETTER))

    assert decide(faulty).advice.action == "look_upstream"


def test_feature_drift_without_a_change_of_performance_is_watched() -> None:
    advice = decide(replace(FEATURES, performance=GOOD)).advice

    assert (advice.action, advice.reason) == ("watch", "The AUC is 0.74, as good as it has to be.")


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "headline"),
    [
        (QUIET, "Nothing has moved: the flights are like those of training."),
        (
            FEATURES,
            "`temp` is higher: half of the flights have 24.1 or more, 3.2 or more in training; `carrier` moved, too.",
        ),
        (
            SCORES,
            (
                "The scores are higher: half of the flights have 0.28 or more, 0.14 or more in training, mostly "
                "because of `temp`."
            ),
        ),
        (
            CONCEPT,
            (
                "The model no longer fits what happens: positive outcomes are more frequent than its scores say, 28 % "
                "of the flights and not 20 %."
            ),
        ),
        (
            replace(CONCEPT, misfit=replace(OFF, gap=-0.2, rate_expected=0.36)),
            (
                "The model no longer fits what happens: positive outcomes are less frequent than its scores say, 28 % "
                "of the flights and not 36 %."
            ),
        ),
        (LOST, "The model no longer fits what happens: its AUC is 0.23, and its scores promise 0.87."),
        (
            IN_FUEL,
            (
                "The model no longer fits what happens: positive outcomes are more frequent than its scores say, 14 % "
                "of the flights of k=fuel and not 10 %."
            ),
        ),
        (PRIOR, "Positive outcomes are less frequent: 13 % of the flights, 24 % in training."),
        (replace(QUIET, faults=(NULLS,)), NULLS.sentence),
        (
            replace(QUIET, faults=(NULLS, NO_TRAFFIC)),
            "No events where 1000 are usual: some do not arrive; there is more to look at in `humid`.",
        ),
        (replace(QUIET, n=3), "Too little data: 3 flights in the window, 100000 in training; 200 of each are needed."),
    ],
)
def test_the_headline_says_what_moved_where_to_and_from(situation: Situation, headline: str) -> None:
    assert decide(situation).headline == headline


def test_of_a_window_without_labels_it_is_said_what_they_may_change() -> None:
    """A model may be wrong for a month before the first label of it comes."""
    guess = Performance("AUC", 0.79, is_realised=False)
    late, lost = (replace(QUIET, performance=guess, awaits_labels=each) for each in (True, False))
    labelled = replace(QUIET, performance=replace(guess, is_realised=True), misfit=Misfit())
    words = "the flights are like those of training."
    assert decide(late).headline == f"Nothing has moved that shows before labels come: {words}"
    assert decide(lost).headline == f"Nothing has moved that shows without labels: {words}"
    assert decide(labelled).headline == decide(QUIET).headline == f"Nothing has moved: {words}"


OUTCOME = Change("outcome", "outcome", 0.2, shares_before=(0.8, 0.2), shares_now=(0.6, 0.4))
HIGHER = "The scores are higher: half of the flights have 0.28 or more, 0.14 or more in training"
UNFIT = "The model no longer fits what happens"
WARMER = "`temp` is higher: half of the flights have 24.1 or more, 3.2 or more in training"


def some_faults(*metrics: tuple[str, ...]) -> tuple[Fault, ...]:
    return tuple(Fault("constant", each, f"Fault {number}.", 0.5) for number, each in enumerate(metrics))


def of_field(*metrics: tuple[str, ...]) -> tuple[Fault, ...]:
    """Faults of features that are made of one field."""
    return tuple(replace(each, fields=("a",)) for each in some_faults(*metrics))


@pytest.mark.parametrize(
    ("kind", "situation", "headline"),
    [
        # What explains a fifth of a change of the scores is a cause of it; three of them are named.
        (
            "score_drift",
            replace(
                SCORES,
                score=replace(
                    SCORES.score, attribution=(Share(JOINT, 0.1, 0.5), Share("a", 0.1, 0.2), Share("b", 0.1, 0.19))
                ),
            ),
            f"{HIGHER}, mostly because of `a`.",
        ),
        (
            "score_drift",
            replace(SCORES, score=replace(SCORES.score, attribution=tuple(Share(name, 0.1, 0.25) for name in "abcd"))),
            f"{HIGHER}, mostly because of `a`, `b` and `c`.",
        ),
        (
            "score_drift",
            replace(SCORES, score=replace(SCORES.score, attribution=(Share("a", 0.1, 0.19),))),
            f"{HIGHER}.",
        ),
        ("feature_drift", replace(QUIET, changes=(TEMP,)), f"{WARMER}."),
        (
            "feature_drift",
            replace(QUIET, changes=(TEMP, *(replace(CARRIER, metric=name) for name in "abc"))),
            f"{WARMER}; `a`, `b` and `c` moved, too.",
        ),
        (
            "feature_drift",
            replace(QUIET, changes=(TEMP, *(replace(CARRIER, metric=name) for name in "abcd"))),
            f"{WARMER}; 4 other features moved, too.",
        ),
        (
            "label_prior_drift",
            replace(QUIET, changes=(OUTCOME,)),
            "The outcome is more frequent: 40 % of the flights, 20 % in training.",
        ),
        (
            "label_prior_drift",
            replace(QUIET, changes=(OUTCOME,), rate=RateChange(reference=0.2)),
            "The outcome is more frequent: 40 % of the flights, 20 % in training.",
        ),
        ("label_prior_drift", QUIET, "The share of positive outcomes has moved."),
        (
            "label_prior_drift",
            replace(QUIET, rate=RateChange(reference=0.1, detection=0.15)),
            "Positive outcomes are more frequent: 15 % of the flights, 10 % in training.",
        ),
        (
            "concept_drift",
            replace(CONCEPT, misfit=Misfit(p_shape=1e-9, effect=0.3, gap=0.0499)),
            f"{UNFIT}: of the flights, some of its scores are too high and others too low.",
        ),
        (
            "concept_drift",
            replace(IN_FUEL, misfits=(replace(FUEL, gap=0.0),)),
            f"{UNFIT}: of the flights of k=fuel, some of its scores are too high and others too low.",
        ),
        ("pipeline_fault", replace(QUIET, faults=some_faults(("a",))), "Fault 0."),
        (
            "pipeline_fault",
            replace(QUIET, faults=some_faults(("a",), ("b", "c"), ("b",), ())),
            "Fault 0; there is more to look at in `b`, `c` and `traffic`.",
        ),
        (
            "pipeline_fault",
            replace(QUIET, faults=of_field(("log_a", "root_a"), ("log_a",), ("mean_a",))),
            "Fault 0; there is more to look at in `mean_a`.",
        ),
        ("pipeline_fault", replace(QUIET, faults=of_field(("log_a", "root_a"), ("root_a",))), "Fault 0."),
        (
            "pipeline_fault",
            replace(QUIET, faults=(*some_faults(("a",), ("b",)), NO_TRAFFIC)),
            "No events where 1000 are usual: some do not arrive; there is more to look at in `a` and `b`.",
        ),
        ("no_reference", QUIET, "Not judged: this version has no counts of its training to compare with."),
    ],
)
def test_a_headline_names_causes_others_and_sizes(kind: VerdictKind, situation: Situation, headline: str) -> None:
    assert HEADLINES[kind](situation) == headline


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            replace(TEMP, deciles_before=WARM, deciles_now=COLD),
            "`temp` is lower: half of the flights have 3.2 or more, ",
        ),
        (
            replace(TEMP, deciles_now=(-40.0, -30.0, -20.0, -5.0, 3.2, 20.0, 30.0, 40.0, 50.0, 60.0)),
            "`temp` is spread more widely: 10 % of the flights have 50 or more, 15 or more in training",
        ),
        (
            replace(TEMP, range_before=(-20.0, 23.0)),
            "`temp` is higher: half of the flights have more than 23, the largest in training, where half have 3.2 or",
        ),
        (
            replace(TEMP, deciles_now=(-90.0,) * 8 + (-70.0, -60.0), range_before=(-20.0, 23.0)),
            "`temp` is lower: half of the flights have less than -20, the smallest in training, where half have 3.2 or",
        ),
        (
            replace(TEMP, deciles_now=(*COLD[:8], 40.0, 60.0), range_before=(-20.0, 23.0)),
            "`temp` is higher: 10 % of the flights have more than 23, the largest in training, where 10 % have 15 or",
        ),
        (
            replace(TEMP, deciles_now=(2.9, 3.0, 3.1, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 5.0)),
            "`temp` is spread less widely: ",
        ),
        (CARRIER, "`carrier` is more often new to the model: 12 % of the flights, 3 % in training"),
        (replace(CARRIER, shares_now=(0.8, 0.18, 0.02)), "`carrier` is more often 'AA': 80 % of the flights, 60 % in "),
        (replace(CARRIER, shares_now=(0.3, 0.67, 0.03), values=()), "`carrier` is "),
        (
            replace(TEMP, deciles_now=COLD, missing_now=0.3),
            "`temp` is more often missing: in 30 % of the flights, 0 % in",
        ),
        (replace(TEMP, deciles_now=COLD), "`temp` has changed: in none of the tenths"),
        (replace(TEMP, deciles_now=(float("nan"),) * 10, missing_now=1.0), "`temp` is more often missing: in 100 %"),
        (
            Change("outcome", "outcome", 0.2, shares_before=(0.8, 0.2), shares_now=(0.6, 0.4)),
            "the outcome is more frequent: 40 % of the flights, 20 % in training",
        ),
    ],
)
def test_a_change_is_said_with_its_direction_and_size(change: Change, sentence: str) -> None:
    assert say(change, "flights").sentence.startswith(sentence)


#: Nine tenths are 64 apart, and the tenth that says most is the one that moved.
TENS = tuple(8.0 * tenth for tenth in range(1, 11))


def moved(**by: float) -> tuple[float, ...]:
    """`TENS` with some of them moved: ``d3=5.0`` adds 5 to the third."""
    return tuple(value + by.get(f"d{tenth}", 0.0) for tenth, value in enumerate(TENS, start=1))


@pytest.mark.parametrize(
    ("now", "sentence", "what"),
    [
        (moved(d5=6.5), "`x` is higher: half of the events have 46.5 or more, 40 or more in training", "middle"),
        (moved(d5=-6.5), "`x` is lower: half of the events have 33.5 or more, 40 or more in training", "middle"),
        # Below a tenth of what is between the first tenth and the last, the outer ones say more.
        (moved(d5=6.3, d9=7), "`x` is higher: 10 % of the events have 79 or more, 72 or more in training", "10 % more"),
        (moved(d5=6.3, d1=-7), "`x` is lower: 10 % of the events have 1 or less, 8 or less in training", "10 % less"),
        (moved(d5=6.3, d9=6), "`x` is higher: half of the events have 46.3 or more, 40 or more in training", "middle"),
        # What has not moved says nothing.
        (moved(d3=4), "`x` is higher: 30 % of the events have 28 or less, 24 or less in training", "30 % less"),
        (moved(d4=-4), "`x` is lower: 40 % of the events have 28 or less, 32 or less in training", "40 % less"),
        (moved(d6=4), "`x` is higher: 40 % of the events have 52 or more, 48 or more in training", "40 % more"),
        (moved(d7=4, d8=3), "`x` is higher: 30 % of the events have 60 or more, 56 or more in training", "30 % more"),
        (moved(d10=50), "`x` has changed: in none of the tenths", ""),
        (
            moved(d5=9, d10=math.nan),
            "`x` is higher: half of the events have 49 or more, 40 or more in training",
            "middle",
        ),
        (moved(d5=9, d9=math.nan), "`x` has changed: in none of the tenths", ""),
        (moved(d5=9)[:9], "`x` has changed: in none of the tenths", ""),
        # Spread: both ends by a twentieth at least, and one move at least a third of the other.
        (moved(d1=-9, d9=24), "`x` is spread more widely: 10 % of the events have 96 or more, 72 or more in ", "10 %"),
        (moved(d1=-8, d9=24), "`x` is higher: 10 % of the events have 96 or more, ", "10 % more"),
        (moved(d1=-24, d9=9), "`x` is spread more widely: 10 % of the events have -16 or less, ", "10 % less"),
        (moved(d1=-4, d9=4), "`x` is spread more widely: ", "10 %"),
        (moved(d1=-3, d2=-4, d9=4.5), "`x` is lower: ", "10 %"),
        (moved(d1=-4.5, d8=4.25, d9=3), "`x` is higher: ", "10 %"),
        (moved(d1=9, d9=-24), "`x` is spread less widely: ", "10 %"),
        (moved(d1=8, d9=-24), "`x` is lower: ", "10 %"),
        (moved(d1=4, d9=-4), "`x` is spread less widely: ", "10 %"),
        (moved(d1=3, d2=4, d9=-4.5), "`x` is higher: ", "10 %"),
        (moved(d1=4.5, d8=-4.25, d9=-3), "`x` is lower: ", "10 %"),
    ],
)
def test_the_tenth_that_says_most_is_said_with_the_side_that_has_moved(
    now: tuple[float, ...], sentence: str, what: str
) -> None:
    said = say(Change("x", "numeric", 0.3, TENS, now), "events")
    assert said.sentence.startswith(sentence)
    if what == "middle":
        assert said.example.what == "the middle value of `x`"
    elif what.endswith(("more", "less")):
        assert said.example.what == f"the value that {what[:4]} of the events have {what[5:]} than"
    if what:
        assert said.rest.split(" have ")[1].startswith(f"{said.example.after} or ")
        assert f", {said.example.before} or " in said.rest


def test_of_a_score_all_scores_are_said_and_where_training_never_varied_any_move_is_one() -> None:
    said = say(Change("score", "score", 0.3, TENS, moved(d5=8)), "events")
    assert said.short == "the scores are higher"
    assert said.example == ("the middle value of the scores", "40", "48")
    same = say(Change("x", "numeric", 0.3, (2.0,) * 10, (2.5,) * 10), "events")
    assert same.sentence == "`x` is higher: half of the events have 2.5 or more, 2 or more in training"


@pytest.mark.parametrize(
    ("shares", "words", "example"),
    [
        (
            (0.5, 0.2, 0.2, 0.1),
            "`k` is more often 'AA': 50 % of the events, 40 % in training",
            ("`k` 'AA'", "40 %", "50 %"),
        ),
        (
            (0.4, 0.1, 0.3, 0.2),
            "`k` is less often 'UA': 10 % of the events, 30 % in training",
            ("`k` 'UA'", "30 %", "10 %"),
        ),
        (
            (0.4, 0.25, 0.3, 0.05),
            "`k` is more often of code 2: 30 % of the events, 20 % in training",
            ("`k` of code 2", "20 %", "30 %"),
        ),
        (
            (0.4, 0.2, 0.1, 0.3),
            "`k` is more often new to the model: 30 % of the events, 10 % in ",
            ("`k` new to the model", "10 %", "30 %"),
        ),
        ((0.4, 0.3, 0.3), "`k` has changed: in none of the tenths", ("k", "", "")),
        ((0.4, math.nan, 0.2, 0.1), "`k` has changed: in none of the tenths", ("k", "", "")),
    ],
)
def test_the_code_whose_share_has_moved_most_is_said(
    shares: tuple[float, ...], words: str, example: tuple[str, str, str]
) -> None:
    before = (0.4, 0.3, 0.2, 0.1)
    said = say(Change("k", "category", 0.1, shares_before=before, shares_now=shares, values=("AA", "UA")), "events")
    assert said.sentence.startswith(words)
    assert said.example == example


def test_of_the_outcome_the_positives_are_said() -> None:
    said = say(Change("outcome", "outcome", 0.2, shares_before=(0.6, 0.4), shares_now=(0.8, 0.2)), "events")
    assert said.sentence == "the outcome is less frequent: 20 % of the events, 40 % in training"
    assert said.example == ("the outcome", "40 %", "20 %")


@pytest.mark.parametrize(
    ("before", "now", "effect", "words"),
    [
        (0.0, 0.02, 0.03, "`x` is more often missing: in 2 % of the events, 0 % in training"),
        (0.0, 0.019, 0.03, "`x` is higher: "),
        (0.0, 0.1, 0.2, "`x` is more often missing: "),
        (0.0, 0.09, 0.2, "`x` is higher: "),
        (0.5, 0.25, 0.25, "`x` is less often missing: in 25 % of the events, 50 % in training"),
        (0.0, 0.0, 0.0, "`x` is higher: "),
    ],
)
def test_missing_values_are_said_when_they_are_half_of_the_change(
    before: float, now: float, effect: float, words: str
) -> None:
    change = Change("x", "numeric", effect, TENS, moved(d5=9), missing_before=before, missing_now=now)
    assert say(change, "events").sentence.startswith(words)
    unmoved = replace(change, deciles_now=TENS, missing_now=before + 0.001)
    said = say(unmoved, "events")
    assert said.short == "`x` is more often missing"
    assert said.example == ("`x` missing", percent(before), percent(before + 0.001))


@pytest.mark.slow
@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_numbers_that_differ_visibly_are_said_differently(before: float, now: float) -> None:
    was, is_ = number_pair(before, now)

    if abs(before - now) > 1e-6 * max(abs(before), abs(now)):
        assert was != is_


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (1.0, 1.0 + 1e-12, ("1", "1")),  # nine digits at most
        (123.4, 123.4, ("123", "123")),
        (100.0, 101.0, ("100", "101")),
        (1000.0, 1000.4, ("1000", "1000.4")),
        # A step of the last digit is at most a tenth of what they differ by:
        (100.0, 110.0, ("100", "110")),
        (100.5, 110.0, ("100.5", "110")),
        (-5.0, 5.0, ("-5", "5")),
        (0.0, 1e-9, ("0", "0.000000001")),
        (float("nan"), 3.14159, ("none", "3.14")),
        (math.inf, -math.inf, ("infinity", "minus infinity")),
        (90.04, 99.04, ("90", "99")),
        (1234.0, 9999.0, ("1230", "10 000")),
        (12345.0, 5e7, ("12 300", "50 000 000")),
        (1e-10, 1.0, ("0.0000000001", "1")),
        (1e-11, 1.0, ("1e-11", "1")),
        (1e14, 2e15, ("100 000 000 000 000", "2e+15")),
        (9e14, 1e15, ("900 000 000 000 000", "1e+15")),
    ],
)
def test_numbers_have_as_many_digits_as_it_takes_to_tell_them_apart(
    before: float, now: float, said: tuple[str, str]
) -> None:
    assert number_pair(before, now) == said


def test_names_are_listed_with_an_and_before_the_last() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "`a`",
        "`a` and `b`",
        "`a`, `b` and `c`",
    ]


@pytest.mark.parametrize(
    ("cells", "now", "expected"),
    [
        # Before: 0.2, 0.3, 0.4 and 0.1 missing.
        (MetricCells("x", "numeric", np.array([0.0, 1.0])), [0.2, 0.3, 0.2, 0.3], 0.2),  # 0.2 more are missing
        (MetricCells("x", "numeric", np.array([0.0, 1.0])), [0.05, 0.2, 0.65, 0.1], 0.25),  # below 1: 0.25 less
        (MetricCells("k", "category", np.empty(0), codes=3), [0.05, 0.2, 0.65, 0.1], 0.25),  # of the last code
        (MetricCells("k", "category", np.empty(0), codes=3), [0.1, 0.2, 0.3, 0.4], 0.3),
    ],
)
def test_a_metric_has_moved_as_far_as_the_shares_below_any_point_or_of_any_code(
    cells: MetricCells, now: list[float], expected: float
) -> None:
    before = np.array([0.2, 0.3, 0.4, 0.1])
    assert _largest_difference(cells, before, np.array(now)) == pytest.approx(expected)
    assert _largest_difference(cells, np.array(now), before) == pytest.approx(expected)
    assert _largest_difference(cells, before, before) == 0.0


# -- explanations, segments, examples --------------------------------------------------------------------------------


def test_features_explain_a_score_drift_by_their_shares() -> None:
    explained = decide(SCORES).explained_by

    assert [(each.metric, each.share) for each in explained] == [("temp", 0.7), (JOINT, 0.2), ("humid", 0.1)]
    assert explained[0].words.endswith("3.2 or more in training; this raises the mean score by 0.07")
    assert explained[1].words == (
        "no feature by itself explains 0.02 of the rise of the mean score from 0.2 to 0.3: features go together in"
        " another way than in training, or what has moved shows in none of them"
    )
    falling = replace(
        SCORES,
        score=replace(SCORES.score, reference=0.0101, detection=0.0065, attribution=(Share(JOINT, -0.0023, 0.6),)),
    )
    (joint,) = decide(falling).explained_by
    assert joint.words.startswith("no feature by itself explains 0.0023 of the fall of the mean score from 0.0101 to ")
    assert explained[2].words == "`humid` may have moved, not for certain; this raises the mean score by 0.01"


def test_without_score_drift_features_are_ranked_by_how_far_they_moved() -> None:
    assert [each.metric for each in decide(replace(FEATURES, changes=(CARRIER, TEMP))).explained_by] == [
        "temp",
        "carrier",
    ]


def test_the_example_is_of_the_first_explanation() -> None:
    example = decide(SCORES).example

    assert example is not None
    assert (example.what, example.before, example.after) == ("the middle value of `temp`", "3.2", "24.1")


@pytest.mark.parametrize(
    ("situation", "example"),
    [
        (CONCEPT, ("positive outcomes, as scored and as they came", "20 %", "28 %")),
        (LOST, ("AUC, as scores promise and as it is", "0.87", "0.23")),
        (IN_FUEL, ("positive outcomes of k=fuel, as scored and as they came", "10 %", "14 %")),
        (PRIOR, ("positive outcomes", "24 %", "13 %")),
        # Before the labels have come, what has signalled is said.
        (
            replace(
                QUIET, changes=(Change("outcome", "outcome", 0.2, shares_before=(0.8, 0.2), shares_now=(0.6, 0.4)),)
            ),
            ("the outcome", "20 %", "40 %"),
        ),
        # Of faults, the metrics of the first one; of score drift, what explains most of it.
        (
            replace(FEATURES, faults=(replace(NULLS, metrics=("carrier",)),)),
            ("`carrier` new to the model", "3 %", "12 %"),
        ),
        (replace(FEATURES, faults=(NULLS, replace(NULLS, metrics=("temp",)))), None),
        (replace(FEATURES, faults=(NO_TRAFFIC,)), None),
        (
            replace(
                SCORES, score=replace(SCORES.score, attribution=(Share("humid", 0.1, 0.6), Share("carrier", 0.1, 0.4)))
            ),
            ("`carrier` new to the model", "3 %", "12 %"),
        ),
        (replace(SCORES, score=replace(SCORES.score, attribution=())), ("the middle value of `temp`", "3.2", "24.1")),
        (replace(SCORES, changes=(SCORE,)), ("the middle value of the scores", "0.14", "0.28")),
        (
            replace(
                FEATURES,
                changes=(CARRIER, TEMP),
                score=replace(FEATURES.score, attribution=(Share("carrier", 0.1, 0.4),)),
            ),
            ("the middle value of `temp`", "3.2", "24.1"),
        ),
        (QUIET, None),
    ],
)
def test_the_example_is_of_what_the_verdict_is_about(
    situation: Situation, example: tuple[str, str, str] | None
) -> None:
    spoken = decide(situation).example
    assert (spoken if spoken is None else tuple(spoken)) == example


def test_faults_explain_themselves_with_what_their_metrics_do_to_the_score() -> None:
    swap = Fault("columns_swapped", ("temp", "humid"), "They have changed places.", 0.9)
    explanations = decide(replace(SCORES, faults=(swap, NULLS), n=5_000)).explained_by
    assert [(each.metric, each.words) for each in explanations] == [
        ("temp", swap.sentence),
        ("humid", swap.sentence),
        ("humid", NULLS.sentence),
    ]
    assert [each.share for each in explanations] == [0.7, 0.1, 0.1]
    (traffic,) = decide(replace(QUIET, faults=(NO_TRAFFIC,))).explained_by
    assert (traffic.metric, traffic.words) == ("", NO_TRAFFIC.sentence)
    assert math.isnan(traffic.share)


def test_of_a_score_drift_what_explains_some_of_it_is_said_and_of_others_how_far_features_moved() -> None:
    shares = tuple(Share(f"f{at}", -0.0123, share) for at, share in enumerate((0.3, 0.2, 0.15, 0.1, 0.05, 0.05, 0.049)))
    explanations = decide(replace(SCORES, score=replace(SCORES.score, attribution=shares))).explained_by
    assert [each.metric for each in explanations] == ["f0", "f1", "f2", "f3", "f4"]
    assert [each.words for each in explanations] == [
        f"`f{at}` may have moved, not for certain; this lowers the mean score by 0.012" for at in range(5)
    ]
    few = decide(replace(SCORES, score=replace(SCORES.score, attribution=shares[4:]))).explained_by
    assert [each.metric for each in few] == ["f4", "f5"]
    many = tuple(replace(TEMP, metric=f"t{at}", effect=0.9 - at / 10) for at in range(8))
    for situation in (
        replace(QUIET, changes=many, score=ScoreChange(attribution=shares)),
        replace(QUIET, changes=(*many, SCORE)),
    ):
        moved = decide(situation).explained_by
        assert [each.metric for each in moved] == ["t0", "t1", "t2", "t3", "t4"]
        assert all(math.isnan(each.share) for each in moved)
        assert moved[0].words.startswith("`t0` is higher: half of the flights have 24.1 or more")


def test_segments_are_ranked_by_how_many_events_have_moved() -> None:
    changes = (
        SegmentChange("origin=LGA", "temp", 0.9, 100),
        SegmentChange("origin=EWR", "temp", 0.5, 2_000),
        SegmentChange("origin=EWR", "humid", 0.6, 2_000),
    )

    segments = decide(replace(FEATURES, segments=changes)).segments

    assert [(each.segment, each.effect, each.metrics) for each in segments] == [
        ("origin=EWR", 0.6, ("humid", "temp")),
        ("origin=LGA", 0.9, ("temp",)),
    ]


def test_where_labels_speak_against_the_scores_comes_first() -> None:
    changes = (SegmentChange("k=food", "temp", 0.9, 2_000), SegmentChange("k=fuel", "temp", 0.1, 500))

    segments = decide(replace(IN_FUEL, segments=changes)).segments

    assert [(each.segment, each.n, each.metrics) for each in segments] == [
        ("k=fuel", 400, ("outcome",)),
        ("k=food", 2_000, ("temp",)),
    ]


def test_what_is_said_of_the_performance_is_what_is_known_of_it() -> None:
    def reason(performance: Performance) -> str:
        return decide(replace(QUIET, performance=performance)).advice.reason

    known = Performance("AUC", 0.86, expected=0.87, least=0.02)
    assert reason(known) == "The AUC is 0.86, as its scores promise (0.87)."
    assert reason(replace(known, value=0.8)) == (
        "The AUC is 0.8; its scores promise 0.87, and chance may be the difference."
    )
    assert reason(replace(known, limit=0.7)) == "The AUC is 0.86, as good as it has to be."
    guess = replace(known, is_realised=False)
    assert reason(guess) == "As far as the scores tell, the AUC is 0.86."
    assert decide(replace(QUIET, performance=guess, awaits_labels=True)).advice.reason == (
        "As far as the scores tell, the AUC is 0.86; whether the same inputs lead to other outcomes, labels will tell."
    )
    assert reason(Performance("AUC", 0.86)) == "The AUC is 0.86."


def test_where_nothing_is_judged_nothing_is_explained() -> None:
    verdict = decide(replace(SCORES, n=5, segments=(SegmentChange("origin=LGA", "temp", 0.9, 5),)))

    assert (verdict.explained_by, verdict.segments, verdict.example) == ((), (), None)


@pytest.mark.slow
@given(
    st.sets(st.sampled_from([TEMP, CARRIER, SCORE])),
    st.sets(st.sampled_from([NULLS, NO_TRAFFIC])),
    st.integers(0, 1_000),
    st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), min_size=6, max_size=6),
    st.booleans(),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_situation_has_a_verdict_in_whole_sentences_without_jargon(
    changes: set[Change], faults: set[Fault], n: int, known: list[float], has_performance: bool
) -> None:
    verdict = decide(
        replace(
            QUIET,
            n=n,
            changes=tuple(sorted(changes, key=lambda change: change.metric)),
            faults=tuple(sorted(faults, key=lambda fault: fault.kind)),
            misfit=Misfit(known[0] / 1e4, known[1], known[2], known[4], known[5] / 1e4, {"auc": known[1]}),
            misfits=(replace(FUEL, p_order=known[5] / 1e4, rate_expected=known[2]),),
            rate=RateChange(reference=known[3], detection=known[4], p_value=known[2] / 1e4),
            performance=Performance("AUC", known[0], expected=known[3]) if has_performance else None,
        )
    )

    for sentence in (verdict.headline, verdict.advice.reason):
        assert sentence.endswith(".")
        assert "nan" not in sentence
        assert not {"ks", "p-value", "decile", "psi", "null"} & set(sentence.lower().replace(":", " ").split())
    assert isinstance(verdict, Verdict)
