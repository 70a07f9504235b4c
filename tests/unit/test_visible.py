"""Nothing that data holds reaches a terminal as a command, or a spreadsheet as a formula."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.sources.csv_cells import plain_cell, plain_cells
from app.adapters.stack.log_limit import OneLine
from app.visible import GuardedText, behind_guard, visible

ROOT = Path(__file__).parents[2]
EVIL = "a\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b1A\r\x08\x00b\u202ec\u2028d"


@given(st.text())
def test_only_tabs_and_line_feeds_get_through(text: str) -> None:
    shown = visible(text)
    assert not [sign for sign in shown if unicodedata.category(sign) == "Cc" and sign not in "\t\n"]
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_stays_the_json_that_it_was(text: str) -> None:
    for is_ascii in (True, False):
        assert json.loads(visible(json.dumps(text, ensure_ascii=is_ascii))) == text


def test_a_guarded_stream_makes_all_visible_and_what_is_behind_it_draws() -> None:
    written = io.BytesIO()
    guarded = GuardedText(io.TextIOWrapper(written, "utf-8"))
    print(EVIL, "\ud800", file=guarded)  # as any code does
    behind_guard(guarded).write("\x1b[1m")
    guarded.write("é\n")
    assert written.getvalue() == (visible(EVIL) + " \\ud800\n\x1b[1mé\n").encode()


PROGRAM = """
import logging, sys
from app.visible import guard_output
guard_output()
from app.cli.narration import Narrator
from app.cli.query import _print_table
from app.cli.model_context import emit
from app.adapters.stack.log_limit import start_logging
import click
evil = sys.argv[1].encode().decode("unicode_escape")
start_logging("INFO")
Narrator().say(evil)
_print_table({"columns": [evil], "types": ["String"], "rows": [[evil], [{"a": evil}], [[evil]]]})
emit({"a": evil}, True)
emit({}, False, evil)
logging.getLogger("x").error("%s", evil)
click.echo(evil, err=True)
click.ClickException(evil).show()
raise ValueError(evil)
"""


@pytest.mark.slow
def test_no_way_of_printing_lets_data_command_a_terminal() -> None:
    """On a real one, where colours are drawn."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "300", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", PROGRAM, EVIL.encode("unicode_escape").decode()]
    with subprocess.Popen(arguments, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while part := _read(leader):
            shown += part
        process.wait()
    os.close(leader)
    text = shown.decode(errors="surrogateescape")
    assert text.count("a\\u001b]52") >= 9, text
    assert b"\x1b]52" not in shown
    assert b"\x1b[2J" not in shown
    assert not set("\x07\x9b\x08\x00\u202e\u2028") & set(text)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_message_of_the_log_is_one_line() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, "bad %s", ("a\n2026-01-01 ERROR forged\x1b[2J",), None)
    assert OneLine("%(levelname)s %(message)s").format(record) == "ERROR bad a\\n2026-01-01 ERROR forged\\u001b[2J"


@pytest.mark.slow
def test_nothing_is_printed_past_the_guard() -> None:
    """Bytes would be: `click.echo` writes them to the buffer below."""
    found = []
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout.buffer", "sys.stderr.buffer"}:
                found.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.echo" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Call) and ast.unparse(first.func).endswith("json.encode"):
                    found.append(f"{path}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("-", "'-"),
        ("-5", "-5"),
        ("+1.5e3", "+1.5e3"),
        ("-.5", "-.5"),
        ("plain", "plain"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_formula_is_a_text_and_a_number_a_number(text: str, cell: str) -> None:
    assert plain_cell(text) == cell
    table = pa.table({"text": [text, None], "number": [-1.5, None]})
    assert plain_cells(table).to_pydict() == {"text": [cell, None], "number": [-1.5, None]}
    assert plain_cells(table.to_batches()[0]).to_pydict() == {"text": [cell, None], "number": [-1.5, None]}


@given(st.lists(st.text(), min_size=1))
def test_no_cell_begins_like_a_formula(texts: list[str]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerow([plain_cell(text) for text in texts])
    for cell in next(csv.reader(io.StringIO(out.getvalue(), newline="")), []):
        assert not cell.lstrip().startswith(("=", "@"))
        if cell.lstrip().startswith(("+", "-")):
            float(cell)
