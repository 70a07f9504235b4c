"""P9 in the pure flow: dead letters cannot hide a wrong deploy, not even from a supervisor that starts it for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from chaos_report import Row, record
from core_setting import MINUTE_MS, START_MS, Setting, batch, build, event, label

from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.scoring import ChampionTimeline
from app.flow.step import Step
from app.pipeline import PartitionPipeline
from schemas.pipeline.spec import Limits
from schemas.wire import DeadLetter

CONSECUTIVE, SHARE, OF_LAST = 200, 0.5, 1_000
NOW_MS = START_MS + 1000 * MINUTE_MS


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return build(tmp_path_factory.mktemp("limits"), Limits(CONSECUTIVE, SHARE, OF_LAST))


@dataclass
class Supervised:
    """A worker that commits each step, and is started again whenever it stops."""

    setting: Setting
    events: list[bytes | None]
    labels: list[bytes | None] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    scored: int = 0
    stops: int = 0
    changelog: dict[bytes, bytes | None] = field(default_factory=dict)
    position: list[int] = field(default_factory=lambda: [0, 0])

    def live(self, cut: int, most_steps: int) -> None:
        """One life: until it is through, stops, or is killed after so many steps."""
        flow = PartitionPipeline(self.setting.pipeline, self.setting.plan, 0)
        flow.restore(list(self.changelog.items()))
        models = ChampionTimeline([self.setting.version(1, None)])
        logs = (
            (0, "cards.events", self.events, flow.receive_events),
            (1, "cards.labels", self.labels, lambda records: flow.receive_labels(records, NOW_MS)),
        )
        steps = 0
        try:
            for place, topic, log, receive in logs:
                for start in range(self.position[place], len(log), cut):
                    part = log[start : start + cut]
                    receive(batch(topic, part, [NOW_MS] * len(part), first=start))
                    flow.merge.let_go(flow.merge.events_received)
                    while (step := flow.step(models, 5000, NOW_MS)) is not None:
                        self._commit(flow, step)
                        steps += 1
                        if steps == most_steps:
                            return
            if (step := flow.finish(NOW_MS)) is not None:
                self._commit(flow, step)
        except TooManyDeadLettersError:
            self.stops += 1

    def _commit(self, flow: PartitionPipeline, step: Step) -> None:
        self.letters += step.dead_letters
        self.scored += len(step.events)
        self.changelog.update(flow.drain_state())
        at = flow.position()
        self.position = [at.events or self.position[0], at.labels or self.position[1]]


def bad(_: int) -> bytes:
    return b'{"schema": 2}'


def half_bad(number: int) -> bytes:
    return bad(number) if number % 5 < 3 else event(number, START_MS + number)


CASES: dict[str, tuple[Callable[[int], bytes], int]] = {
    "100 % bad": (bad, CONSECUTIVE - 1),
    "60 % bad": (half_bad, int(SHARE * OF_LAST)),
}


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize(("cut", "most_steps"), [(1, 7), (10, 1), (10, 3), (64, 2), (5000, 99)])
def test_a_restart_loop_lets_no_more_dead_letters_through_than_one_run(
    setting: Setting, what: str, cut: int, most_steps: int
) -> None:
    make, most = CASES[what]
    worker = Supervised(setting, [make(number) for number in range(3_000)])
    lives = 0
    while worker.stops < 20:
        worker.live(cut, most_steps)
        lives += 1
        assert lives < 2_000
    row = record(
        Row(
            "P9",
            f"{what}, started again {lives} times",
            load=f"batches of {cut}, killed after {most_steps} steps",
            events=len(worker.events),
            faults=lives,
            passed=len(worker.letters) <= most,
            note=f"{len(worker.letters)} dead letters committed, {most} allowed",
        )
    )
    assert row.passed, row.note
    assert worker.stops == 20


def test_labels_have_a_limit_of_their_own(setting: Setting) -> None:
    events: list[bytes | None] = [event(number, START_MS + number) for number in range(300)]
    worker = Supervised(setting, events, [b'{"label": "fraud"}'] * 300)
    for _ in range(5):
        worker.live(10, 10**9)
    assert worker.stops == 5
    assert worker.scored == 300
    assert len(worker.letters) < CONSECUTIVE
    fine = Supervised(setting, events, [b"{" if n % 3 else label(f"e{n}", START_MS + n) for n in range(300)])
    fine.live(10, 10**9)
    assert (fine.stops, len(fine.letters)) == (0, 200)


def test_a_mended_pipeline_file_starts_with_a_clean_slate(setting: Setting) -> None:
    events = [bad(number) for number in range(250)] + [event(number, START_MS + number) for number in range(50)]
    worker = Supervised(setting, list(events))
    worker.live(10, 10**9)
    assert (worker.stops, worker.position[0]) == (1, 190)
    worker.live(10, 10**9)
    assert (worker.stops, worker.position[0]) == (2, 190)
    raised = replace(setting.pipeline, limits=Limits(1_000, SHARE, OF_LAST), digest="another")
    worker.setting = replace(setting, pipeline=raised)
    worker.live(10, 10**9)
    assert (worker.stops, worker.scored, len(worker.letters)) == (2, 50, 250)
