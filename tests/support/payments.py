"""Card payments as a stranger would have them: own file, own data, and every feature again by plain loops.

Nothing here knows how features are computed: `recompute` reads all payments and labels again for each payment.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_600_000_000_000 // DAY_MS * DAY_MS
#: Partitions of the topics, and so of the cards.
PARTITIONS = 3

#: The features that nobody can compute before all windows are known, in the order in which they come to mind.
FILE = """
name = "%s"
partitions = 3
source = "payments_source.py:records"

[model]
name = "m"
target = "turns out to be fraud"

[events]
entity = "card"
id = "payment_id"
time = "at_ms"
earliest = 2020-01-01T00:00:00Z
plural = "payments"

[events.fields]
payment_id = "string"
card = "string"
at_ms = "int"
amount = "float?"
merchant = "string"

[labels]
horizon = "7d"
max_wait = "60s"

[shared]
max_wait = "120s"

[drift]
window = "1d"
slice = "1h"
bins = 16
segments = ["kind"]

[[features]]
name = "alarm"
type = "float"
expression = "level + where(unusual, 1, 0) * coalesce(card_fraud_2d, 0)"

[[features]]
name = "level"
type = "int"
python = "payments_own.py:level"
arguments = ["z", "count_1h", "merchant", "merchant_n_6h", "event_time"]

[[features]]
name = "to_usual"
type = "float"
expression = "amount / amount_mean_2d"

[[features]]
name = "amount_mean_2d"
type = "float"
window = { of = "events", key = ["card"], size = "2d", hop = "2h", aggregate = "mean", field = "amount" }

[[features]]
name = "share_of_1h"
type = "float"
expression = "count_1h / count_2d"

[[features]]
name = "z"
type = "float"
expression = "(amount - amount_mean_2d) / sqrt(variance_2d)"

[[features]]
name = "unusual"
type = "bool"
expression = "z > 1.5 or to_usual > 3"

[[features]]
name = "kind"
type = "category"
expression = "'new' if isnull(amount_mean_2d) else ('burst' if share_of_1h >= 0.5 else merchant)"
values = ["new", "m0", "m1"]

[[features]]
name = "card_to_merchant"
type = "float"
expression = "amount_mean_2d / merchant_mean_1d"

[[features]]
name = "count_1h"
type = "int"
window = { of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "count" }

[[features]]
name = "count_2d"
type = "int"
window = { of = "events", key = ["card"], size = "2d", hop = "2h", aggregate = "count" }

[[features]]
name = "variance_2d"
type = "float"
window = { of = "events", key = ["card"], size = "2d", hop = "2h", aggregate = "variance", field = "amount" }

[[features]]
name = "card_fraud_2d"
type = "float"
window = { of = "labels", key = ["card"], size = "2d", hop = "1h", aggregate = "mean", field = "label" }

[[features]]
name = "merchant_mean_1d"
type = "float"
[features.window]
of = "events"
key = ["merchant"]
size = "1d"
hop = "1h"
aggregate = "mean"
field = "amount"
delay = "30m"

[[features]]
name = "merchant_n_6h"
type = "int"
[features.window]
of = "events"
key = ["merchant"]
size = "6h"
hop = "1h"
aggregate = "count"
delay = "1h"
repartition = true
"""

OWN = """
import numpy as np


def level(z, count_1h, merchant, merchant_n, event_time):
    if (count_1h >= 6).any():
        raise ValueError("six payments in an hour are more than a card can take")
    is_known = np.array([m != "m3" for m in merchant])
    return np.where(is_known, np.floor(z * 2) + (merchant_n > 20) + event_time // 86_400_000 % 2, np.nan)
"""

SOURCE = """
import json
import pathlib

from schemas.source import SourceRecord


def records(from_ms=None, to_ms=None, limit=None):
    rows = json.loads(pathlib.Path(__file__).with_name("payments.json").read_text())
    low, high = from_ms or 0, to_ms or 2**62
    found = [SourceRecord(*row) for row in rows if low <= row[2] < high]
    for start in range(0, len(found), 40):
        yield found[start : start + 40]
"""

FEATURES = [line.split('"')[1] for line in FILE.partition("[[features]]")[2].splitlines() if line.startswith("name")]


@dataclass(frozen=True)
class Payments:
    """Payments and their labels, each in the order of time. A label: id of the payment, 0 or 1, when it was known."""

    payments: list[dict[str, Any]]
    labels: list[tuple[str, int, int]]

    def write(self, path: Path) -> Path:
        """The pipeline file named ``path`` with its source, data and functions beside it."""
        path.write_text(FILE % path.stem)
        path.with_name("payments_own.py").write_text(OWN)
        path.with_name("payments_source.py").write_text(SOURCE)
        path.with_name("payments.json").write_text(json.dumps(self.records()))
        return path

    def records(self) -> list[tuple[str, str, int, dict[str, Any]]]:
        """Kind, key, time and value of all, labels before payments of the same time."""
        card_of = {payment["payment_id"]: payment["card"] for payment in self.payments}
        found = [("event", payment["card"], payment["at_ms"], payment) for payment in self.payments]
        found += [
            ("label", card_of[name], at, {"event_id": name, "label": float(value), "label_time_ms": at})
            for name, value, at in self.labels
        ]
        return sorted(found, key=lambda record: (record[2], record[0] == "event"))


def make_payments(seed: int, n: int, minutes: float) -> Payments:
    """Payments about so many minutes apart: some cards now and then in bursts, one of 30 without an amount."""
    draw = random.Random(seed)  # noqa: S311  # payments, not a secret
    payments: list[dict[str, Any]] = []
    at, left, card = START_MS, 0, ""
    for number in range(n):
        if not left:
            card, left = f"c{draw.randrange(10)}", draw.choice([1, 1, 1, 1, 9])
        left -= 1
        at += round(draw.expovariate(1 / (minutes * MINUTE_MS)))
        amount = None if draw.random() < 1 / 30 else draw.randrange(1, 800 if draw.random() < 0.9 else 8000) / 8
        payments.append(
            {
                "payment_id": f"p{number}",
                "card": card,
                "at_ms": at,
                "amount": amount,
                "merchant": f"m{draw.randrange(5)}",
            }
        )
    labels = [
        (p["payment_id"], int(draw.random() < 0.3), p["at_ms"] + draw.randrange(HOUR_MS, 30 * HOUR_MS))
        for p in payments
        if draw.random() < 0.8
    ]
    return Payments(payments, sorted(labels, key=lambda label: label[2]))


Row = dict[str, float | None]


def recompute(found: Payments) -> tuple[dict[str, Row], set[str]]:
    """Features of each payment by its id, null for what is missing; and the payments for which a function fails."""
    rows: dict[str, Row] = {}
    failed = set()
    of = {payment["payment_id"]: payment for payment in found.payments}
    for place, payment in enumerate(found.payments):
        at, amount = payment["at_ms"], payment["amount"]
        mine = [p for p in found.payments[:place] if p["card"] == payment["card"]]
        row: Row = {}
        two_days = [p for p in mine if is_in(p["at_ms"], at, 2 * DAY_MS, 2 * HOUR_MS)]
        amounts = [p["amount"] for p in two_days if p["amount"] is not None]
        row["amount_mean_2d"] = mean = sum(amounts) / len(amounts) if amounts else None
        row["variance_2d"] = variance = variance_of(amounts)
        row["count_2d"] = count_2d = float(len(two_days))
        row["count_1h"] = count_1h = float(len([p for p in mine if is_in(p["at_ms"], at, HOUR_MS, 5 * MINUTE_MS)]))
        known = [
            value
            for name, value, when in found.labels
            if of[name]["card"] == payment["card"] and when <= at and is_in(when, at, 2 * DAY_MS, HOUR_MS)
        ]
        row["card_fraud_2d"] = fraud = sum(known) / len(known) if known else None
        same = [p for p in found.payments if p["merchant"] == payment["merchant"]]
        seen = [p["amount"] for p in same if is_before(p["at_ms"], at, DAY_MS, HOUR_MS, 30 * MINUTE_MS)]
        seen = [one for one in seen if one is not None]
        row["merchant_mean_1d"] = usual = sum(seen) / len(seen) if seen else None
        row["merchant_n_6h"] = n_6h = float(
            len([p for p in same if is_before(p["at_ms"], at, 6 * HOUR_MS, HOUR_MS, HOUR_MS)])
        )

        row["to_usual"] = to_usual = divide(amount, mean)
        row["share_of_1h"] = share = divide(count_1h, count_2d)
        apart = None if amount is None or mean is None else amount - mean
        row["z"] = z = divide(apart, None if variance is None else math.sqrt(variance))
        row["card_to_merchant"] = divide(mean, usual)
        row["unusual"] = unusual = either(None if z is None else z > 1.5, None if to_usual is None else to_usual > 3)
        # "new" is 0, the merchants m0 and m1 are 1 and 2, anything else 3. Where the share is not known, nothing is.
        if mean is None:
            row["kind"] = 0.0
        else:
            assert share is not None
            row["kind"] = 3.0 if share >= 0.5 else {"m0": 1.0, "m1": 2.0}.get(payment["merchant"], 3.0)
        level = None
        if z is not None and payment["merchant"] != "m3":
            level = math.floor(z * 2) + float(n_6h > 20) + at // DAY_MS % 2
        row["level"] = level
        row["alarm"] = None
        if level is not None and unusual is not None:
            row["alarm"] = level + (1 if unusual else 0) * (0 if fraud is None else fraud)
        if count_1h >= 6:
            failed.add(payment["payment_id"])
        rows[payment["payment_id"]] = row
    return rows, failed


def is_in(then: int, at: int, size: int, hop: int) -> bool:
    """Whether a time is in a card's own window: the newest ``size / hop`` hops, the one under way included."""
    return 0 <= at // hop - then // hop < size // hop


def is_before(then: int, at: int, size: int, hop: int, delay: int) -> bool:
    """Whether a time is in a window of all cards: whole hops that end ``delay`` before the payment or earlier."""
    end = (at - delay) // hop * hop
    return end - size <= then < end


def variance_of(amounts: list[float]) -> float | None:
    """Of the sample, exact and rounded once."""
    if len(amounts) < 2:
        return None
    exact = [Fraction(amount) for amount in amounts]
    mean = sum(exact) / len(exact)
    return float(sum((one - mean) ** 2 for one in exact) / (len(exact) - 1))


def divide(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or b == 0 else a / b


def either(a: bool | None, b: bool | None) -> float | None:
    """``a or b`` where either may be unknown."""
    if a or b:
        return 1.0
    return None if a is None or b is None else 0.0
