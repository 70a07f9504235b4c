from __future__ import annotations

import pytest

from app.worker import pace
from app.worker.pace import CommitTimer


@pytest.mark.parametrize(("requested_at", "due_at"), [(10.0, 10.5), (10.5, 12.5), (11.0, 12.5), (12.25, 12.5)])
def test_a_partition_commits_at_its_turn_within_an_interval(
    monkeypatch: pytest.MonkeyPatch, requested_at: float, due_at: float
) -> None:
    now = [requested_at]
    monkeypatch.setattr(pace, "clock_s", lambda: now[0])
    begun: list[float] = []
    timer = CommitTimer(2.0, 0.25, lambda: begun.append(now[0]))
    assert (timer.is_requested, timer.is_due(), timer.left_s()) == (False, False, None)
    timer.request()
    timer.request()
    assert (timer.is_requested, timer.is_due(), timer.left_s()) == (True, False, due_at - requested_at)
    assert begun == [requested_at]
    now[0] = due_at
    assert (timer.is_due(), timer.left_s()) == (True, 0.0)


def test_what_is_requested_during_a_commit_has_its_transaction_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "clock_s", lambda: 10.0)
    begun: list[str] = []
    timer = CommitTimer(0.0, 0.5, lambda: begun.append("transaction"))
    timer.request()
    assert timer.is_due()  # without an interval, at once
    timer.cut()
    timer.committed()
    assert begun == ["transaction"]
    timer.request()
    timer.cut()
    timer.request()
    timer.committed()
    assert begun == ["transaction"] * 4
