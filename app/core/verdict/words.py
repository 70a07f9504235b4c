"""Say, for people who know no statistics, what has moved, which way, and by how much in the metric's own unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from app.core.faults.fault import percent

#: Deciles are said in the order in which they are easiest to understand.
_HALF, _TENTH, _NINTH = 4, 8, 0
_LEAST_STEP = 0.1
#: From this share of events with values that training never had on, these are mentioned beside the moved decile.
_MANY = 0.05
_BEYOND = (("less", "smallest"), ("more", "largest"))


@dataclass(frozen=True)
class Change:
    """One metric that has moved: what is needed to say how.

    Parameters
    ----------
    kind
        "numeric", "category", "score" or "outcome".
    effect
        How far, in [0, 1]: the largest difference of shares, of missing ones included.
    deciles_before, deciles_now
        d1 … d10, of numbers and scores.
    range_before
        The smallest and the largest value in training: beyond it a window's deciles are not known, only that they are.
    missing_before, missing_now
        Shares of events without a value.
    shares_before, shares_now
        Per code of a category (the unseen ones last), or of label 0 and 1.
    values
        Names of the codes.
    at_least
        Of a number: the value from which on most events are gained or lost, and the shares of events that have it or
        more, in training and now.
    beyond
        Of numbers: the shares of events that have less than training ever had, and more.
    """

    metric: str
    kind: str
    effect: float
    deciles_before: tuple[float, ...] = ()
    deciles_now: tuple[float, ...] = ()
    range_before: tuple[float, float] = (-math.inf, math.inf)
    missing_before: float = 0.0
    missing_now: float = 0.0
    shares_before: tuple[float, ...] = ()
    shares_now: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    at_least: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    beyond: tuple[float, float] = (0.0, 0.0)


class Example(NamedTuple):
    """One thing in training and in the window, in words: "3.2" and "24.1" of ``what``, "the middle value of `temp`"."""

    what: str
    before: str
    after: str


class Said(NamedTuple):
    """A change in words: a sentence's beginning ("`temp` is higher"), its rest, and the example that it is made of."""

    short: str
    rest: str
    example: Example

    @property
    def sentence(self) -> str:
        return f"{self.short}: {self.rest}"


def say(change: Change, events: str) -> Said:
    """Say how a metric has moved; ``events`` is what an event is called, in the plural.

    >>> before, now = (0.0,) * 4 + (3.2,) + (30.0,) * 5, (9.0,) * 4 + (24.1,) + (40.0,) * 5
    >>> say(Change("temp", "numeric", 0.6, before, now), "flights").sentence
    '`temp` is higher: half of the flights have 24.1 or more, 3.2 or more in training'
    """
    missing = change.missing_now - change.missing_before
    spoken = _say_shares(change, events) if change.shares_now else _say_deciles(change, events)
    if missing and (spoken is None or abs(missing) >= max(change.effect / 2, 0.02)):
        return _say_missing(change, events)
    return spoken or _say_at_least(change, events)


def number_pair(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart, three at least.

    >>> number_pair(3.2, 24.13), number_pair(1013.2, 1016.9), number_pair(0.00012, 0.5), number_pair(1200000.0, 5.0)
    (('3.2', '24.1'), ('1013.2', '1016.9'), ('0.00012', '0.5'), ('1 200 000', '5'))
    """
    if not (math.isfinite(one) and math.isfinite(other)):
        return _number(one, 3), _number(other, 3)
    digits = 3
    while digits < 9 and abs(other - one) > 0:
        step = 10.0 ** (math.floor(math.log10(max(abs(one), abs(other)))) - digits + 1)
        if step <= abs(other - one) / 10:
            break
        digits += 1
    return _number(one, digits), _number(other, digits)


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "infinity" if value > 0 else "minus infinity"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 12 or places < -12:
        return f"{value:.{digits}g}"
    rounded = round(value, places)
    grouped = f"{rounded:,.{max(places, 0)}f}".replace(",", " ")
    text = grouped if abs(rounded) >= 10_000 else grouped.replace(" ", "")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _say_deciles(change: Change, events: str) -> Said | None:
    reference, detection = change.deciles_before, change.deciles_now
    if len(reference) != 10 or len(detection) != 10 or not all(map(math.isfinite, (*reference[:9], *detection[:9]))):
        return None
    spread = max(reference[8] - reference[0], 1e-300)
    steps = [(detection[at] - reference[at]) / spread for at in range(9)]
    smallest, largest = change.range_before
    tenth = _HALF
    if abs(steps[_HALF]) < _LEAST_STEP and smallest <= detection[_HALF] <= largest:
        tenth = max((_HALF, _TENTH, _NINTH), key=lambda at: abs(steps[at]))
    if detection[tenth] == reference[tenth]:
        tenth = max(range(9), key=lambda at: abs(steps[at]))
    if detection[tenth] == reference[tenth]:
        return None
    was, is_ = number_pair(reference[tenth], detection[tenth])
    share = "half" if tenth == _HALF else f"{10 * (9 - tenth)} %" if tenth > _HALF else f"{10 * (tenth + 1)} %"
    side = "or less" if tenth < _HALF else "or more"
    name = "the scores" if change.kind == "score" else f"`{change.metric}`"
    word = _direction(steps, plural=change.kind == "score")
    what = f"the value that {share} of the {events} have {side.removeprefix('or ')} than"
    if tenth == _HALF:
        what = f"the middle value of {name}"
    rest = f"{share} of the {events} have {is_} {side}, {was} {side} in training"
    if not smallest <= detection[tenth] <= largest:
        side_of = int(detection[tenth] > largest)
        beyond = number_pair(reference[tenth], (smallest, largest)[side_of])[1]
        is_ = f"{_BEYOND[side_of][0]} than {beyond}"
        out = percent(change.beyond[side_of]) if change.beyond[side_of] else share
        extreme = _BEYOND[side_of][1]
        rest = f"{out} of the {events} have {is_}, the {extreme} in training, where {share} have {was} {side}"
    elif max(change.beyond) >= _MANY:
        side_of = int(change.beyond[1] > change.beyond[0])
        limit, (than, extreme) = _number((smallest, largest)[side_of], 3), _BEYOND[side_of]
        rest += f"; {percent(change.beyond[side_of])} have {than} than {limit}, the {extreme} in training"
    return Said(f"{name} {word}", rest, Example(what, was, is_))


def _direction(steps: list[float], *, plural: bool) -> str:
    up, down = max(steps), -min(steps)
    verb = "are" if plural else "is"
    if steps[0] < -_LEAST_STEP / 2 and steps[8] > _LEAST_STEP / 2 and min(up, down) > max(up, down) / 3:
        return f"{verb} spread more widely"
    if steps[0] > _LEAST_STEP / 2 and steps[8] < -_LEAST_STEP / 2 and min(up, down) > max(up, down) / 3:
        return f"{verb} spread less widely"
    return f"{verb} {'higher' if sum(steps) > 0 else 'lower'}"


def _say_at_least(change: Change, events: str) -> Said:
    """Say how many events have a value or more, where no decile has moved: of a rare flag above all.

    >>> flag = Change("is_new", "numeric", 0.08, at_least=(1.0, 0.05, 0.13))
    >>> say(flag, "orders").sentence
    '`is_new` is more often 1 or more: in 13 % of the orders, 5 % in training'
    """
    value, reference, detection = change.at_least
    if not math.isfinite(value) or reference == detection:
        return Said(f"`{change.metric}` has changed", "in none of the tenths", Example(change.metric, "", ""))
    was, is_ = percent(reference), percent(detection)
    more = "more" if detection > reference else "less"
    name = "the scores are" if change.kind == "score" else f"`{change.metric}` is"
    what = f"{_number(value, 3)} or more"
    return Said(
        f"{name} {more} often {what}",
        f"in {is_} of the {events}, {was} in training",
        Example(f"`{change.metric}` {what}", was, is_),
    )


def _say_shares(change: Change, events: str) -> Said | None:
    reference, detection = change.shares_before, change.shares_now
    if len(reference) != len(detection) or not all(map(math.isfinite, (*reference, *detection))):
        return None
    code = (
        1 if change.kind == "outcome" else max(range(len(detection)), key=lambda at: abs(detection[at] - reference[at]))
    )
    was, is_ = percent(reference[code]), percent(detection[code])
    more = "more" if detection[code] > reference[code] else "less"
    if change.kind == "outcome":
        return Said(
            f"the outcome is {more} frequent",
            f"{is_} of the {events}, {was} in training",
            Example("the outcome", was, is_),
        )
    name = f"'{change.values[code]}'" if code < len(change.values) else "new to the model"
    if code < len(detection) - 1 and code >= len(change.values):
        name = f"of code {code}"
    what = f"`{change.metric}` {name}"
    return Said(
        f"`{change.metric}` is {more} often {name}",
        f"{is_} of the {events}, {was} in training",
        Example(what, was, is_),
    )


def _say_missing(change: Change, events: str) -> Said:
    was, is_ = percent(change.missing_before), percent(change.missing_now)
    more = "more" if change.missing_now > change.missing_before else "less"
    what = f"`{change.metric}` missing"
    return Said(
        f"`{change.metric}` is {more} often missing",
        f"in {is_} of the {events}, {was} in training",
        Example(what, was, is_),
    )
