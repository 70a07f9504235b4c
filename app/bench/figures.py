"""Figures and their report: results.json for programs, table.md for people."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil


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
    """The figures of a run, in the order measured, and why some are missing."""

    found: dict[str, Figure] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    command: str = ""

    def add(self, name: str, values: float | Sequence[float], unit: str, title: str = "") -> None:
        """Add a figure; of several values the median counts, and their range is shown beside it."""
        values = [values] if isinstance(values, (int, float)) else list(values)
        self.found[name] = Figure(name, median(values), unit, command=self.command)
        if len(values) > 1:
            self.spreads[name] = min(values), max(values)
        if title:
            self.titles[name] = title

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
        path = folder / "results.json"
        rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
        rows |= {figure.name: asdict(figure) for figure in self.found.values()}
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
        table = self.render()
        (folder / "table.md").write_text(table)
        return table

    def render(self) -> str:
        """The tables of this run, as Markdown."""
        goals = [figure for figure in self.found.values() if figure.goal]
        races = _race_names(self.found.values())
        rest = [
            figure for figure in self.found.values() if not figure.goal and figure.name.rpartition(".")[0] not in races
        ]
        parts = ["# Benchmarks\n", f"{_machine()}\n"]
        if races:
            parts += ["## Throughput\n", *self._race_tables(races)]
        if rest:
            values = [(self._title(figure.name), self._number(figure)) for figure in rest]
            parts += ["## Other figures\n", _table(("figure", "value"), values)]
        if goals:
            rows = [(self._title(goal.name), self._number(goal), str(goal.goal), _verdict(goal)) for goal in goals]
            parts += ["## Goals\n", _table(("what", "value", "goal", ""), rows)]
        if self.skipped:
            parts += ["## Left out\n", "\n".join(f"- {line}" for line in self.skipped) + "\n"]
        return "\n".join(parts)

    def _race_tables(self, races: Sequence[str]) -> Iterable[str]:
        workloads = dict.fromkeys(name.partition(".")[0] for name in races)
        for workload in workloads:
            own = [name for name in races if name.startswith(f"{workload}.")]
            yield f"### {self.titles.get(workload, workload)}\n"
            base = self.value(f"{own[0]}.rate")
            rows = []
            for name in own:
                rate, cpu, rss = (self.found[f"{name}.{what}"] for what in ("rate", "cpu", "rss"))
                ratio = _format(base / rate.value) if base and rate.value else ""
                rows.append((self._title(name), self._number(rate), self._number(cpu), self._number(rss), ratio))
            head = ("", "events/s", "CPU µs/event", "RSS MB", "first row is × as fast")
            yield _table(head, rows)

    def _title(self, name: str) -> str:
        return self.titles.get(name, name)

    def _number(self, figure: Figure) -> str:
        if figure.value is None:
            return "not measured"
        text = _format(figure.value)
        if figure.name in self.spreads:
            low, high = self.spreads[figure.name]
            text += f" [{_format(low)}–{_format(high)}]"
        return text if figure.unit in {"events/s", "µs", "MB", "×"} and not figure.goal else f"{text} {figure.unit}"


def _race_names(found: Iterable[Figure]) -> list[str]:
    return [one.name.removesuffix(".rate") for one in found if one.name.endswith(".rate") and not one.goal]


def _verdict(goal: Figure) -> str:
    return {True: "met", False: "**missed**", None: ""}[goal.met]


def _format(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    load = psutil.getloadavg()[0]
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}; broker, generator and contestants on this machine. Load average at the end: "
        f"{load:.1f}. Values with a range are medians of rounds, others single runs: read differences under 30 % as "
        "ties."
    )
