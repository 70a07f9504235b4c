"""The page: the story in words, the numbers, the plots with what they mean, and how it was run."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from app.report.facts import Facts, Version, name_day, name_window

if TYPE_CHECKING:
    from schemas.pipeline.spec import Pipeline

_BAD, _WARN, _SOFT = "#b3261e", "#c77700", "#66727f"
_SEVERITIES = {"critical": _BAD, "warning": _WARN, "info": _SOFT}


class MissingPlotsError(RuntimeError):
    """The library that draws is not installed."""


def require_plots() -> None:
    """Raise `MissingPlotsError` when nothing can be drawn; to be called before the work whose report it is."""
    # Found, not imported: it takes 60 MB, which the stream can do without.
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPlotsError("The report needs matplotlib: pip install 'streamgauge[demo,embedded]'.")


def write_report(folder: Path, facts: Facts, summary: Mapping[str, Any], pipeline: Pipeline) -> Path:
    """Write ``index.html``; returns its path.

    Parameters
    ----------
    summary
        What the demo wrote to ``summary.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(render(facts, summary, pipeline), encoding="utf-8")
    return path


def render(facts: Facts, summary: Mapping[str, Any], pipeline: Pipeline) -> str:
    """Render the page. Equal input gives equal text."""
    from app.report.plots import draw_all, version_colours  # noqa: PLC0415  # see require_plots

    plots = draw_all(facts, pipeline.model.threshold)
    colours = version_colours(facts)
    sections = [
        _section("How well did it predict?", _AUC_WORDS, plots.get("auc"), _AUC_CAPTION, _auc_table(facts)),
        _section("What happened, in order", "", None, "", _timeline(facts, summary, colours)),
        _section("Which inputs moved?", _HEAT_WORDS, plots.get("heat"), _HEAT_CAPTION),
        _section("What did the model say, month by month?", _SCORE_WORDS, plots.get("scores"), _SCORE_CAPTION),
        _section("How the most moved inputs moved", _DECILE_WORDS, plots.get("deciles"), _DECILE_CAPTION),
        _section("Is every event accounted for?", _LEDGER_WORDS, None, "", _ledger(summary)),
        _section("How it was run", "", None, "", _how(summary)),
    ]
    text = resources.files("app.report").joinpath("template.html").read_text(encoding="utf-8")
    return Template(text).substitute(
        title=escape(_title(facts, pipeline)),
        story=_story(facts, summary),
        cards="\n".join(_card(*card) for card in _cards(summary)),
        sections="\n".join(section for section in sections if section),
    )


# -- words that stand beside the plots -------------------------------------------------------------------------------

_AUC_WORDS = """
Pick one event that came true and one that did not: the <b>AUC</b> is how often the model had given the first the higher
score. 0.5 is a coin flip, 1 never errs. It is <b>realised</b>: computed from the true outcomes, which became known
hours after the score.
"""
_AUC_CAPTION = """
One line a model version, one point a window; the band is the range within which chance alone would move the value
(95 %). A dashed line is the moment, in event time, at which the next version took over. A month that two versions
shared has a point for each, on its own part of the events.
"""
_HEAT_WORDS = """
Each number says how differently a feature is distributed in that month than in the months its model version was trained
on (the population stability index, PSI): 0 is the same, from about 0.1 it is worth a look, from 0.2 it is a clear
change. Weather and seasons must move; whether the model suffers from it is what the AUC above answers.
"""
_HEAT_CAPTION = """
● drift signal, ○ warning: a signal needs a change that is large <i>and</i> cannot be chance. Sorted by the largest
value. Below a column stands the version whose training data it is compared to, so a new version starts a new
comparison. What is empty was not compared: two versions shared the month, or the feature was still filling.
"""
_SCORE_WORDS = """
Left, how many events got which score. Right, the mean score beside the share of events that really came true: the
nearer the two, the more a score can be read as a probability.
"""
_SCORE_CAPTION = "Each hill is one month and has the same area."
_DECILE_WORDS = """
If all events of a month are lined up by a feature's value, the line is the middle one, the dark band holds the middle
40 %, the light band the middle 80 %.
"""
_DECILE_CAPTION = """
Grey lines: middle (solid) and 80 % range (dotted) in the months that the first version was trained on.
"""
_LEDGER_WORDS = """
Every event of the input topic must have exactly one outcome: a score, or a dead letter (an event that cannot be scored,
kept with the reason). The ledger compares, one by one, where each event was read with the outcomes on the topics and in
ClickHouse.
"""
_RUN_WORDS = """
Each row is an unbroken run of one version in one partition of the stream; a swap is where one row ends and the next
begins, with no event between.
"""
_HOW_WORDS = """
One process tree on one machine: Apache Kafka 4.1, one scoring worker, one monitor with ClickHouse's engine in it, and
short-lived training processes.
"""
_ASK = 'streamgauge query "SELECT metric, decile, value FROM model_metadata LIMIT 20"'


# -- pieces ----------------------------------------------------------------------------------------------------------


class _Point(NamedTuple):
    """One entry of the time line; ``order`` breaks ties of equal time."""

    at_ms: int
    order: int
    colour: str
    tag: str
    words: str


def _section(title: str, words: str, plot: str | None, caption: str, more: str = "") -> str:
    """Write a section; nothing at all when there is nothing to show in it."""
    if plot is None and not more:
        return ""
    text = f"<p>{words}</p>" if words else ""
    figure = f"<figure>{plot}<figcaption>{caption}</figcaption></figure>" if plot else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{text}\n{figure}\n{more}\n</section>"


def _title(facts: Facts, pipeline: Pipeline) -> str:
    target = pipeline.model.target or pipeline.model.name
    if not facts.versions:
        return f"Will it come true: {target}?"
    first, last = min(row.first_ms for row in facts.versions), max(row.last_ms for row in facts.versions)
    return f"{pipeline.name}: “{target}”, {name_day(first)} to {name_day(last)}"


def _story(facts: Facts, summary: Mapping[str, Any]) -> str:
    """Tell what happened in a few sentences, from the numbers."""
    said = [f"{summary['events']:,} real events were streamed through Kafka and scored one by one as they came."]
    windows = [row for row in facts.performance if not math.isnan(row.realised)]
    if windows and facts.versions:
        old = [row for row in windows if row.version == facts.versions[0].version]
        first = facts.versions[0]
        trained = f", trained on {_training(first)}," if first.trained_from_ms is not None else ""
        if old:
            where = name_window(old[0].start_ms, old[0].end_ms)
            said.append(
                f"Version {escape(first.version)}{trained} began with an AUC of {old[0].realised:.2f} in {where}."
            )
        worst = min(old, key=lambda row: row.realised, default=None)
        if worst is not None and worst is not old[0]:
            said.append(f"By {name_window(worst.start_ms, worst.end_ms)} it had fallen to {worst.realised:.2f}.")
    raised = [row for row in facts.alerts if row.state == "raised"]
    if raised:
        said.append(f"The monitor raised {_count(len(raised), 'alert')}.")
    swaps = summary["swaps"]
    if swaps:
        *others, last = [escape(row.version) for row in facts.versions[1:]]
        names = f"{', '.join(others)} and {last}" if others else last
        said.append(
            f"{_count(swaps, 'retrained version').capitalize()} ({names}) took over in mid-stream, "
            "without the stream stopping."
        )
    if summary["balanced"]:
        said.append("Nothing was lost and nothing was scored twice.")
    else:
        said.append('<b style="color:#b3261e">The ledger does not balance: see below.</b>')
    return " ".join(said)


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    speed = summary["events_per_second_unthrottled"] or summary["events_per_second"]
    clean = "good" if not (summary["lost"] or summary["doubled"]) else "bad"
    return [
        (f"{summary['events']:,}", "events", ""),
        (f"{speed:,.0f}", "events a second" + (", where not held back" if summary["retrains"] else ""), ""),
        (f"{summary['lost']} / {summary['doubled']}", "lost / scored twice", clean),
        (f"{summary['swaps']}", "model swaps in mid-stream", ""),
        (f"{summary['alerts']}", "alerts raised", ""),
        (f"{summary['drift_reports']:,}", "drift reports", ""),
        (f"{summary['seconds']:,.0f} s", "from start to end", ""),
        (f"{summary['peak_rss_mb'] / 1000:.1f} GB", "memory at most, all processes", ""),
    ]


def _card(number: str, words: str, kind: str) -> str:
    return f'<div class="card {kind}"><b>{escape(number)}</b><span>{escape(words)}</span></div>'


def _auc_table(facts: Facts) -> str:
    """Give the plot's numbers, for who cannot see it or wants them exactly."""
    rows = [row for row in facts.performance if not math.isnan(row.realised)]
    if not rows:
        return ""
    lines = [
        [
            name_window(row.start_ms, row.end_ms),
            row.version,
            f"{row.realised:.4f}",
            _range(row.low, row.high),
            f"{row.n_labels:,}",
        ]
        for row in rows
    ]
    table = _table(["window", "version", "AUC", "95 % range", "outcomes known"], lines)
    return f"<details><summary>The numbers</summary>{table}</details>"


def _timeline(facts: Facts, summary: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    points: list[_Point] = []
    for place, row in enumerate(facts.versions):
        trained = f" It was trained on {_training(row)}." if row.trained_from_ms is not None else ""
        auc = (
            ""
            if math.isnan(row.training_auc)
            else f" On the newest fifth of those it had an AUC of {row.training_auc:.3f}."
        )
        what = "starts scoring" if place == 0 else f"takes over from {facts.versions[place - 1].version} in mid-stream"
        words = f"Version {row.version} {what}; it scored {row.n:,} events."
        points.append(_Point(row.first_ms, 2, colours[row.version], row.version, escape(words + trained + auc)))
    for step in facts.alerts:
        at = step.end_ms or step.at_ms
        colour = _SEVERITIES.get(step.severity, _SOFT) if step.state == "raised" else _SOFT
        if step.state == "cleared":
            colour = "#1f7a55"
        action = " It asks for a new version." if step.action == "retrain" and step.state == "raised" else ""
        points.append(_Point(at, 1, colour, f"{step.rule} {step.state}", escape(_sentence(step.message) + action)))
    for retrain in summary["retrains"]:
        span = f"{name_day(retrain['from_ms'])} to {name_day(retrain['to_ms'] - 1)}"
        words = f"Version {retrain['version']} is being trained on {span}; it is ready and loaded after "
        words += (
            f"{retrain['seconds']:.0f} s, in which the stream goes on, held to {retrain['held_to']:,} events/s or less."
        )
        points.append(_Point(retrain["started_ms"], 1, _SOFT, "training", escape(words)))
    if not points:
        return ""
    items = "\n".join(
        f'<li style="--dot:{point.colour}"><time>{name_day(point.at_ms)}</time>'
        f'<span class="tag">{escape(point.tag)}</span>{point.words}</li>'
        for point in sorted(points)
    )
    held = summary.get("held_events_per_second")
    note = ""
    if held and summary["swaps"]:
        note = (
            '<p class="soft">Times are event time: when the flights left, not when this ran. '
            f"While a new version was being trained, the stream was held to at most {held:,} events a second: at full "
            "speed the rest of the year would have been over before the training was. Nor did it run more than a week "
            "ahead of the monitor's verdict on a month.</p>"
        )
    return f'{note}<ol class="line">{items}</ol>'


def _ledger(summary: Mapping[str, Any]) -> str:
    accounts = summary["ledger"]["accounts"]
    head = ["where", "events", "scored", "dead letters", "lost", "doubled", "unknown", "balances"]
    lines = [
        [
            row["where"],
            *(f"{row[key]:,}" for key in ("events", "scored", "dead_letters", "lost", "doubled", "unknown")),
            "yes" if row["balanced"] else "NO",
        ]
        for row in accounts
    ]
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in summary["ledger"]["faults"])
    problems = f'<ul style="color:{_BAD}">{faults}</ul>' if faults else ""
    agree = "" if faults else "<p>Topics and ClickHouse agree on score and version of every event, to the last bit.</p>"
    runs = [
        [str(run["partition"]), run["version"], f"{run['first_offset']:,}", f"{run['last_offset']:,}", f"{run['n']:,}"]
        for run in summary["ledger"]["runs"]
    ]
    words = f"<p>{_RUN_WORDS}</p>"
    table = _table(["partition", "version", "first offset", "last offset", "scored"], runs)
    details = f"<details><summary>Which version scored which offsets</summary>{words}{table}</details>"
    return f"{problems}{_table(head, lines)}<p></p>{agree}{details}"


def _how(summary: Mapping[str, Any]) -> str:
    phases = summary["phase_seconds"]
    words = {
        "start": "start Kafka, monitor and worker",
        "train": "train, register and release version 1.0.0 (beside the start)",
        "stream": "stream the events, retrain and swap in between",
        "drain": "wait until everything is scored, reported and stored",
        "ledger": "read everything back and compare",
    }
    lines = [[words.get(name, name), f"{seconds:.1f} s"] for name, seconds in phases.items()]
    lines += [
        [f"train version {row['version']} (in mid-stream)", f"{row['seconds']:.1f} s"] for row in summary["retrains"]
    ]
    free = summary.get("events_per_second_unthrottled")
    speed = f" Where the stream was not held back: {free:,.0f} events a second." if free else ""
    rows = ", ".join(f"{name} {count:,}" for name, count in summary["clickhouse_tables"].items())
    memory = ", ".join(f"{name} {size:,.0f} MB" for name, size in summary["peak_rss_mb_by_process"].items())
    return f"""<p>{_HOW_WORDS} {summary["processors"]} processors were visible.{speed}</p>
{_table(["phase", "time"], lines)}
<p class="soft after">Rows in ClickHouse: {escape(rows)}.</p>
<p class="soft">Memory when it was most: {escape(memory)}.</p>
<p class="soft">Made by <code>{escape(summary["command"])}</code>. The numbers of this page are in
<code>summary.json</code> beside it; everything else was read by SQL. With <code>--keep</code> the
stack stays up and you can ask it yourself:</p>
<pre><code>{escape(_ASK, quote=False)}</code></pre>"""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _training(row: Version) -> str:
    if row.trained_from_ms is None or row.trained_to_ms is None:
        return "unknown data"
    return f"{name_day(row.trained_from_ms)} to {name_day(row.trained_to_ms - 1)}"


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _count(n: int, what: str) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six")
    return f"{words[n] if n < len(words) else n} {what}{'' if n == 1 else 's'}"
