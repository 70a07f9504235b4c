"""What a chaos run found: one row per fault, gathered into one ``results.json`` and one table.

Use, in any test::

    from chaos_report import Figure, Row, record

    row = record(Row("P4", "SIGSTOP past the session timeout", seed=seed, events=9_000, faults=5, lost=0, doubled=0))
    assert row.passed, row.note

`record` first, assert afterwards: a failure belongs in the report too. Fields that a test did not check stay None and
are shown as a dash; ``passed`` follows from the counts unless it is given. The rows of one pytest run make one report,
whichever process ran the tests (`Gatherer`); it is written anew after each test, so that
a run that was stopped leaves what it found. It goes to the folder that STREAMGAUGE_CHAOS_REPORT names (`make chaos`
says ``chaos-report``); without that variable nothing is written.

`seed_of` gives a test its seed; STREAMGAUGE_CHAOS_SEED replays another.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

REPORT_VARIABLE = "STREAMGAUGE_CHAOS_REPORT"
SEED_VARIABLE = "STREAMGAUGE_CHAOS_SEED"


@dataclass(frozen=True)
class Figure:
    """A measured value beside the counts, e.g. how long a hand-over took.

    ``goal``: the promise, on a quiet machine, as a most; None: none is stated. Missing a goal fails no test.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


@dataclass(frozen=True)
class Row:
    """One fault and what became of the promise.

    ``promise``: P1 to P24 of docs/chaos.md, or "control" for what must be caught. ``load``: in words. ``events``: input
    records; ``faults``: how often it struck. ``lost``, ``doubled``, ``conflicting`` (doubled with another content),
    ``wrong_counts`` (state, features or drift counts), ``open_transactions``: None where it was not checked.
    ``doubled_is_allowed``: at least once, where an identical repetition is no breach.
    """

    promise: str
    fault: str
    seed: int | None = None
    load: str = ""
    delivery: str = "exactly_once"
    events: int = 0
    faults: int = 0
    lost: int | None = None
    doubled: int | None = None
    conflicting: int | None = None
    wrong_counts: int | None = None
    longest_gap_s: float | None = None
    open_transactions: int | None = None
    passed: bool | None = None
    note: str = ""
    figures: tuple[Figure, ...] = ()
    doubled_is_allowed: bool = False
    test: str = ""

    def judged(self) -> Row:
        """The row with ``passed`` and ``test`` filled in."""
        counts = [self.lost, self.conflicting, self.wrong_counts, self.open_transactions]
        if not self.doubled_is_allowed:
            counts.append(self.doubled)
        passed = not any(counts) if self.passed is None else self.passed
        return replace(self, passed=passed, test=os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0])


#: Name of the property of a test's report that holds a row.
ROW = "chaos row"
#: Of the test that runs.
_recorded: list[Row] = []


def record(row: Row) -> Row:
    """Add a row to the report of this run; the judged row."""
    judged = row.judged()
    _recorded.append(judged)
    return judged


def take_recorded() -> list[dict[str, Any]]:
    """What was recorded since the last call, as JSON: it may have to go to another process."""
    rows = [asdict(row) for row in _recorded]
    _recorded.clear()
    return rows


def restore(row: dict[str, Any]) -> Row:
    """A row of `take_recorded`."""
    return Row(**{**row, "figures": tuple(Figure(**figure) for figure in row["figures"])})


def seed_of(test: str) -> int:
    """The seed of a test: STREAMGAUGE_CHAOS_SEED, or one made of its name; printed, so that a failure shows it."""
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else zlib.crc32(test.encode()) % 100_000
    print(f"seed {seed}: replay with {SEED_VARIABLE}={seed}")  # noqa: T201  # pytest shows it when the test fails
    return seed


def report_folder() -> Path | None:
    """Where the report goes, None when none is asked for."""
    name = os.environ.get(REPORT_VARIABLE)
    return Path(name).absolute() if name else None


def write(folder: Path, rows: list[Row]) -> None:
    """Write ``results.json`` and ``table.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps([_to_json(row) for row in rows], indent=1) + "\n")
    (folder / "table.md").write_text(render(rows))


def render(rows: list[Row]) -> str:
    """The table in Markdown, one line per row, and the figures below it; empty when nothing was recorded."""
    if not rows:
        return ""
    heads = ["promise", "fault", "delivery", "load", "events", "faults", "lost", "doubled", "conflicting",
             "wrong counts", "longest gap", "open", "seed", "passed", "note"]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for row in sorted(rows, key=_order):
        gap = "–" if row.longest_gap_s is None else f"{row.longest_gap_s:.1f} s"
        lines.append(
            [row.promise, row.fault, row.delivery, row.load, f"{row.events:,}".replace(",", " "), str(row.faults)]
            + [_show(value) for value in (row.lost, row.doubled, row.conflicting, row.wrong_counts)]
            + [gap, _show(row.open_transactions), _show(row.seed), "yes" if row.passed else "**no**", row.note]
        )
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    figures = [(row, figure) for row in sorted(rows, key=_order) for figure in row.figures]
    if figures:
        text += "\n| promise | fault | figure | value | goal | met |\n| --- | --- | --- | --- | --- | --- |\n"
    for row, figure in figures:
        goal = "–" if figure.goal is None else f"≤ {figure.goal:g} {figure.unit}"
        met = {None: "–", True: "yes", False: "missed"}[figure.met]
        value = f"{figure.value:.4g} {figure.unit}"
        text += f"| {row.promise} | {row.fault} | {figure.name} | {value} | {goal} | {met} |\n"
    return text


def _order(row: Row) -> tuple[bool, int, str]:
    number = row.promise.removeprefix("P").split("/")[0]
    return (not number.isdigit(), int(number) if number.isdigit() else 0, row.fault)


def _show(value: int | None) -> str:
    return "–" if value is None else str(value)


def _to_json(row: Row) -> dict[str, Any]:
    figures = [{**asdict(figure), "met": figure.met} for figure in row.figures]
    return {**asdict(row), "figures": figures}


class Gatherer:
    """Gathers the rows of all processes, and writes them after each test."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        rows = [restore(value) for name, value in report.user_properties if name == ROW]  # type: ignore[arg-type]  # as its conftest put in
        self._rows.extend(rows)
        folder = report_folder()
        if rows and folder is not None:
            write(folder, self._rows)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of what the run's faults came to."""
        table = render(self._rows)
        if table:
            terminalreporter.section("chaos")
            terminalreporter.write(table)
