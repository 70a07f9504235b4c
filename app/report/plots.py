"""The plots, as SVG text to stand inside a page. Equal facts give equal text."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from app.report.facts import SCORE_BINS, Facts, Performance, Version, name_window

#: One colour a version, told apart by colour-blind readers too.
PALETTE = ("#2563a8", "#d9622b", "#1f8a70", "#8a4fa3", "#a8862b", "#4a5568")
INK, SOFT, RULE, BAD, WARN = "#1d2733", "#66727f", "#dde3e8", "#b3261e", "#c77700"
_HEAT = LinearSegmentedColormap.from_list("psi", ["#f6f8f9", "#fde3c0", "#f2a65a", "#c9472b", "#7d1a1a"])

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, searchable, small
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 2.0,
}

Draw = Callable[[Figure], None]


def version_colours(facts: Facts) -> dict[str, str]:
    """Give each version its colour, in the order of service."""
    return {row.version: PALETTE[n % len(PALETTE)] for n, row in enumerate(facts.versions)}


def draw_all(facts: Facts, threshold: float) -> dict[str, str]:
    """Draw every plot there are rows for: name -> SVG.

    Parameters
    ----------
    threshold
        Score from which a decision is positive; marked on the distributions.
    """
    plots: dict[str, str] = {}
    if any(not math.isnan(row.realised) for row in facts.performance):
        plots["auc"] = _svg("auc", (10, 4.3), lambda figure: _draw_auc(figure, facts))
    windows = facts.windows()
    if windows:
        rows = len({row.metric for row in facts.reports if row.test == "psi"})
        size = (10, 1.25 + 0.27 * rows)
        plots["heat"] = _svg("heat", size, lambda figure: _draw_heat(figure, facts))
    if facts.months:
        height = 0.9 + 0.52 * len(facts.months)
        plots["scores"] = _svg("scores", (10, height), lambda figure: _draw_scores(figure, facts, threshold))
    names = [name for name in facts.most_drifted(6) if name in facts.deciles]
    if names:
        height = 2.5 * math.ceil(len(names) / 2) + 0.3
        plots["deciles"] = _svg("deciles", (10, height), lambda figure: _draw_deciles(figure, facts, names))
    return plots


def _svg(name: str, size: tuple[float, float], draw: Draw) -> str:
    """Draw into SVG; every id begins with the plot's name, since all plots share one page."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r"""(href="#|url\(#)""", rf"\g<1>{name}-", text)


# -- AUC by window and version ---------------------------------------------------------------------------------------


def _middle(row: Performance, version: Version | None) -> float:
    """Place a point in the middle of what the version served of the window."""
    start, end = row.start_ms, row.end_ms
    if version is not None:
        start, end = max(start, version.first_ms), min(end, version.last_ms)
    return _days((start + end) / 2)


def _draw_auc(figure: Figure, facts: Facts) -> None:
    axes = figure.add_subplot()
    colours = version_colours(facts)
    served = {row.version: row for row in facts.versions}
    for place, (version, colour) in enumerate(colours.items()):
        rows = [row for row in facts.performance if row.version == version and not math.isnan(row.realised)]
        if not rows:
            continue
        x = [_middle(row, served[version]) for row in rows]
        low = [row.realised if math.isnan(row.low) else row.low for row in rows]
        high = [row.realised if math.isnan(row.high) else row.high for row in rows]
        if len(rows) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.vlines(x, low, high, color=colour, alpha=0.45, linewidth=1.6)
        axes.plot(x, [row.realised for row in rows], color=colour, marker="o", markersize=6, label=version)
        for at, row in zip(x, rows, strict=True):
            axes.annotate(
                f"{row.realised:.3f}",
                (at, row.realised),
                xytext=(0, (9, -16)[place % 2]),  # neighbours in one month keep clear of each other
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=colour,
            )
    for before, after in itertools.pairwise(facts.versions):
        at = _days(after.first_ms)
        axes.axvline(at, color=colours[after.version], linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            f"{before.version} → {after.version}",
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            color=colours[after.version],
            fontsize=8.5,
            ha="center",
        )
    windows = sorted({(row.start_ms, row.end_ms) for row in facts.performance})
    _label_windows(axes, windows)
    axes.set_ylabel("AUC (0.5 = coin flip, 1 = perfect)")
    axes.margins(y=0.16)
    axes.legend(
        title="model version", frameon=False, loc="lower left", ncols=len(colours), fontsize=9, title_fontsize=9
    )


# -- drift heat map --------------------------------------------------------------------------------------------------


def _draw_heat(figure: Figure, facts: Facts) -> None:
    columns = facts.windows()
    psi = {(row.metric, row.start_ms, row.version): row for row in facts.reports if row.test == "psi"}
    names = facts.most_drifted(len(psi))
    names += [name for name in ("score", "outcome") if any(metric == name for metric, _, _ in psi)]
    values = np.full((len(names), len(columns)), np.nan)
    axes = figure.add_subplot()
    axes.grid(visible=False)
    for i, name in enumerate(names):
        for j, (start, _, version) in enumerate(columns):
            row = psi.get((name, start, version))
            if row is None or math.isnan(row.statistic):
                continue
            values[i, j] = row.statistic
            is_dark = row.statistic > 0.37  # either ink stands out by 3.6 to 1 at least
            mark = {"DRIFT": " ●", "WARNING": " ○"}.get(row.signal, "")
            axes.text(
                j,
                i,
                f"{row.statistic:.2f}{mark}",
                ha="center",
                va="center",
                fontsize=7.8,
                color="white" if is_dark else INK,
                weight="bold" if row.signal == "DRIFT" else "normal",
            )
    # Past 0.8 everything is as dark as can be: the eye should tell 0.1 from 0.3, not 2 from 5.
    axes.imshow(np.sqrt(np.clip(values, 0, 0.8)), cmap=_HEAT, vmin=0, vmax=math.sqrt(0.8), aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=8.8, color=INK)
    axes.set_xticks(range(len(columns)), [name_window(start, end) for start, end, _ in columns], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(visible=True, which="minor", axis="both", color="white", linewidth=1.6)
    axes.tick_params(which="minor", length=0)
    _band_versions(axes, [version for _, _, version in columns], version_colours(facts))


def _band_versions(axes: Axes, versions: Sequence[str], colours: dict[str, str]) -> None:
    """Underline the columns of each version with its colour and name."""
    start = 0
    for version, run in itertools.groupby(versions):
        end = start + len(list(run))
        axes.plot(
            [start - 0.42, end - 0.58],
            [-0.012, -0.012],
            transform=axes.get_xaxis_transform(),
            color=colours.get(version, SOFT),
            linewidth=4,
            solid_capstyle="butt",
            clip_on=False,
        )
        axes.text(
            (start + end - 1) / 2,
            -0.028,
            version,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=8.8,
            color=colours.get(version, SOFT),
        )
        start = end


# -- score distribution ----------------------------------------------------------------------------------------------


def _draw_scores(figure: Figure, facts: Facts, threshold: float) -> None:
    """Draw a ridge a month, newest at the bottom, and beside it what share was announced and what share came true."""
    ridges, shares = figure.subplots(1, 2, width_ratios=[2.3, 1], sharey=True)
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    months = list(facts.months)
    tallest = max(max(month.histogram) / month.n for month in months)
    for place, month in enumerate(months):
        height = np.array(month.histogram) / month.n / tallest * 0.92
        base = -place
        ridges.fill_between(
            centres, base, base + height, step="mid", color=PALETTE[0], alpha=0.30, linewidth=0, zorder=2
        )
        ridges.step(centres, base + height, where="mid", color=PALETTE[0], linewidth=1.1, zorder=3)
    ridges.axvline(threshold, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    ridges.annotate(
        "“late” from here on",
        (threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -2),
        textcoords="offset points",
        fontsize=8.5,
        color=SOFT,
        va="top",
    )
    ridges.set_yticks(
        [-place for place in range(len(months))],
        [name_window(month.start_ms, month.start_ms + 30 * 86_400_000) for month in months],
    )
    ridges.set_xlim(0, 1)
    ridges.set_xlabel("score: the model's probability of a late arrival")
    bases = [-place for place in range(len(months))]
    mean = [month.mean_score for month in months]
    truth = [facts.outcome.get(month.start_ms, math.nan) for month in months]
    shares.hlines(
        bases,
        [min(a, b) for a, b in zip(mean, truth, strict=True)],
        [max(a, b) for a, b in zip(mean, truth, strict=True)],
        color=RULE,
        linewidth=3,
    )
    shares.plot(mean, bases, "o", color=PALETTE[0], label="mean score")
    shares.plot(truth, bases, "D", color=INK, markersize=5, label="really late")
    shares.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    shares.tick_params(axis="y", labelleft=False)
    shares.set_xlim(left=0)
    shares.set_ylim(-len(months) + 0.75, 1.25)
    shares.set_xlabel("predicted and true share")
    shares.legend(frameon=False, fontsize=8.5, loc="upper right", ncols=2, handletextpad=0.2, columnspacing=0.9)
    for axes in (ridges, shares):
        axes.tick_params(axis="y", length=0)


# -- deciles over time -----------------------------------------------------------------------------------------------


def _draw_deciles(figure: Figure, facts: Facts, names: Sequence[str]) -> None:
    grid = np.atleast_2d(np.asarray(figure.subplots(math.ceil(len(names) / 2), 2, squeeze=False), dtype=object))
    for axes, name in itertools.zip_longest(grid.flat, names):
        if name is None:
            axes.set_axis_off()
        else:
            _draw_fan(axes, name, facts)


def _draw_fan(axes: Axes, name: str, facts: Facts) -> None:
    """Draw the middle 80 % and 40 % and the median of all events, and those of the first version's training data."""
    # Where two versions share a window, the one with more of it speaks.
    events = {(row.start_ms, row.version): row.n for row in facts.reports if row.metric == name and row.test == "psi"}
    by_window: dict[tuple[int, int], tuple[int, tuple[float, ...]]] = {}
    for version, series in facts.deciles[name].items():
        for start, end, deciles in series:
            n = events.get((start, version), 0)
            if n >= by_window.get((start, end), (-1, ()))[0]:
                by_window[start, end] = (n, deciles)
    windows = sorted(by_window)
    x = [_days((start + end) / 2) for start, end in windows]
    table = np.array([by_window[window][1] for window in windows])
    axes.fill_between(x, table[:, 0], table[:, 8], color=PALETTE[0], alpha=0.14, linewidth=0)
    axes.fill_between(x, table[:, 2], table[:, 6], color=PALETTE[0], alpha=0.26, linewidth=0)
    axes.plot(x, table[:, 4], color=PALETTE[0], marker="o", markersize=3.5, linewidth=1.8)
    trained = next((facts.training_deciles.get(name, {}).get(row.version) for row in facts.versions), None)
    if trained is not None:
        for value, style in ((trained[0], ":"), (trained[4], "-"), (trained[8], ":")):
            axes.axhline(value, color=SOFT, linewidth=1, linestyle=style, zorder=1)
    axes.set_title(name, fontsize=10.5, loc="left", weight="bold", color=INK)
    _label_windows(axes, windows, size=8.5)


# -- axes ------------------------------------------------------------------------------------------------------------


def _days(time_ms: float) -> float:
    return time_ms / 86_400_000


def _label_windows(axes: Axes, windows: Sequence[tuple[int, int]], size: float = 9.5) -> None:
    """Name each window in its middle and rule a fine line at its start."""
    axes.set_xticks(
        [_days((start + end) / 2) for start, end in windows],
        [name_window(start, end) for start, end in windows],
        fontsize=size,
    )
    axes.tick_params(axis="x", length=0)
    for start, _ in windows:
        axes.axvline(_days(start), color=RULE, linewidth=0.7, zorder=0)
    if windows:
        axes.set_xlim(_days(windows[0][0]), _days(windows[-1][1]))
