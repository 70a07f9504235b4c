"""What the parts of the monitor's page are made of: its style, tables that are cards on a phone, numbers and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

NOTHING = "-"

STYLE = """
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
table.rows td { vertical-align: top; } td.text { white-space: normal; min-width: 16rem; }
td small { display: block; opacity: .65; }
td ul { margin: .2rem 0 .3rem; padding-left: 1.2rem; font-size: .9rem; opacity: .8; }
table.heat { width: auto; }
table.heat td, table.heat th { padding: .15rem .45rem; border: 1px solid var(--line); text-align: center; }
table.heat th:first-child { text-align: left; }
td.NONE { background: #2b8a3e22; } td.WARNING { background: #e6770055; } td.DRIFT { background: #c92a2a66; }
td.UNJUDGED { background: #8883; color: color-mix(in srgb, currentColor 65%, transparent); }
table.heat tr > th:first-child { position: sticky; left: 0; background: Canvas; opacity: 1; }
.error { border: 1px solid var(--bad); border-radius: .5rem; padding: .6rem .8rem; margin-top: 1rem; }
svg { display: block; }
@media (prefers-color-scheme: dark) { :root { --good: #69db7c; --warn: #ffa94d; --bad: #ff8787; } }
@media (max-width: 40rem) {
  body { padding: 1rem; }
  table.rows, table.rows tbody { display: block; }
  table.rows tr { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; }
  table.rows tr { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .75rem; margin-bottom: .6rem; }
  table.rows tr:first-child, table.rows td:empty { display: none; }
  table.rows td { border: 0; padding: 0; text-align: left; white-space: normal; overflow-wrap: anywhere; }
  table.rows td.text { flex: 1 0 100%; min-width: 0; }
  table.rows td::before { content: attr(data-title); display: block; font-size: .75rem; color: CanvasText; }
  table.rows td::before { opacity: .65; }
}
footer { margin-top: 2rem; font-size: .85rem; }
"""


def say(words: object) -> str:
    """Names of metrics stand in backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(str(words)))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Titles that begin with # are of numbers; rows are cells as HTML. On a phone each row is a card (`STYLE`)."""
    head = "".join(
        f'<th class="number">{escape(title[1:])}</th>' if title.startswith("#") else f"<th>{escape(title)}</th>"
        for title in titles
    )
    names = [escape(title.removeprefix("#"), quote=True) for title in titles]
    named = [
        [cell.replace("<td", f'<td data-title="{name}"', 1) for name, cell in zip(names, row, strict=True)]
        for row in rows
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in named)
    return f'<div class="wide"><table class="rows"><tr>{head}</tr>{body}</table></div>'


def cell(value: Any, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def number(value: Any) -> str:
    return NOTHING if value is None else f"{int(value):,}".replace(",", " ")


def decimal(value: Any) -> str:
    return NOTHING if value is None else f"{float(value):.4f}"


def time_of(value: Any) -> str:
    """A time of the API (ISO 8601, UTC) as people read it."""
    return NOTHING if not value else str(value)[:16].replace("T", " ")


def date_of(value: str) -> str:
    return value[:10] if value[11:19] in {"", "00:00:00"} else value[:16].replace("T", " ")


def span_of(start: Any, end: Any) -> str:
    return f"{date_of(str(start))} to {date_of(str(end))}" if start and end else NOTHING
