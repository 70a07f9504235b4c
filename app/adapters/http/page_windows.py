"""The tables of the monitor's page on windows: verdicts, performance, drift, wrong decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

from app.adapters.http.page_html import NOTHING, cell, date_of, decimal, number, say, span_of, table, time_of
from app.adapters.http.tables import Row
from app.core.faults.fault import percent

#: The measures of performance that the page shows, in this order; those that are said in percent.
_MEASURES = ("auc", "positives", "precision", "recall", "cost", "log_loss", "accuracy")
_SHARES = frozenset({"positives", "precision", "recall", "accuracy"})
_SCALE = "95 % range, 0 to 1"
#: When the share of positives, or of negatives, is below this, an accuracy says nothing.
_RARE = 0.1
#: Besides the signals: a cell that no test could judge.
_UNJUDGED = "UNJUDGED"


def verdicts(found: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    rows = [
        [
            cell(span_of(str(row["window_start"]), str(row["window_end"]))),
            cell(str(row["version"])),
            cell(str(row["kind"]).replace("_", " ")),
            f'<td class="text">{say(row["headline"])}{_explanation(row)}</td>',
            f'<td class="text"><b>{escape(str(row["advice"]).replace("_", " "))}</b>: {say(row["reason"])}</td>',
        ]
        for row in found
    ]
    return table(["window", "version", "verdict", "what", "what to do"], rows)


def _explanation(row: Row) -> str:
    words = [str(sentence) for sentence in row["words"] if str(sentence) not in str(row["headline"])]
    lines = [f"<li>{say(sentence)}</li>" for sentence in dict.fromkeys(words)]
    if row["segments"]:
        lines.append(f"<li>Above all in {escape(', '.join(map(str, row['segments'][:5])))}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def performance(found: Sequence[Row], labels: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    windows: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in found:
        key = (str(row["window_start"]), str(row["window_end"]), str(row["version"]))
        windows.setdefault(key, {})[str(row["measure"])] = row
    measures = _shown(windows.values())
    rows = []
    for (start, end, version), values in windows.items():
        cells = [cell(span_of(start, end)), cell(version)]
        for measure in measures:
            value = values.get(measure)
            cells.append(f'<td class="number">{_figure(value, measure)}</td>')
            if measure == "auc":
                cells.append(f"<td>{_interval(value)}</td>")
        cells.append(cell(number(next(iter(values.values()))["n_labels"]), "number"))
        rows.append(cells)
    titles = ["window", "version"]
    for measure in measures:
        titles += [f"#{measure.replace('_', ' ')}", *([_SCALE] if measure == "auc" else [])]
    newest = [date_of(str(row["newest"])) if row["newest"] else "" for row in labels]
    until = [f" Labels have come until {time}." for time in newest if time]
    if labels and not any(row["n_labels"] for row in found):
        until = until or [" No label has come yet."]
    note = (
        "Below each value: its 95 % range, and what the scores of the labelled events promise. ≈: estimated from the"
        " scores, as labels are not mature; with the range that it will be in if scores mean what they did."
        + "".join(until)
    )
    return f'{table([*titles, "#labels"], rows)}<p class="quiet">{note}</p>'


def worse_segments(found: Sequence[Row]) -> str:
    rows = [
        [
            cell(row["segment"]),
            cell(span_of(row["window_start"], row["window_end"])),
            cell(row["version"]),
            cell(decimal(row["realised"]), "number"),
            f"<td>{_interval(row)}</td>",
            cell(decimal(row["expected"]), "number"),
            cell(number(row["n_labels"]), "number"),
        ]
        for row in found
    ]
    return table(["segment", "window", "version", "#auc", _SCALE, "#promised", "#labels"], rows)


def _shown(windows: Collection[Mapping[str, Row]]) -> list[str]:
    """The measures that there are, as far as they say something.

    Where nearly all events are of one kind, always saying so has that accuracy, too.
    """
    known = {measure for values in windows for measure, row in values.items() if _value(row) is not None}
    rates = [value for values in windows if (value := _value(values.get("positives"))) is not None]
    is_rare = all(min(each, 1 - each) < _RARE for each in rates) and bool(rates)
    return [each for each in _MEASURES if each in known and not (each == "accuracy" and is_rare)]


def _value(row: Row | None) -> float | None:
    """What came true, or what the scores lead one to expect as long as labels are missing."""
    if row is None:
        return None
    measured = row["realised"] if row["realised"] is not None else row["estimated"]
    return None if measured is None else float(measured)


def _figure(row: Row | None, measure: str) -> str:
    value = _value(row)
    if row is None or value is None:
        return NOTHING
    say_it = percent if measure in _SHARES else decimal
    is_known = row["realised"] is not None
    low, high = (row["low"], row["high"]) if is_known else (row["estimated_low"], row["estimated_high"])
    beside = [] if low is None or high is None else [f"{say_it(float(low))} to {say_it(float(high))}"]
    beside += [f"promised {say_it(float(row['expected']))}"] if is_known and row["expected"] is not None else []
    return f"{'' if is_known else '≈ '}{say_it(value)}" + "".join(f"<small>{line}</small>" for line in beside)


def _interval(row: Row | None) -> str:
    """A bar from low to high with a mark at the value, on a scale from 0 to 1, and a fine line in its middle."""
    if row is None or row["realised"] is None:
        return ""
    value, low, high = (
        float(row[name] if row[name] is not None else row["realised"]) for name in ("realised", "low", "high")
    )
    x, left, width = 2 + 136 * value, 2 + 136 * low, max(136 * (high - low), 1)
    return (
        '<svg width="140" height="12"><rect x="2" y="5" width="136" height="2" fill="currentColor" opacity=".15"/>'
        '<rect x="69.5" y="2" width="1" height="8" fill="currentColor" opacity=".3"/>'
        f'<rect x="{left:.1f}" y="3" width="{width:.1f}" height="6" fill="currentColor" opacity=".35"/>'
        f'<rect x="{x - 1:.1f}" y="1" width="2" height="10" fill="currentColor"/></svg>'
    )


def drift(found: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    starts = sorted({str(row["window_start"]) for row in found})
    by_metric: dict[str, dict[str, Row]] = {}
    for row in found:
        by_metric.setdefault(str(row["metric"]), {})[str(row["window_start"])] = row
    are_months = all(start[7:16] == "-01T00:00" for start in starts)
    names = {start: start[:7] if are_months else date_of(start) for start in starts}
    head = "".join(f"<th>{escape(name)}</th>" for name in names.values())
    lines = [f"<tr><th>metric (PSI)</th>{head}</tr>"]
    for metric, cells in sorted(by_metric.items(), key=lambda item: (item[0] in {"score", "outcome"}, item[0])):
        line = "".join(_heat(cells.get(start)) for start in starts)
        lines.append(f"<tr><th>{escape(metric)}</th>{line}</tr>")
    note = (
        '<p class="quiet">Colour: the strongest signal of all tests. Grey with a question mark: not judged, which says'
        " neither that it has moved nor that it has not.</p>"
    )
    remarks = "".join(f"<li>{remark}</li>" for remark in _remarks(by_metric, names))
    return f'<div class="wide"><table class="heat">{"".join(lines)}</table></div>{note}' + (
        f'<ul class="quiet">{remarks}</ul>' if remarks else ""
    )


def _remarks(by_metric: Mapping[str, Mapping[str, Row]], names: Mapping[str, str]) -> list[str]:
    """What the newest windows' cells say when they are pointed at, which is impossible on a phone."""
    drifting, unjudged = [], dict[tuple[str, str], list[str]]()
    for metric, cells in sorted(by_metric.items()):
        newest = max(cells)
        row, code = cells[newest], f"<code>{escape(metric)}</code>"
        if "DRIFT" in row["signals"]:
            drifting.append(f"{code} drifts in {names[newest]} by {escape(str(row['tests']))}")
        elif _signal(row) == _UNJUDGED:
            unjudged.setdefault((newest, str(row["note"])), []).append(code)
    return drifting + [
        f"{', '.join(codes)}, not judged in {names[newest]}: {escape(why)}" for (newest, why), codes in unjudged.items()
    ]


def _signal(row: Row) -> str:
    """The strongest signal; for what no test could judge, `_UNJUDGED`."""
    strongest = next((signal for signal in ("DRIFT", "WARNING") if signal in row["signals"]), "NONE")
    return strongest if strongest != "NONE" or row["is_judged"] else _UNJUDGED


def _heat(row: Row | None) -> str:
    if row is None:
        return "<td></td>"
    signal = _signal(row)
    psi = "" if row["psi"] is None else f"{float(row['psi']):.2f}"
    title = f"{signal} {row['tests']}".strip()
    if signal == _UNJUDGED:
        title, psi = f"not judged: {row['note']}", f"{psi} ?".strip()
    return f'<td class="{signal}" title="{escape(title, quote=True)}">{psi}</td>'


def detections(found: Sequence[Row]) -> str:
    rows = [
        [
            cell(time_of(row["window_start"])),
            cell(time_of(row["window_end"])),
            cell(row["version"]),
            cell(row["test"]),
            cell("more" if row["signal"] == "DRIFT" else "fewer", "bad" if row["signal"] == "DRIFT" else "good"),
            f'<td class="text">{escape(str(row["note"]))}</td>',
        ]
        for row in found
    ]
    return table(["since (UTC)", "noticed with labels of", "version", "detector", "wrong", "what"], rows)
