"""The figures of payments: false alarms of each law, what is said of each change beside oracles, and the worst."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from app.core.performance.measures import wilson
from app.evaluation.measures import Rate, rate
from app.evaluation.payment_changes import BY_EVENTS, BY_LABELS, CHANGES, PaymentChange
from app.evaluation.payment_stream import PaymentLaw
from app.evaluation.payments import (
    BUDGET,
    CHANGING,
    LAWS,
    PATIENCE,
    QUIET,
    RUNS,
    Said,
    changed,
    delayed,
    quiet,
    undisturbed,
)
from app.evaluation.plots import draw_achieved, draw_powers
from app.evaluation.run import EvaluationRun

SOURCES = {
    "all": "anything",
    "pipeline_fault": "pipeline fault",
    "concept_drift": "concept drift",
    "label_prior_drift": "label prior drift",
    "score_drift": "score drift",
    "feature_drift": "feature drift",
    "error": "CUSUM",
    "alert": "alerts",
}
#: Alarms per declared one that are too many for sure.
_TOO_MANY = 1.15
#: Of fewer frauds than this nothing is promised of what labels tell; nor where the oracle finds less than that share.
_FEWEST_FRAUDS, _FOUND = 0.005, 0.95

#: Of so many references one is followed for longer.
_LONGER = 4

_QUIET = "Payments: false alarms per declared one, without any change"
_RIGHT = "Payments: the first mature window after a change has the right verdict, %"
_OF_ORACLE = "Payments: the same, relative to an oracle at the level of all that labels are asked"
_OF_SCORED = "Payments: the same, relative to an oracle that sees scores and labels only, at half of that level"
_SAID = "Payments: what is said (columns) of what has happened (rows), %, all laws together"
_DELAY = "Payments: windows until it is said right, the first one counted; 10 where it is not in 10"
_PEACE = "Payments: runs without an alarm, %"

_SaidOf = Mapping[PaymentLaw, Mapping[str, Sequence[Said]]]


def measure_payments(run: EvaluationRun) -> None:
    """False alarms of each law; right verdicts and the oracles' power of each change; beginnings and swaps."""
    references = range(-(-run.sizes.payments // RUNS))
    achieved: dict[str, dict[str, Rate]] = {}
    for law in LAWS:
        run.say(f"payments: {law.help}, {len(references) * RUNS} runs of {QUIET} days")
        results = run.map(f"payments, {law.help}", quiet, _tasks(run, law, references))
        achieved[law.help] = _add_quiet(run, law, [each for of_reference in results for each in of_reference])
    _add_all_quiet(run, achieved)
    said: dict[PaymentLaw, dict[str, list[Said]]] = {}
    for law in CHANGING:
        run.say(f"payments: changes, {law.help}, {len(references) * RUNS} runs each")
        changes = list(run.map(f"payments, changes, {law.help}", changed, _tasks(run, law, references)))
        said[law] = {
            each.name: [one for of_reference in changes for one in of_reference[each.name]] for each in CHANGES
        }
        for change in CHANGES:
            _add_change(run, law, change, said[law][change.name])
        some = references[: -(-len(references) // _LONGER)]
        of_delays = run.map(f"payments, delays, {law.help}", delayed, _tasks(run, law, some))
        _add_delays(run, law, list(of_delays))
    _add_worst(run, said)
    _add_confusion(run, said)
    peace = []
    for law in CHANGING:
        run.say(f"payments: beginnings and swaps, {law.help}, {len(references)} runs each")
        found_of = list(run.map(f"payments, beginnings, {law.help}", undisturbed, _tasks(run, law, references)))
        for name in found_of[0]:
            figure = f"payments.{law.name}.{name.replace(' ', '-')}"
            peace.append(_add_share(run, figure, [not each[name]["all"] for each in found_of], _PEACE, law.help, name))
    run.figures.add(
        "payments.undisturbed", float(np.mean(peace)), "%", "Payments: beginnings and swaps without an alarm"
    )
    _draw(run, achieved, said)


def _tasks(run: EvaluationRun, law: PaymentLaw, references: range) -> list[tuple[int, PaymentLaw, int]]:
    return [(run.seed, law, number) for number in references]


def _add_quiet(run: EvaluationRun, law: PaymentLaw, counts: list[Counter[str]]) -> dict[str, Rate]:
    rates = {}
    for source, title in SOURCES.items():
        rates[source] = rate([count[source] for count in counts], QUIET) / BUDGET
        figure = f"payments.{law.name}.{source}.achieved"
        run.figures.add_cell(figure, rates[source].value, "×", (_QUIET, law.help, title))
        run.figures.spreads[figure] = rates[source].low, rates[source].high
    return rates


def _add_all_quiet(run: EvaluationRun, achieved: Mapping[str, Mapping[str, Rate]]) -> None:
    rates = [of_law["all"] for of_law in achieved.values()]
    mean = float(np.mean([of_law.value for of_law in rates]))
    run.figures.add("payments.quiet", mean, "×", "Payments: false alarms per declared one, all laws together")
    above = sum(of_law.low > _TOO_MANY for of_law in rates)
    run.figures.add("payments.quiet.above", above, "", f"Payments: laws that surely have more than {_TOO_MANY} of them")


def _add_share(run: EvaluationRun, figure: str, is_so: Sequence[bool], *cell: str) -> float:
    share = 100 * float(np.mean(is_so))
    table, row, column = cell
    run.figures.add_cell(figure, share, "%", (table, row, column))
    low, high = wilson(share / 100, len(is_so))
    run.figures.spreads[figure] = 100 * low, 100 * high
    return share


def _add_change(run: EvaluationRun, law: PaymentLaw, change: PaymentChange, said: Sequence[Said]) -> None:
    figure = f"payments.{law.name}.{change.name}"
    right = _add_share(
        run, f"{figure}.right", [window.is_right(change) for window in said], _RIGHT, law.help, change.help
    )
    for name, table in (("oracle", _OF_ORACLE), ("oracle_of_scores", _OF_SCORED)):
        power = 100 * float(np.mean([getattr(window, name) for window in said]))
        if power:
            run.figures.add_cell(f"{figure}.of_{name}", right / power, "×", (table, law.help, change.help))
            run.figures.add(f"{figure}.{name}", power, "%")


def _add_delays(run: EvaluationRun, law: PaymentLaw, delays: Sequence[Mapping[str, float]]) -> None:
    for change in BY_LABELS:
        windows = float(np.mean([min(delay[change.name], PATIENCE) for delay in delays]))
        run.figures.add_cell(
            f"payments.{law.name}.{change.name}.delay", windows, "windows", (_DELAY, law.help, change.help)
        )


def _add_worst(run: EvaluationRun, said: _SaidOf) -> None:
    """Of each change, the law in which it is said right least often; of what labels tell, where that is promised."""
    for change in CHANGES:
        right, of_oracle = [], []
        for law, of_law in said.items():
            answers_of = of_law[change.name]
            share, power = (
                float(np.mean(answers))
                for answers in ([one.is_right(change) for one in answers_of], [one.oracle for one in answers_of])
            )
            if change in BY_EVENTS or (law.base_rate >= _FEWEST_FRAUDS and power >= _FOUND):
                right.append(100 * share)
            if law.base_rate >= _FEWEST_FRAUDS and power:
                of_oracle.append(share / power)
        for name, values, unit in (("right", right, "%"), ("of_oracle", of_oracle, "×")):
            if values:
                run.figures.add(f"payments.worst.{change.name}.{name}", min(values), unit)


def _add_confusion(run: EvaluationRun, said: _SaidOf) -> None:
    kinds = [*(kind for kind in SOURCES if kind not in {"all", "error", "alert"}), "none"]
    for change in CHANGES:
        told = [window.kind for of_law in said.values() for window in of_law[change.name]]
        counts = Counter(told)
        for kind in kinds:
            cell = (_SAID, change.help, SOURCES.get(kind, kind))
            run.figures.add_cell(f"payments.said.{change.name}.{kind}", 100 * counts[kind] / len(told), "%", cell)


def _draw(run: EvaluationRun, achieved: Mapping[str, Mapping[str, Rate]], said: _SaidOf) -> None:
    by_frauds: dict[str, dict[str, Rate]] = {}
    for law in LAWS:
        frauds, others = law.help.split(", ", 1)
        by_frauds.setdefault(frauds, {})[others] = achieved[law.help]["all"]
    draw_achieved(run, "drift-payments", by_frauds)
    powers: dict[str, dict[str, tuple[float, float]]] = {}
    for law, of_law in said.items():
        if law.cards == "uniform":
            frauds = law.help.split(", ", 1)[0]
            powers[frauds] = {change.help: _powers(change, of_law[change.name]) for change in CHANGES}
    draw_powers(run, "drift-payments-changes", powers)


def _powers(change: PaymentChange, said: Sequence[Said]) -> tuple[float, float]:
    right, oracle = ([window.is_right(change) for window in said], [window.oracle for window in said])
    return float(np.mean(right)), float(np.mean(oracle)) if change not in BY_EVENTS else math.nan
