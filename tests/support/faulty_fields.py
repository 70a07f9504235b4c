"""Payments whose fields can be broken on their way: what features are made of them, and what a monitor then says.

Features are computed here from the raw fields, by numpy alone: the field itself, known functions of it, windows (each
payment with some payments before it), and what is made of windows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.counts.sketches import ALL, pack
from app.core.monitoring.core import MonitorCore
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord, WindowVerdict

Array = NDArray[Any]
Fields = dict[str, Array]

DAY_MS = 86_400_000
START_MS = 20 * DAY_MS
SLICES = 8
SHOPS = ["food", "fuel", "toys", "travel"]

_WINDOW = 'window = {{ of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "{}", field = "{}" }}'
#: Of each feature: its type, what the pipeline file says of it, and how it is computed of fields and of fields before.
FEATURES: dict[str, tuple[str, str, Callable[[Fields, Fields], Array]]] = {
    "amount": ("float", 'expression = "amount"', lambda now, _: now["amount"]),
    "log_amount": ("float", 'expression = "log1p(amount)"', lambda now, _: np.log1p(now["amount"])),
    "ln_cents": ("float", 'expression = "log(amount * 100) - 2"', lambda now, _: np.log(now["amount"] * 100) - 2),
    "root_amount": ("float", 'expression = "sqrt(amount)"', lambda now, _: np.sqrt(now["amount"])),
    "amount_mean": ("float", _WINDOW.format("mean", "amount"), lambda _, past: _mean(past["amount"])),
    "amount_sum": ("float", _WINDOW.format("sum", "amount"), lambda _, past: _sum(past["amount"])),
    "amount_to_mean": (
        "float",
        'expression = "amount / amount_mean"',
        lambda now, past: now["amount"] / _mean(past["amount"]),
    ),
    "is_large": ("bool", 'expression = "amount > 60"', lambda now, _: np.where(now["amount"] > 60, 1.0, 0.0)),
    "weight": ("float", 'expression = "weight"', lambda now, _: now["weight"]),
    "log_weight": ("float", 'expression = "log(weight)"', lambda now, _: np.log(now["weight"])),
    "weight_mean": ("float", _WINDOW.format("mean", "weight"), lambda _, past: _mean(past["weight"])),
    "shop": ("category", f'expression = "shop"\nvalues = {SHOPS}', lambda now, _: now["shop"]),
    "is_food": ("bool", "expression = \"shop == 'food'\"", lambda now, _: np.where(now["shop"] == 0, 1.0, 0.0)),
    "temp": ("float", 'expression = "temp"', lambda now, _: now["temp"]),
    "level": ("float", 'expression = "temp * 1.8 + 32"', lambda now, _: now["temp"] * 1.8 + 32),
}
#: Payments of the same card in the last hour, this one not included.
_BEFORE = 3


def _mean(past: Array) -> Array:
    is_known = ~np.isnan(past)
    with np.errstate(invalid="ignore"):
        return np.where(is_known, past, 0.0).sum(axis=1) / np.where(is_known.any(axis=1), is_known.sum(axis=1), np.nan)


def _sum(past: Array) -> Array:
    return np.where(np.isnan(past), 0.0, past).sum(axis=1)


def draw_fields(rng: np.random.Generator, shape: tuple[int, ...]) -> Fields:
    """Fields of payments: amounts of many sizes, weights of a few kilograms, temperatures, shops as codes."""
    return {
        "amount": rng.lognormal(3.0, 0.9, shape),
        "weight": rng.gamma(4.0, 0.5, shape) + 0.1,
        "temp": rng.normal(14.0, 7.0, shape),
        "shop": rng.choice(4, shape, p=[0.4, 0.3, 0.2, 0.1]).astype(np.float64),
    }


Change = Callable[[Fields, np.random.Generator], Fields]


def compute(names: Sequence[str], rng: np.random.Generator, n: int, change: Change | None = None) -> Array:
    """Features of so many payments, after what ``change`` makes of all their fields."""
    now, past = draw_fields(rng, (n,)), draw_fields(rng, (n, _BEFORE))
    if change is not None:
        now, past = change(now, rng), change(past, rng)
    with np.errstate(all="ignore"):
        return np.column_stack([FEATURES[name][2](now, past) for name in names])


@cache
def pipeline_of(names: tuple[str, ...]) -> Pipeline:
    types = {"payment_id": "string", "card": "string", "at_ms": "int", "shop": "string?"}
    types |= dict.fromkeys(("amount", "weight", "temp"), "float?")
    needed = names if "amount_to_mean" not in names or "amount_mean" in names else (*names, "amount_mean")
    lines = [
        'name = "payments"\npartitions = 1\n[model]\nname = "m"\n[events]\nentity = "card"\nid = "payment_id"',
        'time = "at_ms"\nearliest = 1970-01-01T00:00:00Z\nplural = "payments"\n[events.fields]',
        *(f'{name} = "{kind}"' for name, kind in types.items()),
        *(f'[[features]]\nname = "{name}"\ntype = "{FEATURES[name][0]}"\n{FEATURES[name][1]}' for name in needed),
        '[drift]\nwindow = "1d"\nslice = "3h"\nbins = 64\nfalse_alarms = 1\nper = "365d"',
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payments.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return load(path)


@cache
def reference_of(names: tuple[str, ...], n: int = 20_000) -> Reference:
    rng = np.random.default_rng(0)
    matrix = compute(names, rng, n)
    shop = category("shop", len(SHOPS) + 1, SHOPS)
    columns = [shop if FEATURES[name][0] == "category" else numeric(name) for name in names]
    scores = rng.random(n)
    return fit_reference(TrainingEvents(matrix, scores, (rng.random(n) < scores) * 1.0), columns, 64)


def judge(
    names: tuple[str, ...],
    seed: int,
    change: Change | None,
    *,
    n: int = 10_000,
    share: float = 1.0,
    mended: float = 0.0,
    is_usual: bool = False,
    restarts_at: int | None = None,
    keep: int = 24,
) -> WindowVerdict:
    """The verdict on a day; in the last ``share`` of it, and ``is_usual``: of the day before, fields are changed.

    ``mended``: but not in so much of its end.
    ``restarts_at``: after so many slices of both days the monitor goes on from a snapshot.
    """
    monitor = MonitorCore(pipeline_of(names), keep=keep)
    reference = reference_of(names)
    monitor.register_version("1", reference, {})
    rng = np.random.default_rng([seed, 7])
    old_ms = 5 * DAY_MS
    deltas = []
    for day in (0, 1):
        is_changed = day == 1 or is_usual
        for number in range(SLICES):
            size = n // SLICES
            first, last = (min(max((1 - each) * SLICES - number, 0.0), 1.0) for each in (share, mended))
            n_good = size - round(size * (last - first)) if is_changed else size
            parts = [compute(names, rng, n_good), compute(names, rng, size - n_good, change)]
            counts = count(reference, np.concatenate(parts), rng.random(size))
            deltas.append(pack("m", "1", ALL, START_MS + day * DAY_MS + number * DAY_MS // SLICES, counts))
    monitor.observe(SketchRecord(0, old_ms, old_ms, [], [], 100_000, [], [], old_ms))
    for number, delta in enumerate(deltas):
        if number == restarts_at:
            snapshot = monitor.snapshot()
            monitor = MonitorCore(pipeline_of(names), keep=keep)
            monitor.restore(snapshot)
            assert monitor.snapshot() == snapshot
        monitor.observe(SketchRecord(0, delta.slice_start_ms, old_ms, [delta]))
        monitor.collect(1)
    monitor.observe(SketchRecord(0, 40 * DAY_MS, 40 * DAY_MS, []))
    return monitor.collect(1).verdicts[-1]


def times(field: str, factor: float, offset: float = 0.0) -> Change:
    return lambda fields, _: {**fields, field: fields[field] * factor + offset}


def swap(one: str, other: str) -> Change:
    return lambda fields, _: {**fields, one: fields[other], other: fields[one]}


def constant(field: str, value: float) -> Change:
    return lambda fields, _: {**fields, field: np.full_like(fields[field], value)}


def missing(field: str, share: float) -> Change:
    return _replaced(field, share, np.nan)


def unlisted(field: str, share: float) -> Change:
    return _replaced(field, share, 4.0)


def _replaced(field: str, share: float, value: float) -> Change:
    def change(fields: Fields, rng: np.random.Generator) -> Fields:
        return {**fields, field: np.where(rng.random(fields[field].shape) < share, value, fields[field])}

    return change


#: What is usual: small shifts, more of everything, more of one shop, another spread.
ORDINARY: Mapping[str, Change] = {
    "amounts a third of a deviation larger": lambda fields, _: {
        **fields,
        "amount": fields["amount"] * np.exp(0.3 * 0.9),
    },
    "amounts times 1.15": times("amount", 1.15),
    "weights times 1.15": times("weight", 1.15),
    "warmer": times("temp", 1.0, 2.1),
    "spread more widely": lambda fields, _: {**fields, "amount": np.exp(3 + 1.25 * (np.log(fields["amount"]) - 3))},
    "a season": lambda fields, rng: {
        **fields,
        "temp": fields["temp"] + 5 * np.sin(rng.uniform(0, 2, fields["temp"].shape)),
        "amount": fields["amount"] * np.exp(0.4 * rng.random(fields["amount"].shape)),
    },
}
