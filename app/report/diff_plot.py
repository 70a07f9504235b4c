"""Two versions on the same events, in four panels: score against score, how far apart, by month, and AUC by month."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from app.core.batches import Floats
from app.core.replay.score_diff import ALL
from app.report.plots import BAD, INK, PALETTE, SOFT, STYLE

Segments = Mapping[str, Mapping[str, float]]
_BEFORE, _AFTER = PALETTE[0], PALETTE[1]
_MOST_MONTHS = 24


def draw(
    path: Path, names: tuple[str, str], scores: tuple[Floats, Floats], segments: Segments, threshold: float
) -> None:
    """Draw into a file named .svg or .png.

    Parameters
    ----------
    scores
        Both scores of each event, in [0, 1].
    segments
        Measures of `app.core.replay.score_diff` by segment.
    """
    months = [segment for segment in segments if segment != ALL][-_MOST_MONTHS:]
    whole = segments[ALL]
    with mpl.rc_context({**STYLE, "svg.hashsalt": "diff"}):
        figure = Figure(figsize=(10, 8), layout="constrained")
        changed = f"{whole['n']:,.0f} events, {100 * whole['changed_share']:.2f} % of decisions changed"
        figure.suptitle(f"{names[0]} → {names[1]}: {changed}", color=INK, fontweight="bold")
        places = figure.subplots(2, 2)
        _draw_pairs(places[0][0], names, scores, threshold)
        _draw_apart(places[0][1], scores, whole)
        _draw_changes(places[1][0], months, segments)
        _draw_auc(places[1][1], names, months, segments)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_pairs(axes: Axes, names: tuple[str, str], scores: tuple[Floats, Floats], threshold: float) -> None:
    before, after = scores
    axes.set_title("Score against score (events, logarithmic colour)", fontsize=10, color=SOFT)
    axes.hexbin(before, after, gridsize=50, extent=(0, 1, 0, 1), bins="log", cmap="Blues", mincnt=1, linewidths=0.1)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8)
    axes.axvline(threshold, color=BAD, linewidth=0.8, linestyle=":")
    axes.axhline(threshold, color=BAD, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=names[0], ylabel=names[1])
    axes.grid(visible=False)


def _draw_apart(axes: Axes, scores: tuple[Floats, Floats], whole: Mapping[str, float]) -> None:
    apart = scores[1] - scores[0]
    axes.set_title("After − before", fontsize=10, color=SOFT)
    reach = max(float(np.abs(apart).max(initial=0.0)), 1e-6)
    axes.hist(apart, bins=np.linspace(-reach, reach, 81).tolist(), color=_AFTER, log=True)
    for name, label in (("abs_p50", "p50"), ("abs_p99", "p99")):
        for side in (-1, 1):
            axes.axvline(side * whole[name], color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f" {label}",
            (whole[name], 1),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=8,
            color=SOFT,
        )
    axes.set(xlabel="difference of the scores", ylabel="events")


def _draw_changes(axes: Axes, months: list[str], segments: Segments) -> None:
    axes.set_title("Decisions changed, % of the month's events", fontsize=10, color=SOFT)
    x = np.arange(len(months))
    raised = np.array([100 * segments[month]["raised_share"] for month in months])
    lowered = np.array([100 * segments[month]["lowered_share"] for month in months])
    axes.bar(x, raised, 0.6, color=_AFTER, label="became positive")
    axes.bar(x, -lowered, 0.6, color=_BEFORE, label="became negative")
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    _name_months(axes, months)


def _draw_auc(axes: Axes, names: tuple[str, str], months: list[str], segments: Segments) -> None:
    axes.set_title("AUC where the label is known", fontsize=10, color=SOFT)
    x = np.arange(len(months))
    for key, name, colour in (("auc_before", names[0], _BEFORE), ("auc_after", names[1], _AFTER)):
        values = [segments[month][key] for month in months]
        if any(not math.isnan(value) for value in values):
            axes.plot(x, values, color=colour, marker="o", markersize=5, label=name)
    axes.margins(y=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    else:
        axes.annotate("no labels", (0.5, 0.5), xycoords="axes fraction", ha="center", color=SOFT)
    _name_months(axes, months)


def _name_months(axes: Axes, months: list[str]) -> None:
    axes.set_xticks(np.arange(len(months)), months, rotation=45 if len(months) > 4 else 0, ha="center", fontsize=8)
    axes.set_xlim(-0.6, len(months) - 0.4)
