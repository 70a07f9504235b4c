"""Writes the generated tables of README.md: commands, settings, metrics, ClickHouse tables.

Each stands between two marks, ``<!-- NAME: begin … -->`` and ``<!-- NAME: end -->``, and is made from the data that the
program itself uses. ``--check`` writes nothing and exits 1 when a table is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from app.adapters import monitor_http, worker_http
from app.cli import COMMANDS
from app.settings import SETTINGS
from schemas.tables import TABLES, VIEWS

README = Path(__file__).resolve().parents[1] / "README.md"


def _make_table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def make_tables() -> dict[str, str]:
    """Mark -> Markdown table."""
    return {
        "commands": _make_table(("command", "what it does"), [(f"`{name}`", text) for name, text in COMMANDS.items()]),
        "settings": _make_table(
            ("variable", "default", "what it means"),
            [(f"`{each.name}`", f"`{each.default}`" if each.default else "", each.help) for each in SETTINGS],
        ),
        "metrics": _make_table(
            ("metric", "kind", "what it means"),
            [(f"`{each.name}`", each.kind, each.help) for each in (*worker_http.METRICS, *monitor_http.METRICS)],
        ),
        "tables": _make_table(
            ("table or view", "what it holds"),
            [(f"`{name}`", table.help) for name, table in TABLES.items()]
            + [(f"`{name}`", view.help) for name, view in VIEWS.items()],
        ),
    }


def fill_in(text: str) -> str:
    """``text`` with each generated table as it should be.

    Raises
    ------
    ValueError
        When a table has no place in the text.
    """
    for mark, table in make_tables().items():
        place = re.compile(rf"(<!-- {mark}: begin\b[^>]*-->\n).*?(<!-- {mark}: end -->)", re.DOTALL)
        # Backslashes in a replacement string are escapes.
        text, count = place.subn(r"\g<1>" + table.replace("\\", r"\\") + r"\n\g<2>", text)
        if count != 1:
            raise ValueError(
                f"README.md has {count} places for the table {mark!r}; put one pair of lines "
                f"'<!-- {mark}: begin -->' and '<!-- {mark}: end -->' where it should stand."
            )
    return text


def main() -> int:
    """Write README.md, or with ``--check`` only say whether it is stale."""
    text = README.read_text(encoding="utf-8")
    filled = fill_in(text)
    if filled == text:
        return 0
    if sys.argv[1:] == ["--check"]:
        print("README.md has a stale table; run make docs and commit the change.")
        return 1
    README.write_text(filled, encoding="utf-8")
    print("README.md: tables written anew.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
