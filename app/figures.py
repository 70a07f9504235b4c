"""Figures, the goals that they are judged by, and their report: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil

#: Column of the figures that are compared by a ratio.
RATE = "events/s"


@dataclass(frozen=True)
class Figure:
    """One measured number; ``goal`` (in words) and ``met`` where there is one. No value: it could not be measured."""

    name: str
    value: float | None
    unit: str
    goal: str | None = None
    met: bool | None = None
    command: str = ""


@dataclass
class Figures:
    """The figures of a run, in the order measured, and why some are missing.

    ``cells``: where a figure stands that is part of a table: the table's title, its row, its column. ``files``: names
    of the two files; ``heading`` and ``fairness``: the Markdown's title, and what its reader should know of the run.
    """

    found: dict[str, Figure] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    cells: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    command: str = ""
    files: tuple[str, str] = ("results.json", "table.md")
    heading: str = "Benchmarks"
    fairness: str = (
        "Broker, generator and contestants are on this machine. Values with a range are medians of rounds, others "
        "single runs: read differences under 30 % as ties."
    )
    load_before: float = field(default_factory=lambda: psutil.getloadavg()[0])

    def add(self, name: str, values: float | Sequence[float], unit: str, title: str = "") -> None:
        """Add a figure; of several values the median counts, and their range is shown beside it."""
        values = [values] if isinstance(values, (int, float)) else list(values)
        self.found[name] = Figure(name, median(values), unit, command=self.command)
        if len(values) > 1:
            self.spreads[name] = min(values), max(values)
        if title:
            self.titles[name] = title

    def add_cell(self, name: str, values: float | Sequence[float], unit: str, cell: tuple[str, str, str]) -> None:
        """Add a figure that stands in a table with others."""
        self.add(name, values, unit)
        self.cells[name] = cell

    def judge(self, goals: Iterable[Goal]) -> None:
        """Add the goals that can be judged."""
        for goal in goals:
            figure = goal.judge(self)
            if figure is not None:
                self.found[goal.name] = figure
                self.titles[goal.name] = goal.title

    def value(self, name: str) -> float | None:
        """A figure's value; None when it was not measured."""
        figure = self.found.get(name)
        return None if figure is None else figure.value

    def skip(self, what: str, why: str) -> None:
        """Say in one line what was left out."""
        self.skipped.append(f"{what}: {why}")

    def write(self, folder: Path) -> str:
        """Write the report; the table. Figures of an earlier run stay unless this one measured them again."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.files[0]
        rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
        rows |= {figure.name: asdict(figure) for figure in self.found.values()}
        path.write_text(json.dumps(list(rows.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        table = self.render()
        (folder / self.files[1]).write_text(table, encoding="utf-8")
        return table

    def render(self) -> str:
        """The tables of this run, as Markdown."""
        parts = [f"# {self.heading}\n", f"{self._machine()}\n"]
        for table in dict.fromkeys(cell[0] for cell in self.cells.values()):
            parts += [f"## {table}\n", self._render_cells(table)]
        alone = [figure for figure in self.found.values() if not figure.goal and figure.name not in self.cells]
        if alone:
            values = [(self._title(figure), f"{self._number(figure)} {figure.unit}") for figure in alone]
            parts += ["## Other figures\n", _table(("", "value"), values)]
        goals = [figure for figure in self.found.values() if figure.goal]
        if goals:
            rows = [
                (self._title(goal), f"{self._number(goal)} {goal.unit}", str(goal.goal), _verdict(goal))
                for goal in goals
            ]
            parts += ["## Goals\n", _table(("", "value", "goal", ""), rows)]
        if self.skipped:
            parts += ["## Left out\n", "\n".join(f"- {line}" for line in self.skipped) + "\n"]
        return "\n".join(parts)

    def _render_cells(self, table: str) -> str:
        """One table; where there are rates, its first row's is divided by each row's."""
        own = {(row, column): self.found[name] for name, (of, row, column) in self.cells.items() if of == table}
        rows, columns = (list(dict.fromkeys(cell[at] for cell in own)) for at in (0, 1))
        lines = [[row, *(self._number(own.get((row, column))) for column in columns)] for row in rows]
        head = ["", *columns]
        if RATE in columns and len(rows) > 1:
            head.append("the first, times as fast")
            first = own[rows[0], RATE].value
            for row, line in zip(rows, lines, strict=True):
                value = own[row, RATE].value
                line.append(_format(first / value) if first and value else "")
        return _table(head, lines)

    def _machine(self) -> str:
        memory = psutil.virtual_memory().total / 2**30
        return (
            f"{psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}, Python "
            f"{platform.python_version()}; load average before the run: {self.load_before:.1f}. {self.fairness}"
        )

    def _title(self, figure: Figure) -> str:
        return self.titles.get(figure.name, figure.name)

    def _number(self, figure: Figure | None) -> str:
        if figure is None or figure.value is None:
            return "not measured"
        text = _format(figure.value)
        if figure.name in self.spreads:
            low, high = self.spreads[figure.name]
            text += f" [{_format(low)}–{_format(high)}]"
        return text


@dataclass(frozen=True)
class Goal:
    """``of``, or ``of`` / ``to``, is to be at least or at most ``limit``."""

    name: str
    title: str
    of: str
    limit: float
    unit: str = "×"
    to: str | None = None
    at_least: bool = True

    @property
    def words(self) -> str:
        """The goal as it is shown."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".rstrip()

    def judge(self, figures: Figures) -> Figure | None:
        """The figure; None when nothing that it needs was to be measured."""
        top = figures.value(self.of)
        bottom = 1.0 if self.to is None else figures.value(self.to)
        if top is None and (self.to is None or bottom is None):
            return None
        command = (figures.found.get(self.of) or figures.found[self.to or self.of]).command
        if top is None or not bottom:
            return Figure(self.name, None, self.unit, self.words, None, command)
        value = top / bottom
        met = value >= self.limit if self.at_least else value <= self.limit
        return Figure(self.name, value, self.unit, self.words, met, command)


def _verdict(goal: Figure) -> str:
    return {True: "met", False: "**missed**", None: ""}[goal.met]


def _format(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
