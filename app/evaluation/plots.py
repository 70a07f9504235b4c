"""The pictures of an evaluation, as PNG beside its tables; without matplotlib (the extra ``demo``) there are none."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from app.evaluation.measures import Detection, Rate
from app.evaluation.run import EvaluationRun
from app.evaluation.window_contestants import OURS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOWEST = 0.01
#: Share of a row's height over which the marks of one contestant are spread.
_SPREAD = 0.56


def draw_achieved(run: EvaluationRun, picture: str, by_stream: Mapping[str, Mapping[str, Rate]]) -> None:
    """False alarms per declared one, per stream (colours) and whose they are (rows), with their ranges."""

    def draw(figure: Figure, style: Any) -> None:
        axes = figure.add_subplot()
        names = list(next(iter(by_stream.values())))
        axes.axvspan(0.85, 1.15, color=style.PALETTE[2], alpha=0.16, linewidth=0, zorder=0)
        axes.axvline(1, color=style.PALETTE[2], linewidth=1.4, zorder=1)
        for place, (stream, rates) in enumerate(by_stream.items()):
            colour = style.PALETTE[place % len(style.PALETTE)]
            for row, name in enumerate(names):
                achieved = rates[name]
                y = row + _offset(place, len(by_stream))
                low, middle, high = (max(bound, _LOWEST) for bound in (achieved.low, achieved.value, achieved.high))
                axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.55, solid_capstyle="round")
                mark = "o" if achieved.value else "<"
                axes.plot(middle, y, mark, color=colour, markersize=5, label=stream if not row else None, zorder=3)
        axes.set_xscale("log")
        axes.set_xlim(_LOWEST * 0.8, 160)
        axes.set_xticks([0.01, 0.1, 1, 10, 100], ["none", "0.1", "as declared", "10 ×", "100 ×"])
        _name_rows(axes, names, style)
        axes.set_xlabel("false alarms per declared one, with 95 % range (band: ± 15 %)")
        _legend_above(figure, axes)

    _save(run, picture, (10, 5.2), draw)


def draw_powers(run: EvaluationRun, picture: str, by_law: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Shares of changes (rows) that are said right, per stream (colours), and what an oracle finds (NaN: nothing)."""

    def draw(figure: Figure, style: Any) -> None:
        axes = figure.add_subplot()
        names = list(next(iter(by_law.values())))
        for place, (stream, shares) in enumerate(by_law.items()):
            colour = style.PALETTE[place % len(style.PALETTE)]
            for row, name in enumerate(names):
                y = row + _offset(place, len(by_law))
                ours, oracle = (100 * share for share in shares[name])
                axes.plot([ours, oracle], [y, y], color=colour, linewidth=2, alpha=0.4)
                axes.plot(oracle, y, "|", color=colour, markersize=9, markeredgewidth=2)
                axes.plot(ours, y, "o", color=colour, markersize=5, label=stream if not row else None, zorder=3)
        axes.set_xlim(-2, 102)
        _name_rows(axes, names, style)
        axes.set_xlabel("the first mature window has the right verdict, % (|: by_law by who knows the change)")
        _legend_above(figure, axes)

    _save(run, picture, (10, 1.2 + 0.5 * len(next(iter(by_law.values())))), draw)


def draw_changes(run: EvaluationRun, at_once: Mapping[str, Mapping[str, float]], before: Mapping[str, Rate]) -> None:
    """Share of changes seen in their first window, and beside it how often each contestant alarms without one."""

    def draw(figure: Figure, style: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=[3.6, 1.4], sharey=True)
        names, changes = list(at_once), list(next(iter(at_once.values())))
        seen = np.array([[100 * at_once[name][change] for change in changes] for name in names])
        left.imshow(seen, cmap="Blues", vmin=0, vmax=130, aspect="auto")
        for (row, column), value in np.ndenumerate(seen):
            colour = "white" if value > 75 else style.INK
            left.text(column, row, f"{value:.0f} %", ha="center", va="center", fontsize=9, color=colour)
        wrapped = [textwrap.fill(change, 10) for change in changes]
        left.set_xticks(range(len(changes)), wrapped, fontsize=8.5)
        left.xaxis.tick_top()
        left.tick_params(length=0)
        for spine in left.spines.values():
            spine.set_visible(False)
        left.set_xlabel("alarm in the first window after the change")
        _name_rows(left, [TITLES[name] for name in names], style)
        left.grid(visible=False)
        shares = [100 * before[name].value for name in names]
        colours = [style.PALETTE[0] if name == OURS else style.SOFT for name in names]
        right.barh(range(len(names)), shares, color=colours, height=0.5)
        for row, value in enumerate(shares):
            right.text(value + 3, row, f"{value:.3g} %", va="center", fontsize=9, color=style.INK)
        right.set_xlim(0, 150)
        right.set_xticks([0, 50, 100])
        right.tick_params(axis="y", length=0, labelleft=False)
        right.grid(visible=False, axis="y")
        right.set_xlabel("alarm without a change, %")

    _save(run, "drift-changes", (11, 4.2), draw)


def draw_weather(run: EvaluationRun, alarms: Mapping[str, Sequence[bool] | np.ndarray], onset: int) -> None:
    """Which windows each contestant alarms in, and where the fault begins."""

    def draw(figure: Figure, style: Any) -> None:
        axes = figure.add_subplot()
        for row, alarmed in enumerate(alarms.values()):
            for window, is_alarmed in enumerate(np.asarray(alarmed).tolist()):
                colour = (style.BAD if window < onset else style.PALETTE[0]) if is_alarmed else style.RULE
                axes.plot(window, row, "s", color=colour, markersize=11 if is_alarmed else 7)
        axes.axvline(onset - 0.5, color=style.INK, linewidth=1.4)
        axes.annotate(
            "columns displaced from here on", (onset - 0.4, -0.85), fontsize=9, color=style.INK, annotation_clip=False
        )
        n = max(len(np.asarray(alarmed)) for alarmed in alarms.values())
        axes.set_xticks(range(0, n, 2), [f"{8_000 + 500 * at}" for at in range(0, n, 2)])
        axes.set_xlabel("first row of the window of 500 days (filled: alarm; red: before the fault)")
        axes.grid(visible=False)
        _name_rows(axes, [TITLES[name] for name in alarms], style)
        axes.set_ylim(len(alarms) - 0.4, -1.15)

    _save(run, "drift-noaa", (10, 3.6), draw)


def draw_concepts(run: EvaluationRun, by_detector: Mapping[str, Mapping[str, Detection]]) -> None:
    """F1, false alarms and delay per detector (rows) and kind of change (colours)."""

    def draw(figure: Figure, style: Any) -> None:
        panels = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 1, 1])
        kinds = list(dict.fromkeys(kind for of_kind in by_detector.values() for kind in of_kind))
        for row, of_kind in enumerate(by_detector.values()):
            for place, kind in enumerate(kinds):
                if kind not in of_kind:
                    continue
                y, colour = row + _offset(place, len(kinds)), style.PALETTE[place]
                values = of_kind[kind].f1, max(of_kind[kind].false_alarms, _LOWEST), of_kind[kind].delay
                for axes, value in zip(panels, values, strict=True):
                    axes.plot(value, y, "o", color=colour, markersize=6, label=kind if not row else None)
        panels[0].set_xlim(-0.03, 1.03)
        panels[0].set_xlabel("F1 by the rule of KDD 2026")
        panels[1].set_xscale("log")
        panels[1].set_xticks([0.01, 0.1, 1, 10], ["none", "0.1", "1", "10"])
        panels[1].set_xlabel("false alarms per 1 000 events")
        panels[2].set_xlabel("events until seen, of those seen")
        panels[2].set_xlim(left=0)
        for axes in panels:
            _name_rows(axes, list(by_detector), style)
        _legend_above(figure, panels[0])

    _save(run, "drift-concepts", (11, 0.9 + 0.48 * len(by_detector)), draw)


def draw_protocol(run: EvaluationRun, means: Mapping[str, Mapping[str, float]], modes: Sequence[str]) -> None:
    """Mean F1 over the four drifts, abrupt and gradual: everybody's here, and what was published."""

    def draw(figure: Figure, style: Any) -> None:
        axes = figure.add_subplot()
        for row, (name, cells) in enumerate(means.items()):
            for place, mode in enumerate(modes):
                values = [value for cell, value in cells.items() if cell.endswith(mode)]
                y = row + _offset(place, len(modes))
                colour = style.SOFT if name.startswith("published") else style.PALETTE[place]
                axes.plot(values, [y] * len(values), "|", color=colour, markersize=9, alpha=0.7)
                label = mode if not row else None
                mark = "o" if not place else "D"
                axes.plot(np.mean(values), y, mark, color=colour, markersize=6, label=label, zorder=3)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("F1 on NOAA weather: mean of four drifts, and each (|)")
        _name_rows(axes, list(means), style)
        _legend_above(figure, axes)

    _save(run, "drift-kdd", (10, 0.9 + 0.36 * len(means)), draw)


def _offset(place: int, of: int) -> float:
    return _SPREAD * ((place + 0.5) / of - 0.5)


def _name_rows(axes: Axes, names: Sequence[str], style: Any) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9.2, color=style.INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        if "streamgauge" in label.get_text():
            label.set_fontweight("bold")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _legend_above(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=9, handletextpad=0.2)


def _save(run: EvaluationRun, name: str, size: tuple[float, float], draw: Callable[[Figure, Any], None]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        run.figures.skip(f"{name}.png", "no matplotlib; pip install 'streamgauge[demo]'")
        return
    import matplotlib as mpl  # noqa: PLC0415  # an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    from app.report import plots as style  # noqa: PLC0415  # needs matplotlib as well

    with mpl.rc_context(style.STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, style)
        run.report.mkdir(parents=True, exist_ok=True)
        figure.savefig(run.report / f"{name}.png", dpi=130, facecolor="white")
