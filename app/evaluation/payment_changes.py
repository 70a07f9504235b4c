"""What may happen to payments, one kind and size each, and a judge who knows it.

The oracle knows by which law labels come and by which they would have come: it takes the likelihood ratio of a window's
labels, which no test of the same level can beat (Neyman and Pearson). The level is exact: under no change the ratio's
tail is that of draws under the change, weighted by one over the ratio. A second one sees of each event no more than the
monitor does, its score: what the model misses is hidden from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from app.evaluation.payment_stream import COLUMN, MERCHANTS, Bank, Floats, Ints, Payments, Relation

_DRAWS = 400
#: Groups of payments with like scores.
_ALIKE = 200


@dataclass(frozen=True)
class PaymentChange:
    """A change from some day on.

    Parameters
    ----------
    kind
        The verdicts that are right about it, as `app.core.verdict.decide` names them.
    fields
        The fields that a fault is in.
    segment
        Where a change of one segment sits.
    larger
        By how many deviations the logarithm of amounts is higher; frauds depend on payments as before.
    """

    name: str
    help: str
    kind: frozenset[str]
    fields: frozenset[str] = field(default_factory=frozenset)
    segment: str = ""
    larger: float = 0.0

    def chances(self, bank: Bank, evidence: Floats, merchants: Ints, usual: Floats) -> Floats:  # noqa: ARG002
        """P(fraud) of each event."""
        return usual

    def candidates(self, bank: Bank) -> float:  # noqa: ARG002
        """How many events are drawn for each that is kept."""
        return 1.0

    def kept(self, bank: Bank, chance: np.random.Generator, labels: Floats) -> NDArray[np.bool_]:  # noqa: ARG002
        """Which events there are."""
        return np.ones(len(labels), np.bool_)

    def believed(self, bank: Bank, chances: Floats) -> Floats:  # noqa: ARG002
        """P(fraud) of the events that there are."""
        return chances

    def reach(self, matrix: Floats, chance: np.random.Generator) -> Floats:  # noqa: ARG002
        """What the model is given of the events."""
        return matrix


@dataclass(frozen=True)
class Reversed(PaymentChange):
    """What spoke for a fraud speaks against it; as many frauds as before."""

    def chances(self, bank: Bank, evidence: Floats, merchants: Ints, usual: Floats) -> Floats:
        drawn, _, of = bank.sample
        here = merchants == MERCHANTS.index(self.segment) if self.segment else np.ones(len(usual), np.bool_)
        like = of == MERCHANTS.index(self.segment) if self.segment else np.ones(len(drawn), np.bool_)
        rate = float(bank.relation.chances(drawn[like]).mean())
        against = Relation.fit(drawn[like], rate, -bank.relation.slope)
        return np.where(here, against.chances(evidence), usual)


@dataclass(frozen=True)
class Blurred(PaymentChange):
    """Some frauds are now like anybody's payments, so many that the model's AUC falls by ``loss``."""

    loss: float = 0.05

    def chances(self, bank: Bank, evidence: Floats, merchants: Ints, usual: Floats) -> Floats:  # noqa: ARG002
        drawn, scores, _ = bank.sample
        before = bank.relation.chances(drawn)
        wanted = _expected_auc(scores, before) - self.loss
        low, high = 0.0, 1.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            now = (1 - middle) * before + middle * before.mean()
            low, high = (middle, high) if _expected_auc(scores, now) > wanted else (low, middle)
        return (1 - low) * usual + low * bank.law.base_rate


@dataclass(frozen=True)
class MoreFrauds(PaymentChange):
    """So many times as many frauds, like those before."""

    times: float = 2.0

    def _share_of_others(self, bank: Bank) -> float:
        rate = bank.law.base_rate
        return (1 - self.times * rate) / (self.times * (1 - rate))

    def candidates(self, bank: Bank) -> float:
        rate = bank.law.base_rate
        return 1 / (rate + (1 - rate) * self._share_of_others(bank))

    def believed(self, bank: Bank, chances: Floats) -> Floats:
        return chances / (chances + (1 - chances) * self._share_of_others(bank))

    def kept(self, bank: Bank, chance: np.random.Generator, labels: Floats) -> NDArray[np.bool_]:
        return np.asarray((labels == 1) | (chance.random(len(labels)) < self._share_of_others(bank)))


@dataclass(frozen=True)
class Reached(PaymentChange):
    """Events are what they were, and reach the model otherwise."""

    apply: Callable[[Floats, np.random.Generator], Floats] = lambda matrix, _: matrix

    def reach(self, matrix: Floats, chance: np.random.Generator) -> Floats:
        return self.apply(matrix.copy(), chance)


def _with_amount(matrix: Floats, amount: Floats) -> Floats:
    matrix[:, COLUMN["amount"]] = amount
    matrix[:, COLUMN["log_amount"]] = np.log1p(amount)
    return matrix


def _in_cents(matrix: Floats, _: np.random.Generator) -> Floats:
    return _with_amount(matrix, 100 * matrix[:, COLUMN["amount"]])


def _swapped(matrix: Floats, _: np.random.Generator) -> Floats:
    amount, distance = (matrix[:, COLUMN[name]].copy() for name in ("amount", "distance"))
    matrix[:, COLUMN["distance"]] = amount
    return _with_amount(matrix, distance)


def _constant(matrix: Floats, _: np.random.Generator) -> Floats:
    matrix[:, COLUMN["distance"]] = 1.0
    return matrix


def _nulls(matrix: Floats, chance: np.random.Generator) -> Floats:
    amount = matrix[:, COLUMN["amount"]].copy()
    amount[chance.random(len(amount)) < 0.3] = np.nan
    return _with_amount(matrix, amount)


def _vocabulary(matrix: Floats, chance: np.random.Generator) -> Floats:
    strange = chance.random(len(matrix)) < 0.2
    matrix[strange, COLUMN["merchant"]] = len(MERCHANTS)
    return matrix


_FAULT = frozenset({"pipeline_fault"})
_CONCEPT = frozenset({"concept_drift"})
_PRIOR = frozenset({"label_prior_drift"})
_INPUTS = frozenset({"feature_drift", "score_drift"})

#: What labels tell.
BY_LABELS = (
    Reversed("reversed", "the relation reversed", _CONCEPT),
    Blurred("auc-0.05", "AUC 0.05 lower", _CONCEPT, loss=0.05),
    Blurred("auc-0.10", "AUC 0.10 lower", _CONCEPT, loss=0.10),
    Reversed("segment", "the relation reversed for fuel, a tenth of the payments", _CONCEPT, segment="fuel"),
    MoreFrauds("frauds-1.5", "1.5 times as many frauds", _PRIOR, times=1.5),
    MoreFrauds("frauds-2", "twice as many frauds", _PRIOR, times=2.0),
)
#: What the events alone tell.
BY_EVENTS = (
    PaymentChange("inputs", "larger amounts, by 0.4 deviations", _INPUTS, larger=0.4),
    Reached("unit", "amounts in cents", _FAULT, frozenset({"amount"}), apply=_in_cents),
    Reached("swapped", "amount and distance swapped", _FAULT, frozenset({"amount", "distance"}), apply=_swapped),
    Reached("constant", "distance always 1", _FAULT, frozenset({"distance"}), apply=_constant),
    Reached("nulls", "3 of 10 amounts missing", _FAULT, frozenset({"amount"}), apply=_nulls),
    Reached("vocabulary", "2 of 10 merchants of a new kind", _FAULT, frozenset({"merchant"}), apply=_vocabulary),
)
CHANGES = (*BY_LABELS, *BY_EVENTS)


def oracle_finds(payments: Payments, alpha: float, chance: np.random.Generator) -> bool:
    """Whether a judge who knows the change finds it in the labels of a window, with so many false alarms."""
    before, now = payments.usual, payments.chances
    differs = before != now
    before, now, labels = before[differs], now[differs], payments.labels[differs]
    if not len(labels):
        return False
    of_fraud, of_other = np.log(now / before), np.log1p(-now) - np.log1p(-before)
    drawn = np.array([np.where(chance.random(len(now)) < now, of_fraud, of_other).sum() for _ in range(_DRAWS)])
    # P(ratio > t) without change is the mean, under the change, of exp(-ratio) where it is above t.
    drawn = np.sort(drawn)[::-1]
    tails = np.logaddexp.accumulate(-drawn) - math.log(_DRAWS)
    above = int(np.searchsorted(tails, math.log(alpha)))
    limit = drawn[min(above, _DRAWS - 1)]
    return bool(np.where(labels == 1, of_fraud, of_other).sum() > limit)


def as_scored(payments: Payments) -> Payments:
    """What is known of payments by their scores: of each, the mean chances of those that are scored like it."""
    usual, chances = np.empty_like(payments.usual), np.empty_like(payments.chances)
    for alike in np.array_split(np.argsort(payments.scores, kind="stable"), _ALIKE):
        usual[alike], chances[alike] = payments.usual[alike].mean(), payments.chances[alike].mean()
    return replace(payments, usual=usual, chances=chances)


def _expected_auc(scores: Floats, chances: Floats) -> float:
    order = np.argsort(scores)
    positive, negative = chances[order], 1 - chances[order]
    below = np.cumsum(negative) - negative
    return float(positive @ below / (positive.sum() * negative.sum()))
