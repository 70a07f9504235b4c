"""Commands that take long say how far they have come, on a terminal and off it."""

from __future__ import annotations

import re
import time

import pytest

from app.cli import data_commands
from app.cli.data_commands import Counter


def test_off_a_terminal_a_line_every_few_seconds_says_how_far_it_is_even_while_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data_commands, "LINE_EVERY_S", 0.02)
    with Counter("Comparing", 20_000) as counter:
        counter.add(1_500, "2026-08-01")
        deadline = time.monotonic() + 10
        err = ""
        while err.count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
            err += capfd.readouterr().err
    lines = err.splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r"  Comparing: 1,500 of 20,000, 2026-08-01 \(\d+ s\)", line) for line in lines), lines
    time.sleep(0.1)
    assert capfd.readouterr().err.count("\n") <= 1  # the thread has ended


def test_what_ends_soon_says_nothing_off_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Counter("Comparing") as counter:
        counter.add(3)
    assert capfd.readouterr().err == ""
