"""Payments to evaluate by are what they are said to be, and the oracle has the level that it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from app.evaluation.payment_changes import CHANGES, PaymentChange, as_scored, oracle_finds
from app.evaluation.payment_stream import (
    A_DAY,
    COLUMN,
    DAY_MS,
    FIRST_DAY,
    MERCHANTS,
    SLOWEST_DAYS,
    Bank,
    PaymentLaw,
    Payments,
)
from app.evaluation.payment_watch import NEXT_VERSION, alarmed_windows, fit, follow, make_pipeline, records
from app.evaluation.payments import CHANGING, LAWS, Said
from app.evaluation.product import VERSION
from app.evaluation.run import generator

BY_NAME = {change.name: change for change in CHANGES}


def bank_of(law: PaymentLaw, seed: int = 1) -> Bank:
    return Bank(law, generator(seed))


@pytest.mark.slow
@pytest.mark.parametrize("base_rate", [0.001, 0.01, 0.2])
def test_as_many_are_frauds_as_the_law_says_and_scores_tell_them(base_rate: float) -> None:
    drawn = bank_of(PaymentLaw(base_rate)).draw(generator(2), 10)
    assert len(drawn.scores) == 10 * A_DAY
    assert drawn.labels.mean() == pytest.approx(base_rate, rel=0.25)
    assert drawn.scores.mean() == pytest.approx(base_rate, rel=0.1)
    assert 0.82 < roc_auc_score(drawn.labels, drawn.scores) < 0.96


@pytest.mark.parametrize("delay", ["now", "late", "split"])
def test_labels_come_when_the_law_says(delay: str) -> None:
    drawn = bank_of(PaymentLaw(0.05, delay)).draw(generator(2), 2)  # type: ignore[arg-type]
    days = (drawn.label_times_ms - drawn.times_ms) / DAY_MS
    of_frauds, of_others = days[drawn.labels == 1], days[drawn.labels == 0]
    slow = 0 if delay == "now" else SLOWEST_DAYS
    assert set(of_others) == {slow}
    if delay == "split":
        assert 1 <= of_frauds.min() < 2
        assert 19 < of_frauds.max() <= SLOWEST_DAYS
    else:
        assert set(of_frauds) == {slow}


def test_busy_cards_make_most_payments_and_days_repeat() -> None:
    counts = {}
    for cards in ("uniform", "zipf"):
        drawn = bank_of(PaymentLaw(0.01, cards=cards)).draw(generator(3), 2)  # type: ignore[arg-type]
        _, numbers = np.unique(drawn.matrix[:, COLUMN["card_risk"]], return_counts=True)
        counts[cards] = numbers.max() / len(drawn.scores)
        hours = drawn.matrix[:, COLUMN["hour"]]
        assert ((hours > 12) & (hours < 18)).mean() > 2.5 * (hours < 6).mean()
        assert (np.diff(drawn.times_ms) >= 0).all()
    assert counts["uniform"] < 0.02
    assert counts["zipf"] > 0.15


@pytest.mark.slow
def test_the_merchants_frauds_of_a_month_are_those_whose_labels_had_come() -> None:
    bank = bank_of(PaymentLaw(0.05))
    past = bank.draw(generator(4), SLOWEST_DAYS + 30)
    drawn = bank.draw(generator(5), 1)
    hours = drawn.times_ms // 3_600_000
    came = past.label_times_ms // 3_600_000
    merchants = past.matrix[:, COLUMN["merchant"]]
    for row in (0, A_DAY // 2, A_DAY - 1):
        here = (merchants == drawn.matrix[row, COLUMN["merchant"]]) & (came >= hours[row] - 720) & (came < hours[row])
        assert drawn.matrix[row, COLUMN["fraud_30d"]] == pytest.approx(past.labels[here].mean())


def test_a_fork_goes_on_alone_and_a_stream_that_begins_knows_no_past() -> None:
    bank = bank_of(PaymentLaw(0.01, "now"))
    first, again = (bank.fork().draw(generator(6), 2) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert bank.day == FIRST_DAY
    begun = bank.emptied().draw(generator(6), 1)
    assert np.isnan(begun.matrix[0, COLUMN["fraud_30d"]])
    assert not np.isnan(first.matrix[:, COLUMN["fraud_30d"]]).any()
    assert begun.matrix[:100, COLUMN["payments_1d"]].mean() < first.matrix[:100, COLUMN["payments_1d"]].mean()


def changed(name: str, base_rate: float = 0.05, days: int = 3) -> tuple[Payments, Payments]:
    bank = bank_of(PaymentLaw(base_rate, "now"))
    return bank.fork().draw(generator(7), days), bank.fork().draw(generator(7), days, BY_NAME[name])


def test_reversed_relations_leave_the_rate_and_turn_the_scores_round() -> None:
    before, after = changed("reversed")
    assert after.labels.mean() == pytest.approx(before.labels.mean(), rel=0.15)
    assert roc_auc_score(after.labels, after.scores) < 0.3
    before, after = changed("segment")
    fuel = before.matrix[:, COLUMN["merchant"]] == MERCHANTS.index("fuel")
    assert 0.08 < fuel.mean() < 0.12
    assert roc_auc_score(after.labels[fuel], after.scores[fuel]) < 0.35
    np.testing.assert_array_equal(before.labels[~fuel], after.labels[~fuel])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [("auc-0.05", 0.05), ("auc-0.10", 0.10)])
def test_the_auc_falls_by_so_much(name: str, loss: float) -> None:
    before, after = changed(name, 0.2, days=10)
    fall = roc_auc_score(before.labels, before.scores) - roc_auc_score(after.labels, after.scores)
    assert fall == pytest.approx(loss, abs=0.012)
    assert after.labels.mean() == pytest.approx(before.labels.mean(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [("frauds-1.5", 1.5), ("frauds-2", 2.0)])
@pytest.mark.parametrize("base_rate", [0.01, 0.2])
def test_there_are_so_many_more_frauds_like_those_before(name: str, times: float, base_rate: float) -> None:
    before, after = changed(name, base_rate, days=10)
    assert after.labels.mean() == pytest.approx(times * before.labels.mean(), rel=0.2)
    assert len(after.labels) == pytest.approx(len(before.labels), rel=0.06)
    for label in (0, 1):
        was, now = (np.log(each.scores[each.labels == label]) for each in (before, after))
        assert abs(was.mean() - now.mean()) < 0.15 * was.std()
    # What the oracle believes is what is so.
    top = after.chances > np.quantile(after.chances, 0.9)
    assert after.labels[top].mean() == pytest.approx(after.chances[top].mean(), rel=0.15)


@pytest.mark.slow
def test_what_the_events_alone_tell_leaves_labels_as_they_were() -> None:
    for name in ("unit", "swapped", "constant", "nulls", "vocabulary"):
        before, after = changed(name, days=1)
        np.testing.assert_array_equal(before.labels, after.labels)
        moved = {
            field for field, at in COLUMN.items()
            if not np.array_equal(before.matrix[:, at], after.matrix[:, at], equal_nan=True)
        }  # fmt: skip
        assert moved - {"log_amount"} == BY_NAME[name].fields
    before, after = changed("inputs", days=1)
    assert after.matrix[:, COLUMN["log_amount"]].mean() > before.matrix[:, COLUMN["log_amount"]].mean() + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segment", "reversed"])
def test_the_oracles_alarm_for_nothing_as_often_as_they_may(name: str) -> None:
    """They are shown labels as they would have come, and told that the law has changed."""
    chance = generator(8)
    drawn = bank_of(PaymentLaw(0.01, "now")).draw(chance, 1, BY_NAME[name])
    known = drawn if name == "segment" else as_scored(drawn)

    def finds(chances: np.ndarray) -> bool:
        return oracle_finds(replace(known, labels=(chance.random(A_DAY) < chances).astype(float)), 0.05, chance)

    assert np.mean([finds(drawn.usual) for _ in range(200)]) < 0.1
    assert np.mean([finds(drawn.chances) for _ in range(20)]) > 0.9


def test_who_sees_scores_only_knows_the_same_rates_of_them() -> None:
    drawn = bank_of(PaymentLaw(0.05)).draw(generator(7), 1, BY_NAME["reversed"])
    known = as_scored(drawn)
    assert known.usual.sum() == pytest.approx(drawn.usual.sum())
    high = drawn.scores > np.median(drawn.scores)
    for name in ("usual", "chances"):
        assert getattr(known, name)[high].sum() == pytest.approx(getattr(drawn, name)[high].sum(), rel=1e-6)
    order = np.argsort(drawn.scores)
    assert np.corrcoef(known.usual[order], drawn.scores[order])[0, 1] > 0.95
    assert known.usual.std() < 0.99 * drawn.usual.std()  # the merchants' risk is hidden


def test_where_nothing_is_different_the_oracle_says_nothing() -> None:
    drawn = bank_of(PaymentLaw(0.01)).draw(generator(9), 1)
    assert not oracle_finds(drawn, 0.05, generator(9))


@pytest.mark.slow
def test_in_a_swap_each_decision_is_told_once_by_the_version_that_made_it() -> None:
    pipeline, bank, chance = make_pipeline("now"), bank_of(PaymentLaw(0.2, "now")), generator(11)
    reference = fit(pipeline, bank.draw(chance, 3))
    drawn = bank.fork().draw(chance, 2)
    first = int(drawn.times_ms[0]) // DAY_MS
    swap = np.full(len(MERCHANTS), (first + 1) * DAY_MS)
    told = {
        (run.version, first + at): len(run.decisions)
        for at, record in enumerate(records(pipeline, reference, drawn, first, swap=swap))
        for run in record.errors
    }
    assert told == {
        (VERSION, first): A_DAY,
        (NEXT_VERSION, first): 0,
        (VERSION, first + 1): 0,
        (NEXT_VERSION, first + 1): A_DAY,
    }


@pytest.mark.slow
@pytest.mark.parametrize("days", [5, 30])
def test_frauds_whose_others_do_not_come_are_no_change_of_errors(days: int) -> None:
    """Labels of payments that were none are lost for some days, or for ever."""
    pipeline, bank, chance = make_pipeline("split"), bank_of(PaymentLaw(0.01, "split")), generator(12)
    reference = fit(pipeline, bank.draw(chance, 20))
    drawn = bank.fork().draw(chance, 15)
    first = int(drawn.times_ms[0]) // DAY_MS
    day = drawn.times_ms // DAY_MS - first
    is_lost = (drawn.labels == 0) & (day >= 5) & (day < 5 + days)
    lost = replace(drawn, label_times_ms=np.where(is_lost, 2 * drawn.label_times_ms, drawn.label_times_ms))
    assert "error" not in alarmed_windows(follow(pipeline, reference, lost, first))


def test_right_is_the_kind_and_the_name() -> None:
    change = PaymentChange("a", "a", frozenset({"feature_drift", "score_drift"}))
    assert Said("score_drift", names_it=True, oracle=False, oracle_of_scores=False).is_right(change)
    assert not Said("score_drift", names_it=False, oracle=True, oracle_of_scores=True).is_right(change)
    assert not Said("none", names_it=True, oracle=True, oracle_of_scores=True).is_right(change)


def test_laws_are_all_base_rates_delays_and_cards_and_changes_happen_in_the_hardest() -> None:
    assert len(LAWS) == len({law.name for law in LAWS}) == len({law.help for law in LAWS}) == 30
    assert {law.delay for law in CHANGING} == {"split"}
