"""The monitor's page for people: one HTML document, no scripts, that loads itself again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from app.adapters.http.page_html import NOTHING, STYLE, cell, date_of, decimal, number, say, span_of, table, time_of
from app.adapters.http.page_windows import detections, drift, performance, verdicts, worse_segments
from app.adapters.http.tables import Row, Tables
from app.adapters.http.worker import Health
from app.clock import utc_now

REFRESH_S = 10
_UNREAD = '<p class="quiet">The tables of alerts, windows and versions have not been read yet.</p>'


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
        f"<title>{name}: streamgauge</title><style>{STYLE}</style></head><body>",
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
    yield _open_alerts(tables.open_alerts, tables.newest)
    if tables.other_alerts:
        yield "<h2>Alerts before</h2>"
        yield _other_alerts(tables.other_alerts)
    yield "<h2>What has happened</h2>"
    yield verdicts(tables.verdicts)
    yield "<h2>Performance by window</h2>"
    yield performance(tables.performance, tables.labels)
    if tables.worse_segments:
        yield "<h2>Segments that do worse than promised</h2>"
        yield worse_segments(tables.worse_segments)
    yield "<h2>Drift by window</h2>"
    yield drift(tables.drift)
    if tables.detections:
        yield "<h2>Wrong decisions</h2>"
        yield detections(tables.detections)
    yield "<h2>Model versions</h2>"
    yield _models(tables.models)


def _footer(looked_at: datetime | None) -> str:
    now = f"{utc_now():%Y-%m-%d %H:%M:%S} UTC"
    seen = f"tables as of {looked_at:%H:%M:%S}" if looked_at is not None else "the tables have not been read yet"
    links = " · ".join(f'<a href="{path}">{path}</a>' for path in ("/api/v1/status", "/api/v1/lag", "/metrics"))
    return f'<footer class="quiet">{now} · {seen} · loads itself again every {REFRESH_S} s · {links}</footer>'


def _health(page: Page) -> str:
    kind = "good" if page.health.ready else "warn" if page.health.live else "bad"
    words = f"{page.status.get('state', '')}{': ' + page.health.why if page.health.why else ''}"
    return f'<span class="{kind}">● {escape(words)}</span>'


def _cards(page: Page) -> str:
    n_workers = page.status.get("workers")
    workers = sum(position["lag"] for position in page.lag.get("worker", []))
    own = sum(position["lag"] for position in page.lag.get("monitor", []))
    cards = [
        ("scored", number(page.tables.counts.get("scored"))),
        ("dead letters", number(page.tables.counts.get("dead_letters"))),
        *(
            [("router behind", number(sum(position["lag"] for position in page.lag["router"])))]
            if "router" in page.lag
            else []
        ),
        ("workers", '<span class="bad">none</span>' if n_workers == 0 else number(n_workers)),
        ("workers behind", number(workers)),
        ("monitor behind", number(own)),
        ("watermark", date_of(str(page.status.get("watermark") or NOTHING))),
        ("windows open", number(page.status.get("windows_open"))),
        ("windows closed", number(page.tables.counts.get("windows_closed"))),
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
        words = f"{number(labels['without_event'])} of {number(labels['applied'])} labels found no event"
        if labels["without_event"]:
            names = (("other_partition", "in another partition"), ("too_late", "too late"), ("unknown", "unknown"))
            kinds = ", ".join(f"{number(labels[name])} {what}" for name, what in names if labels[name])
            words += f" ({labels['share']:.1%}): {kinds}"
        lines.append((words, "warn" if labels["without_event"] else "quiet"))
        delays = "; ".join(delay["words"] for delay in labels["delays"].values())
        lines.append((delays[:1].upper() + delays[1:], "quiet"))
        lines += [(sentence.removesuffix("."), "warn") for sentence in labels["maturity_too_short"]]
    if entities and entities["in_several_partitions"]:
        many = number(entities["in_several_partitions"])
        examples = "; ".join(map(str, entities["examples"][:3]))
        words = f"{many} of {number(entities['seen'])} entities are in several partitions, so their windows are wrong"
        lines.append((f"{words}: {examples}", "bad"))
    return [f'<p class="{kind}">{escape(words)}.</p>' for words, kind in lines]


def _refused(topics: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each topic that others have written to."""
    lines = []
    for topic, reasons in sorted(topics.items()):
        n, words = sum(reasons.values()), "record is none" if sum(reasons.values()) == 1 else "records are none"
        kinds = ", ".join(f"{number(count)} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"On {topic}, {number(n)} {words} of ours and passed over: {kinds}")
    return [f'<p class="warn">{escape(words)}.</p>' for words in lines]


def _open_alerts(alerts: Sequence[Row], newest: Sequence[Row]) -> str:
    if not alerts:
        return '<p class="quiet">None.</p>'
    kinds = {"critical": "bad", "warning": "warn"}
    rows = [
        [
            cell(row["severity"], kinds.get(str(row["severity"]), "")),
            cell(row["state"], "good" if row["state"] == "acknowledged" else ""),
            f"<td>{'<br>'.join(escape(str(name)) for name in [row['rule'], *row['others']])}</td>",
            cell(date_of(str(row["since"] or row["window_start"]))),
            f'<td class="text">{_standing(row, newest)}</td>',
            cell(row["owner"] or NOTHING),
            f"<td>{_runbook(str(row['runbook']))}</td>",
            f"<td><code>{escape(str(row['alert_id']))}</code></td>",
        ]
        for row in alerts
    ]
    note = '<p class="quiet">Take one on: <code>streamgauge alerts ack ID --by NAME --why TEXT</code>.</p>'
    return table(["severity", "state", "rule", "since", "what", "for", "runbook", "id"], rows) + note


def _standing(alert: Row, newest: Sequence[Row]) -> str:
    """What was found first, how it is by now, and who has taken it on."""
    about = [row for row in newest if (row["version"], row["measure"]) == (alert["version"], alert["measure"])]
    about.sort(key=lambda row: str(row["window_start"]), reverse=True)
    told = [row for place, row in enumerate(about) if row["with_labels"] or place == 0]
    now = "".join(_now(row) for row in told if str(row["window_start"]) > str(alert["window_start"]))
    return f"{escape(str(alert['message']))}{_asks(alert)}{now}{_answer(alert)}"


def _now(row: Row) -> str:
    """How it is by now, which may be far worse than what raised an alert."""
    name = "Newest window with labels" if row["with_labels"] else "Newest window"
    start = f"{name}, {span_of(row['window_start'], row['window_end'])}"
    if row["realised"] is None:
        words = f"{start}: {say(row['headline'])}"
    else:
        ends = [f" ({decimal(row['low'])} to {decimal(row['high'])})"] if row["low"] is not None else []
        due = [f", promised {decimal(row['expected'])}"] if row["expected"] is not None else []
        value = "".join([decimal(row["realised"]), *ends, *due])
        words = f"{start}: {escape(str(row['measure']).replace('_', ' '))} {value}."
    advice = f" <b>{say(str(row['advice']).replace('_', ' '))}</b>: {say(row['reason'])}" if row["advice"] else ""
    return f"<br><span>{words}{advice}</span>"


def _answer(row: Row) -> str:
    """Who has taken it on, when, and in which words."""
    if not row["who"]:
        return ""
    words = escape(f"{row['who']}, {time_of(row['at'])}: {row['why']}")
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
            cell(row["state"], "good" if row["state"] == "cleared" else "quiet"),
            cell(row["rule"]),
            cell(span_of(row["window_start"], row["window_end"])),
            f'<td class="text">{_course(row)}{_reason(row)}</td>',
            cell(row["who"] or NOTHING),
            cell(time_of(row["at"])),
        ]
        for row in alerts
    ]
    return table(["state", "rule", "window", "what", "taken on by", "at (UTC)"], rows)


def _course(row: Row) -> str:
    """What it was, and why it is over."""
    message, opening = str(row["message"]), str(row["opening"] or "")
    if opening in {"", message}:
        return escape(message)
    return f'{escape(opening)}<br><span class="quiet">{escape(message)}</span>'


def _reason(row: Row) -> str:
    return f' <span class="quiet">({escape(str(row["why"]))})</span>' if row["why"] else ""


def _models(models: Sequence[Row]) -> str:
    if not models:
        return '<p class="quiet">None announced; train one with <code>streamgauge model train</code>.</p>'
    rows = [
        [
            cell(row["version"]),
            cell(row["role"]),
            cell(time_of(row["valid_from"]) if row["valid_from"] else "at once"),
            cell(span_of(row["trained_from"], row["trained_to"]) if row["trained_from"] else NOTHING),
            cell(decimal(row["auc"]), "number"),
            f'<td class="text">{escape(str(row["why"]))}</td>',
        ]
        for row in models
    ]
    return table(["version", "role", "valid from", "trained on", "#auc in training", "why"], rows)
