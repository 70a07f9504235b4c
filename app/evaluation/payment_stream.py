"""Payments that are drawn: rare frauds, labels that come late, cards that make most events, days that repeat.

What a monitor of fraud sees and flights hide. A `Bank` has cards, each with its own amounts and its own risk, and goes
on from day to day: features of windows carry the past (the card's payments of a day, the merchants' frauds of a month
as far as their labels had come), and the same bank can go on unchanged or changed (`app.evaluation.payment_changes`).

The model is a logistic function of the features that misses one thing that frauds depend on (the kind of merchant), so
that its scores are calibrated on the whole and not within merchants, as those of real models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

if TYPE_CHECKING:
    from app.evaluation.payment_changes import PaymentChange

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
#: Events of a day, which is a window; cards; the days that slow labels take, and those of the window of frauds.
A_DAY = 10_000
CARDS = 5_000
SLOWEST_DAYS = 20
CARRIED_DAYS = 30
#: The first day that is drawn; what happened before only fills windows.
FIRST_DAY = 60
#: Merchants and their shares of the events; the first is the segment that may drift alone.
MERCHANTS = ("fuel", "grocery", "travel", "online", "games", "other")
_SHARES = np.array([0.1, 0.3, 0.15, 0.25, 0.05, 0.15])
_MERCHANT_RISK = np.array([0.0, -0.6, 0.5, 0.4, 1.0, -0.3])
#: Standard deviation of the log odds: an AUC of about 0.92 where frauds are rare.
_SPREAD = 2.0

FEATURES = (
    "amount", "log_amount", "hour", "merchant", "is_foreign", "card_risk", "distance", "email_age", "payments_1d",
    "fraud_30d",
)  # fmt: skip
COLUMN = {name: at for at, name in enumerate(FEATURES)}


@dataclass(frozen=True)
class PaymentLaw:
    """What kind of payments.

    Parameters
    ----------
    base_rate
        Share of frauds.
    delay
        When labels come: with the event ("now"), all after 20 days ("late"), or frauds after 1 to 20 days and the
        others after 20 ("split").
    cards
        Who pays: each card as often ("uniform"), or card k as 1 / k^1.3 ("zipf").
    carried
        Whether the merchants' frauds of the last 30 days are a feature; else it is noise.
    """

    base_rate: float
    delay: Literal["now", "late", "split"] = "split"
    cards: Literal["uniform", "zipf"] = "uniform"
    carried: bool = True

    @property
    def help(self) -> str:
        """In words."""
        labels = {"now": "at once", "late": "after 20 days", "split": "after 1 to 20 and 20 days"}[self.delay]
        return f"{100 * self.base_rate:g} % frauds, labels {labels}, cards {self.cards}"

    @property
    def name(self) -> str:
        """In the names of figures."""
        return f"{100 * self.base_rate:g}-{self.delay}-{self.cards}"


@dataclass(frozen=True, eq=False)
class Payments:
    """Days of payments, in the order of time.

    Parameters
    ----------
    matrix, scores, labels
        Events x `FEATURES`, what the model says, and what came true.
    times_ms, label_times_ms
        Of the events and of their labels.
    chances, usual
        The probability of a fraud, given all that there is to know, as it was drawn and as it would be without change.
    """

    matrix: Floats
    scores: Floats
    labels: Floats
    times_ms: Ints
    label_times_ms: Ints
    chances: Floats
    usual: Floats

    def of(self, rows: NDArray[np.bool_] | Ints | slice) -> Payments:
        """Some of the events."""
        return Payments(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def day(self, number: int) -> Payments:
        """The events of a day of the bank's calendar."""
        first, last = np.searchsorted(self.times_ms, [number * DAY_MS, (number + 1) * DAY_MS])
        return self.of(slice(int(first), int(last)))


@dataclass(frozen=True, eq=False)
class Relation:
    """How frauds depend on what is known: log odds = intercept + ``slope`` x what speaks for a fraud."""

    intercept: float
    slope: float = _SPREAD

    def chances(self, evidence: Floats) -> Floats:
        """P(fraud)."""
        return np.asarray(expit(self.intercept + self.slope * evidence))

    @classmethod
    def fit(cls, evidence: Floats, rate: float, slope: float = _SPREAD) -> Relation:
        """With the intercept that makes so many frauds among events like these."""
        low, high = -40.0, 40.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if cls(middle, slope).chances(evidence).mean() < rate else (low, middle)
        return cls(low, slope)


class Bank:
    """A bank that goes on from day to day; give a copy (`fork`) to whatever must not change it.

    Parameters
    ----------
    law
        Of its payments.
    chance
        Draws its cards, and what happened before its first day.
    """

    def __init__(self, law: PaymentLaw, chance: np.random.Generator) -> None:
        self.law = law
        self.day = FIRST_DAY
        weights = np.ones(CARDS) if law.cards == "uniform" else 1 / np.arange(1, CARDS + 1) ** 1.3
        self._weights = np.cumsum(weights) / weights.sum()
        self._level, self._risk = chance.standard_normal((2, CARDS))
        self._travels = chance.beta(0.5, 8, CARDS)
        self._last_day = np.zeros(0, np.int64), np.zeros(0, np.int64)  # cards and times
        # Labels by merchant, label and the hour in which they came, from as long before the first day as it takes.
        self._first_hour = 24 * (FIRST_DAY - CARRIED_DAYS - SLOWEST_DAYS)
        self._came = np.zeros((len(MERCHANTS), 2, 24 * (CARRIED_DAYS + 2 * SLOWEST_DAYS)), np.int64)
        self._events(chance, A_DAY, FIRST_DAY - 2)
        sample = self._events(chance, A_DAY, FIRST_DAY - 1)
        evidence = self.evidence(sample, self._merchants(sample))
        self.sample = evidence, model_scores(sample, Relation(0.0)), self._merchants(sample)
        self.relation = Relation.fit(evidence, law.base_rate)
        self.model = Relation.fit(_seen(sample), law.base_rate)
        self.sample = evidence, model_scores(sample, self.model), self._merchants(sample)
        self._live_before(chance)

    def fork(self) -> Bank:
        """A bank that is as this one and goes on by itself."""
        other = object.__new__(Bank)
        other.__dict__ = {**self.__dict__, "_came": self._came.copy()}
        return other

    def emptied(self) -> Bank:
        """The same bank whose windows begin empty: what happened before is not known."""
        other = object.__new__(Bank)
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
        other.__dict__ = {**self.__dict__, "_came": np.zeros_like(self._came), "_last_day": nothing}
        return other

    def draw(self, chance: np.random.Generator, days: int, change: PaymentChange | None = None) -> Payments:
        """Draw the next days, with the change if there is one."""
        more = change.candidates(self) if change is not None else 1.0
        larger = change.larger if change is not None else 0.0
        parts = [self._timed(chance, round(A_DAY * more), day, larger) for day in range(self.day, self.day + days)]
        self.day += days
        matrix = np.concatenate([part for part, _ in parts])
        times_ms = np.concatenate([times for _, times in parts])
        merchants = self._merchants(matrix)
        evidence = self.evidence(matrix, merchants)
        usual = self.relation.chances(evidence)
        chances = usual if change is None else change.chances(self, evidence, merchants, usual)
        labels = (chance.random(len(chances)) < chances).astype(np.float64)
        drawn = Payments(matrix, usual, labels, times_ms, times_ms + self._delays(chance, labels), chances, usual)
        if change is not None:
            drawn = replace(drawn, chances=change.believed(self, chances)).of(change.kept(self, chance, labels))
        self._note(drawn)
        matrix = drawn.matrix
        if self.law.carried:
            matrix[:, COLUMN["fraud_30d"]] = self._carried(drawn)
        if change is not None:
            matrix = change.reach(matrix, chance)
        return replace(drawn, matrix=matrix, scores=model_scores(matrix, self.model))

    # -- events --------------------------------------------------------------------------------------------------------

    def _timed(self, chance: np.random.Generator, n: int, day: int, larger: float) -> tuple[Floats, Ints]:
        matrix = self._events(chance, n, day, larger)
        return matrix, (day * DAY_MS + matrix[:, COLUMN["hour"]] * HOUR_MS).astype(np.int64)

    def _events(self, chance: np.random.Generator, n: int, day: int, larger: float = 0.0) -> Floats:
        hours = _hours((np.arange(n) + chance.random(n)) / n)
        cards = np.searchsorted(self._weights, chance.random(n))
        # Three of ten payments follow one of the same card, some payments before.
        follows = np.where(chance.random(n) < 0.3, np.arange(n) - 1 - chance.integers(0, 50, n), np.arange(n))
        follows = np.maximum(follows, 0)
        while (follows[follows] != follows).any():
            follows = follows[follows]
        cards = cards[follows]
        merchants = np.searchsorted(np.cumsum(_SHARES), chance.random(n)).clip(max=len(MERCHANTS) - 1)
        log_amount = 3 + 0.94 * larger + 0.5 * self._level[cards] + 0.8 * chance.standard_normal(n)
        matrix = np.empty((n, len(FEATURES)))
        matrix[:, COLUMN["amount"]] = np.round(np.exp(log_amount), 2)
        matrix[:, COLUMN["log_amount"]] = np.log1p(matrix[:, COLUMN["amount"]])
        matrix[:, COLUMN["hour"]] = hours
        matrix[:, COLUMN["merchant"]] = merchants
        matrix[:, COLUMN["is_foreign"]] = chance.random(n) < self._travels[cards]
        matrix[:, COLUMN["card_risk"]] = np.round(self._risk[cards], 3)
        matrix[:, COLUMN["distance"]] = np.exp(chance.standard_normal(n))
        matrix[:, COLUMN["email_age"]] = np.where(chance.random(n) < 0.1, np.nan, chance.exponential(400, n))
        matrix[:, COLUMN["payments_1d"]] = self._velocity(cards, (day * DAY_MS + hours * HOUR_MS).astype(np.int64))
        matrix[:, COLUMN["fraud_30d"]] = chance.standard_normal(n)
        return matrix

    def _velocity(self, cards: Ints, times_ms: Ints) -> Floats:
        """Payments of the card in the 24 hours before."""
        both = np.concatenate([self._last_day[0], cards]), np.concatenate([self._last_day[1], times_ms])
        self._last_day = cards, times_ms
        order = np.lexsort(both[::-1])
        keys = both[0][order] * (1 << 42) + both[1][order]
        before = np.arange(len(order)) - np.searchsorted(keys, keys - DAY_MS)
        counts = np.empty(len(order))
        counts[order] = before
        return counts[len(counts) - len(cards) :]

    @staticmethod
    def _merchants(matrix: Floats) -> Ints:
        return matrix[:, COLUMN["merchant"]].astype(np.int64)

    @staticmethod
    def evidence(matrix: Floats, merchants: Ints) -> Floats:
        """What speaks for a fraud, with a standard deviation of about 1."""
        return (_seen(matrix) + 0.5 * _MERCHANT_RISK[merchants]) / 1.04

    # -- labels --------------------------------------------------------------------------------------------------------

    def _delays(self, chance: np.random.Generator, labels: Floats) -> Ints:
        slow = np.full(len(labels), SLOWEST_DAYS * DAY_MS)
        if self.law.delay == "now":
            return np.zeros(len(labels), np.int64)
        if self.law.delay == "split":
            slow = np.where(labels == 1, chance.uniform(DAY_MS, SLOWEST_DAYS * DAY_MS, len(labels)), slow)
        return slow.astype(np.int64)

    def _live_before(self, chance: np.random.Generator) -> None:
        """The labels of the days before the first."""
        evidence, _, merchants = self.sample
        rates = [self.relation.chances(evidence[merchants == at]).mean() for at in range(len(MERCHANTS))]
        hours = np.arange(self._first_hour - 24 * SLOWEST_DAYS, 24 * FIRST_DAY)
        for at, rate in enumerate(rates):
            payments = chance.poisson(A_DAY / 24 * _SHARES[at], len(hours))
            frauds = chance.binomial(payments, rate)
            for label, numbers in ((0, payments - frauds), (1, frauds)):
                happened = np.repeat(hours, numbers)
                delays = self._delays(chance, np.full(len(happened), float(label)))
                self._count(at, label, happened + delays // HOUR_MS)

    def _note(self, payments: Payments) -> None:
        came = payments.label_times_ms // HOUR_MS
        last = int(came.max()) - self._first_hour + 1
        if last > self._came.shape[2]:
            more = np.zeros((len(MERCHANTS), 2, last - self._came.shape[2]), np.int64)
            self._came = np.concatenate([self._came, more], axis=2)
        merchants = self._merchants(payments.matrix)
        for at in range(len(MERCHANTS)):
            for label in (0, 1):
                self._count(at, label, came[(merchants == at) & (payments.labels == label)])

    def _count(self, merchant: int, label: int, hours: Ints) -> None:
        places = hours - self._first_hour
        places = places[(places >= 0) & (places < self._came.shape[2])]
        self._came[merchant, label] += np.bincount(places, minlength=self._came.shape[2])

    def _carried(self, payments: Payments) -> Floats:
        """The share of frauds among the merchant's labels of the last 30 days, in whole hours."""
        upto = np.concatenate([np.zeros((len(MERCHANTS), 2, 1), np.int64), np.cumsum(self._came, axis=2)], axis=2)
        now = payments.times_ms // HOUR_MS - self._first_hour
        merchants = self._merchants(payments.matrix)
        negative, positive = (
            upto[merchants, label, now] - upto[merchants, label, np.maximum(now - 24 * CARRIED_DAYS, 0)]
            for label in (0, 1)
        )
        return np.asarray(np.where(negative + positive > 0, positive / np.maximum(negative + positive, 1), np.nan))


def model_scores(matrix: Floats, model: Relation) -> Floats:
    """What the model says of events."""
    return model.chances(_seen(matrix))


def _seen(matrix: Floats) -> Floats:
    """The evidence that the model sees; its standard deviation is about 1."""

    def column(name: str) -> Floats:
        return matrix[:, COLUMN[name]]

    night = np.cos(2 * np.pi * (column("hour") - 3) / 24)
    parts = (
        0.5 * (column("log_amount") - 3.1) / 0.9,
        0.5 * column("card_risk"),
        1.0 * column("is_foreign"),
        0.25 * np.log1p(column("payments_1d")),
        0.3 * night,
        0.2 * np.log(np.maximum(column("distance"), 1e-9)),
    )
    return np.asarray(sum(np.where(np.isnan(part), 0.0, part) for part in parts) / 0.85)


def _hours(quantiles: Floats) -> Floats:
    """Hours of the day: most payments at three in the afternoon, a quarter as many at three in the morning."""
    grid = np.linspace(0, 24, 241)
    density = 1 - 0.6 * np.cos(2 * np.pi * (grid - 3) / 24)
    upto = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(quantiles, upto / upto[-1], grid)
