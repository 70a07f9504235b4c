"""Payments: false alarms where nothing changes, and what is said of what does, beside an oracle's power."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.core.drift.budget import OF_LABELS
from app.evaluation.payment_changes import BY_LABELS, CHANGES, PaymentChange, as_scored, oracle_finds
from app.evaluation.payment_stream import A_DAY, DAY_MS, FIRST_DAY, MERCHANTS, Bank, PaymentLaw
from app.evaluation.payment_watch import PER_EVENTS, alarmed_windows, fit, follow, make_pipeline
from app.evaluation.run import generator

if TYPE_CHECKING:
    from app.core.findings import Findings
    from models.reference.reference import Reference
    from schemas.pipeline.spec import Pipeline
    from schemas.wire import WindowVerdict

#: Days of training, and quiet days after it; runs of each reference.
TRAINING, QUIET, RUNS = 20, 20, 5
_TRAINED = FIRST_DAY + TRAINING
#: Days of a change in which it is to be noticed.
PATIENCE = 10
#: Days of a stream that begins, until all windows have filled and some more; and of one in which versions swap.
_BEGINNING, _SWAPPING = 56, 10
#: Windows with an alarm that are declared, per window.
BUDGET = A_DAY / PER_EVENTS
#: What labels may be asked, and so what an oracle is given; and what of it the order may spend.
_ALPHA, _OF_ORDER = OF_LABELS * BUDGET, 0.5
BASE_RATES = (0.001, 0.005, 0.01, 0.05, 0.2)
LAWS = tuple(
    PaymentLaw(base_rate, delay, cards)
    for base_rate in BASE_RATES
    for delay in ("now", "late", "split")
    for cards in ("uniform", "zipf")
)
#: In which something changes.
CHANGING = tuple(law for law in LAWS if law.delay == "split")


@dataclass(frozen=True)
class Said:
    """Of one changed window: the kind of its last verdict, whether it names what is concerned, the oracles' words."""

    kind: str
    names_it: bool
    oracle: bool
    oracle_of_scores: bool

    def is_right(self, change: PaymentChange) -> bool:
        """Whether the kind is right, and what is to be named is."""
        return self.kind in change.kind and self.names_it


def quiet(task: tuple[int, PaymentLaw, int]) -> list[Counter[str]]:
    """Alarmed days by source, of `RUNS` runs after one reference."""
    seed, law, number = task
    chance = generator(seed, 700, LAWS.index(law), number)
    pipeline, bank, reference = _start(law, chance)
    return [_count(follow(pipeline, reference, bank.fork().draw(chance, QUIET), _TRAINED)) for _ in range(RUNS)]


def changed(task: tuple[int, PaymentLaw, int]) -> dict[str, list[Said]]:
    """What is said of the first changed day, by change, `RUNS` times after one reference."""
    seed, law, number = task
    chance = generator(seed, 701, LAWS.index(law), number)
    pipeline, bank, reference = _start(law, chance)
    said: dict[str, list[Said]] = {}
    for change in CHANGES:
        for _ in range(RUNS):
            drawn = bank.fork().draw(chance, 1, change)
            verdict = _last_verdicts(follow(pipeline, reference, drawn, _TRAINED))[_TRAINED]
            oracles = oracle_finds(drawn, _ALPHA, chance), oracle_finds(as_scored(drawn), _OF_ORDER * _ALPHA, chance)
            said.setdefault(change.name, []).append(Said(verdict.kind, _names(verdict, change), *oracles))
    return said


def delayed(task: tuple[int, PaymentLaw, int]) -> dict[str, float]:
    """Windows from a change that labels tell until it is said right, the first one counted; infinite: not in time."""
    seed, law, number = task
    chance = generator(seed, 703, LAWS.index(law), number)
    pipeline, bank, reference = _start(law, chance)
    windows = {}
    for change in BY_LABELS:
        findings = follow(pipeline, reference, bank.fork().draw(chance, PATIENCE, change), _TRAINED)
        right = [
            day
            for day, verdict in _last_verdicts(findings).items()
            if verdict.kind in change.kind and _names(verdict, change)
        ]
        windows[change.name] = min(right) - _TRAINED + 1 if right else math.inf
    return windows


def undisturbed(task: tuple[int, PaymentLaw, int]) -> dict[str, Counter[str]]:
    """Alarmed days while a stream begins, and while partitions swap to another version days apart."""
    seed, law, number = task
    chance = generator(seed, 702, LAWS.index(law), number)
    pipeline, bank, reference = _start(law, chance)
    begun = follow(pipeline, reference, bank.emptied().draw(chance, _BEGINNING), _TRAINED, is_new=True)
    # Of each merchant at another time of the days in which a backlog is read.
    swap = ((_TRAINED + 1 + 5 * np.arange(len(MERCHANTS)) / len(MERCHANTS)) * DAY_MS).astype(np.int64)
    swapped = follow(pipeline, reference, bank.fork().draw(chance, _SWAPPING), _TRAINED, swap=swap)
    return {"a stream begins": _count(begun), "versions swap during a backlog": _count(swapped)}


def _start(law: PaymentLaw, chance: np.random.Generator) -> tuple[Pipeline, Bank, Reference]:
    pipeline, bank = make_pipeline(law.delay), Bank(law, chance)
    return pipeline, bank, fit(pipeline, bank.draw(chance, TRAINING))


def _count(findings: Findings) -> Counter[str]:
    days = alarmed_windows(findings)
    everything = set().union(*days.values()) if days else set()
    return Counter({name: len(windows) for name, windows in days.items()} | {"all": len(everything)})


def _last_verdicts(findings: Findings) -> dict[int, WindowVerdict]:
    """Of each day, the last one."""
    ordered = sorted(findings.verdicts, key=lambda verdict: verdict.revision)
    return {verdict.window_start_ms // DAY_MS: verdict for verdict in ordered}


def _names(verdict: WindowVerdict, change: PaymentChange) -> bool:
    if change.segment:
        return bool(verdict.segments) and verdict.segments[0].segment == f"merchant={change.segment}"
    words = " ".join([verdict.headline, *(because.words for because in verdict.explained_by)])
    return all(f"`{name}`" in words for name in change.fields)
