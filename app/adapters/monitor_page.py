"""The monitor's page for people: one HTML document, no scripts, that loads itself again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from app.adapters.monitor_tables import Row, Tables
from app.adapters.worker_http import Health

REFRESH_S = 10
NOTHING = "-"
_UNREAD = '<p class="quiet">The tables of alerts, windows and versions have not been read yet.</p>'

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2b8a3e; --warn: #e67700; --bad: #c92a2a; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 76rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.quiet { opacity: .65; } .good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem; margin-top: 1rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
.card b { display: block; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; font-size: .85rem; opacity: .75; } td.number, th.number { text-align: right; }
td.text { white-space: normal; min-width: 16rem; }
td ul { margin: .2rem 0 .3rem; padding-left: 1.2rem; font-size: .9rem; opacity: .8; }
table.heat { width: auto; }
table.heat td, table.heat th { padding: .15rem .45rem; border: 1px solid var(--line); text-align: center; }
table.heat th:first-child { text-align: left; }
td.NONE { background: #2b8a3e22; } td.WARNING { background: #e6770055; } td.DRIFT { background: #c92a2a66; }
.error { border: 1px solid var(--bad); border-radius: .5rem; padding: .6rem .8rem; margin-top: 1rem; }
svg { display: block; } footer { margin-top: 2rem; font-size: .85rem; }
"""


@dataclass
class Page:
    """What is shown."""

    pipeline: str
    status: Row
    lag: Row
    health: Health
    tables: Tables
    #: When they were looked at; None: not yet.
    looked_at: datetime | None
    error: str = ""


def render(page: Page) -> str:
    """The document."""
    name = escape(page.pipeline)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="refresh" content="{REFRESH_S}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: streamgauge</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{name}</h1>{_health(page)}</header>",
        *(
            f'<p class="error">{escape(text)}</p>'
            for text in dict.fromkeys([page.error, page.status.get("warehouse_error", "")])
            if text
        ),
        _cards(page),
        *_input_checks(page.status),
        *_refused(page.status.get("refused_records") or {}),
        *(_sections(page.tables) if page.looked_at is not None else (_UNREAD,)),
        _footer(page.looked_at),
        "</body></html>",
    ]
    return "\n".join(parts)


def _sections(tables: Tables) -> Iterator[str]:
    yield "<h2>Alerts that are open</h2>"
    yield _open_alerts(tables.open_alerts)
    if tables.other_alerts:
        yield "<h2>Alerts before</h2>"
        yield _other_alerts(tables.other_alerts)
    yield "<h2>What has happened</h2>"
    yield _verdicts(tables.verdicts)
    yield "<h2>Performance by window</h2>"
    yield _performance(tables.performance)
    yield "<h2>Drift by window</h2>"
    yield _drift(tables.drift)
    if tables.detections:
        yield "<h2>Wrong decisions</h2>"
        yield _detections(tables.detections)
    yield "<h2>Model versions</h2>"
    yield _models(tables.models)


def _footer(looked_at: datetime | None) -> str:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    seen = f"tables as of {looked_at:%H:%M:%S}" if looked_at is not None else "the tables have not been read yet"
    links = " · ".join(f'<a href="{path}">{path}</a>' for path in ("/api/v1/status", "/api/v1/lag", "/metrics"))
    return f'<footer class="quiet">{now} · {seen} · loads itself again every {REFRESH_S} s · {links}</footer>'


def _health(page: Page) -> str:
    kind = "good" if page.health.ready else "warn" if page.health.live else "bad"
    words = f"{page.status.get('state', '')}{': ' + page.health.why if page.health.why else ''}"
    return f'<span class="{kind}">● {escape(words)}</span>'


def _cards(page: Page) -> str:
    n_workers = page.status.get("workers")
    workers = sum(each["lag"] for each in page.lag.get("worker", []))
    own = sum(each["lag"] for each in page.lag.get("monitor", []))
    cards = [
        ("scored", _number(page.tables.counts.get("scored"))),
        ("dead letters", _number(page.tables.counts.get("dead_letters"))),
        *(
            [("router behind", _number(sum(each["lag"] for each in page.lag["router"])))]
            if "router" in page.lag
            else []
        ),
        ("workers", '<span class="bad">none</span>' if n_workers == 0 else _number(n_workers)),
        ("workers behind", _number(workers)),
        ("monitor behind", _number(own)),
        ("watermark", _date(str(page.status.get("watermark") or NOTHING))),
        ("windows open", _number(page.status.get("windows_open"))),
        ("windows closed", _number(page.tables.counts.get("windows_closed"))),
    ]
    inner = "".join(
        f'<div class="card"><span class="quiet">{label}</span><b>{value}</b></div>' for label, value in cards
    )
    return f'<div class="cards">{inner}</div>'


def _input_checks(status: Row) -> list[str]:
    """Lines on labels and entities: what is wrong stands out."""
    lines = []
    labels, entities = status.get("labels"), status.get("entities")
    if labels and labels["applied"]:
        words = f"{_number(labels['without_event'])} of {_number(labels['applied'])} labels found no event"
        if labels["without_event"]:
            names = (("other_partition", "in another partition"), ("too_late", "too late"), ("unknown", "unknown"))
            kinds = ", ".join(f"{_number(labels[name])} {what}" for name, what in names if labels[name])
            words += f" ({labels['share']:.1%}): {kinds}"
        lines.append((words, "warn" if labels["without_event"] else "quiet"))
        delays = "; ".join(each["words"] for each in labels["delays"].values())
        lines.append((delays[:1].upper() + delays[1:], "quiet"))
        lines += [(sentence.removesuffix("."), "warn") for sentence in labels["maturity_too_short"]]
    if entities and entities["in_several_partitions"]:
        many = _number(entities["in_several_partitions"])
        examples = "; ".join(map(str, entities["examples"][:3]))
        words = f"{many} of {_number(entities['seen'])} entities are in several partitions, so their windows are wrong"
        lines.append((f"{words}: {examples}", "bad"))
    return [f'<p class="{kind}">{escape(words)}.</p>' for words, kind in lines]


def _refused(topics: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each topic that others have written to."""
    lines = []
    for topic, reasons in sorted(topics.items()):
        n, words = sum(reasons.values()), "record is none" if sum(reasons.values()) == 1 else "records are none"
        kinds = ", ".join(f"{_number(count)} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"On {topic}, {_number(n)} {words} of ours and passed over: {kinds}")
    return [f'<p class="warn">{escape(words)}.</p>' for words in lines]


def _open_alerts(alerts: Sequence[Row]) -> str:
    if not alerts:
        return '<p class="quiet">None.</p>'
    kinds = {"critical": "bad", "warning": "warn"}
    rows = [
        [
            _cell(row["severity"], kinds.get(str(row["severity"]), "")),
            _cell(row["state"], "good" if row["state"] == "acknowledged" else ""),
            f"<td>{'<br>'.join(escape(str(name)) for name in [row['rule'], *row['others']])}</td>",
            _cell(_date(str(row["since"] or row["window_start"]))),
            f'<td class="text">{escape(str(row["message"]))}{_asks(row)}{_answer(row)}</td>',
            _cell(row["owner"] or NOTHING),
            f"<td>{_runbook(str(row['runbook']))}</td>",
            f"<td><code>{escape(str(row['alert_id']))}</code></td>",
        ]
        for row in alerts
    ]
    note = '<p class="quiet">Take one on: <code>streamgauge alerts ack ID --by NAME --why TEXT</code>.</p>'
    return _table(["severity", "state", "rule", "since", "what", "for", "runbook", "id"], rows) + note


def _answer(row: Row) -> str:
    """Who has taken it on, when, and in which words."""
    if not row["who"]:
        return ""
    words = escape(f"{row['who']}, {_time(row['at'])}: {row['why']}")
    return f'<br><span class="quiet">{words}</span>'


def _asks(row: Row) -> str:
    return f" <b>Asks for: {escape(str(row['action']))}.</b>" if row["action"] else ""


def _runbook(link: str) -> str:
    if not link.startswith(("http://", "https://")):
        return NOTHING
    return f'<a href="{escape(link, quote=True)}" rel="noopener noreferrer">open</a>'


def _other_alerts(alerts: Sequence[Row]) -> str:
    rows = [
        [
            _cell(row["state"], "good" if row["state"] == "cleared" else "quiet"),
            _cell(row["rule"]),
            _cell(_span(row["window_start"], row["window_end"])),
            f'<td class="text">{escape(str(row["message"]))}{_reason(row)}</td>',
            _cell(row["who"] or NOTHING),
            _cell(_time(row["at"])),
        ]
        for row in alerts
    ]
    return _table(["state", "rule", "window", "what", "taken on by", "at (UTC)"], rows)


def _reason(row: Row) -> str:
    return f' <span class="quiet">({escape(str(row["why"]))})</span>' if row["why"] else ""


def _verdicts(found: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    rows = [
        [
            _cell(_span(str(row["window_start"]), str(row["window_end"]))),
            _cell(str(row["version"])),
            _cell(str(row["kind"]).replace("_", " ")),
            f'<td class="text">{_say(row["headline"])}{_explanation(row)}</td>',
            f'<td class="text"><b>{escape(str(row["advice"]).replace("_", " "))}</b>: {_say(row["reason"])}</td>',
        ]
        for row in found
    ]
    return _table(["window", "version", "verdict", "what", "what to do"], rows)


def _explanation(row: Row) -> str:
    words = [str(each) for each in row["words"] if str(each) not in str(row["headline"])]
    lines = [f"<li>{_say(each)}</li>" for each in dict.fromkeys(words)]
    if row["segments"]:
        lines.append(f"<li>Most of it in {escape(', '.join(map(str, row['segments'][:5])))}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _say(words: object) -> str:
    """Names of metrics stand in backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(str(words)))


def _realised(row: Row | None) -> str:
    """What came true, or what the scores let expect as long as labels are missing."""
    if row is None or row["realised"] is not None or row["estimated"] is None:
        return _decimal(row["realised"] if row else None)
    return f"≈ {_decimal(row['estimated'])}"


def _performance(found: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    measures = sorted({str(row["measure"]) for row in found}, key=lambda name: (name != "auc", name))
    windows: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in found:
        key = (str(row["window_start"]), str(row["window_end"]), str(row["version"]))
        windows.setdefault(key, {})[str(row["measure"])] = row
    rows = []
    for (start, end, version), values in windows.items():
        cells = [_cell(_span(start, end)), _cell(version)]
        for measure in measures:
            value = values.get(measure)
            cells.append(_cell(_realised(value), "number"))
            if measure == "auc":
                cells.append(f"<td>{_interval(value)}</td>")
        cells.append(_cell(_number(next(iter(values.values()))["n_labels"]), "number"))
        rows.append(cells)
    titles = ["window", "version"]
    for measure in measures:
        titles += [f"#{measure}", "95 % interval, 0 to 1"] if measure == "auc" else [f"#{measure}"]
    return _table([*titles, "#labels"], rows)


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


def _drift(found: Sequence[Row]) -> str:
    if not found:
        return '<p class="quiet">No window has closed yet.</p>'
    starts = sorted({str(row["window_start"]) for row in found})
    table: dict[str, dict[str, Row]] = {}
    for row in found:
        table.setdefault(str(row["metric"]), {})[str(row["window_start"])] = row
    are_months = all(start[7:16] == "-01T00:00" for start in starts)
    head = "".join(f"<th>{escape(start[:7] if are_months else _date(start))}</th>" for start in starts)
    lines = [f"<tr><th>metric (PSI)</th>{head}</tr>"]
    for metric, cells in sorted(table.items(), key=lambda item: (item[0] in {"score", "outcome"}, item[0])):
        line = "".join(_heat(cells.get(start)) for start in starts)
        lines.append(f"<tr><th>{escape(metric)}</th>{line}</tr>")
    note = '<p class="quiet">Colour: the strongest signal of all tests. Point at a cell to see which ones drift.</p>'
    return f'<div class="wide"><table class="heat">{"".join(lines)}</table></div>{note}'


def _heat(row: Row | None) -> str:
    if row is None:
        return "<td></td>"
    signals = set(row["signals"])
    signal = next((each for each in ("DRIFT", "WARNING") if each in signals), "NONE")
    title = f"{signal} {row['tests']}".strip()
    psi = "" if row["psi"] is None else f"{float(row['psi']):.2f}"
    return f'<td class="{signal}" title="{escape(title, quote=True)}">{psi}</td>'


def _detections(found: Sequence[Row]) -> str:
    rows = [
        [
            _cell(_time(row["window_start"])),
            _cell(_time(row["window_end"])),
            _cell(row["version"]),
            _cell(row["test"]),
            _cell("more" if row["signal"] == "DRIFT" else "fewer", "bad" if row["signal"] == "DRIFT" else "good"),
            f'<td class="text">{escape(str(row["note"]))}</td>',
        ]
        for row in found
    ]
    return _table(["since (UTC)", "noticed with labels of", "version", "detector", "wrong", "what"], rows)


def _models(models: Sequence[Row]) -> str:
    if not models:
        return '<p class="quiet">None announced; train one with <code>streamgauge model train</code>.</p>'
    rows = [
        [
            _cell(row["version"]),
            _cell(row["role"]),
            _cell(_time(row["valid_from"]) if row["valid_from"] else "at once"),
            _cell(_span(row["trained_from"], row["trained_to"]) if row["trained_from"] else NOTHING),
            _cell(_decimal(row["auc"]), "number"),
            f'<td class="text">{escape(str(row["why"]))}</td>',
        ]
        for row in models
    ]
    return _table(["version", "role", "valid from", "trained on", "#auc in training", "why"], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Titles that begin with # are of numbers; rows are cells as HTML."""
    head = "".join(
        f'<th class="number">{escape(title[1:])}</th>' if title.startswith("#") else f"<th>{escape(title)}</th>"
        for title in titles
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _number(value: Any) -> str:
    return NOTHING if value is None else f"{int(value):,}".replace(",", " ")


def _decimal(value: Any) -> str:
    return NOTHING if value is None else f"{float(value):.4f}"


def _time(value: Any) -> str:
    """A time of the API (ISO 8601, UTC) as people read it."""
    return NOTHING if not value else str(value)[:16].replace("T", " ")


def _date(value: str) -> str:
    return value[:10] if value[11:19] in {"", "00:00:00"} else value[:16].replace("T", " ")


def _span(start: Any, end: Any) -> str:
    return f"{_date(str(start))} to {_date(str(end))}" if start and end else NOTHING
