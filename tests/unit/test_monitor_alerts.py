"""Who writes no alert rules hears of a model that has become worse, and of nothing else: one in a hundred is positive.

The labels of a window come some windows after it, and then all of them, few of them, or of one kind alone.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.core.counts.buffer import SketchBuffer
from app.core.counts.calendar import Window
from app.core.monitoring.core import MonitorCore
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.alerts import read_alerts
from schemas.pipeline.detectors import default_detector
from schemas.pipeline.drift import DEFAULT_TESTS, default_test
from schemas.pipeline.spec import (
    Drift,
    Events,
    FalseAlarms,
    Labels,
    Limits,
    Model,
    Performance,
    Pipeline,
    Shared,
)
from schemas.pipeline.toml_table import TomlTable
from schemas.wire import Alert, ErrorRun, SketchRecord

WINDOW_MS, SLICE_MS, DELAY, END_MS = 1_000, 100, 3, 10**9
N = 6_000
#: When the reference's labels came: as many in a window as later on.
TRAINING = Window(0, 100_000 // N * WINDOW_MS)
DRIFT = Drift(
    window=str(WINDOW_MS),
    slice_ms=SLICE_MS,
    grace_ms=0,
    bins=16,
    tests=tuple(map(default_test, DEFAULT_TESTS)),
    false_alarms=FalseAlarms(1, per_ms=100 * WINDOW_MS),
    detectors=(default_detector("cusum"),),
)


PERFORMANCE = Performance(maturity_ms=DELAY * WINDOW_MS)


def make_pipeline(alerts: str = "") -> Pipeline:
    rules = read_alerts(
        TomlTable("payments.toml", "", tomllib.loads(alerts)),
        DRIFT,
        PERFORMANCE,
        with_labels=True,
        watches_entities=True,
    )
    return Pipeline(
        name="payments",
        path=Path("payments.toml"),
        partitions=1,
        delivery="exactly_once",
        commit_interval_ms=100,
        publish_features=True,
        source=None,
        events=Events("card", "id", "at", (), 0, END_MS, 0),
        labels=Labels(50 * WINDOW_MS, 0),
        shared=Shared(1_000, 30_000),
        lookups=(),
        features=(),
        model=Model("fraud", threshold=0.1),
        drift=DRIFT,
        performance=PERFORMANCE,
        alerts=rules,
        limits=Limits(10, 0.5, 100),
        digest="",
    )


class Payments:
    """Events whose score is how often they come true; turned, of the opposite score."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def draw(self, n: int, *, is_turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
        scores = self.generator.beta(0.5, 49.5, n)
        rate = np.sort(scores)[::-1][np.argsort(np.argsort(scores))] if is_turned else scores
        return scores, (self.generator.random(n) < rate).astype(float)


@functools.cache
def reference() -> Reference:
    scores, labels = Payments(1).draw(100_000)
    return fit_reference(TrainingEvents(scores[:, None] * 100, scores, labels), [numeric("amount")], 16, 0.1)


Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Monitored:
    """A monitor of one version whose windows close one by one, and whose labels come ``DELAY`` windows later."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self.core = MonitorCore(pipeline)
        self.core.register_version("1.2.0", reference(), {}, TRAINING)
        self.payments = Payments(seed)
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.said: list[tuple[int, Alert]] = []
        self.number = 0

    def follow(self, n: int, *, is_turned: bool = False, choose: Choose | None = None, size: int = N) -> None:
        """``choose``: the labels that come at all, by labels and a generator's numbers; None: all."""
        for _ in range(n):
            scores, labels = self.payments.draw(size, is_turned=is_turned)
            times = np.sort(self.payments.generator.integers(0, WINDOW_MS, size)) + self.number * WINDOW_MS
            comes = np.ones(size, bool) if choose is None else choose(labels, self.payments.generator.random(size))
            self.waiting.append((times[comes], scores[comes], labels[comes]))
            self._observe((times, scores))

    def _observe(self, scored: tuple[np.ndarray, np.ndarray] | None) -> None:
        self.number += 1
        buffer, runs = SketchBuffer("fraud", SLICE_MS), []
        if scored is not None:
            buffer.add_scored("1.2.0", reference(), scored[0], scored[1][:, None] * 100, scored[1])
        if len(self.waiting) > DELAY or scored is None:
            times, scores, labels = self.waiting.pop(0)
            buffer.add_labelled("1.2.0", reference(), times, scores, labels)
            wrong = ((scores >= 0.1) != (labels == 1)).astype("u1").tobytes()
            runs.append(ErrorRun("1.2.0", (times + DELAY * WINDOW_MS).astype("<i8").tobytes(), wrong))
        now_ms = self.number * WINDOW_MS
        self.core.observe(SketchRecord(0, now_ms, now_ms, buffer.drain(), runs))
        self.said += [(self.number - 1, alert) for alert in self.core.collect(now_ms=now_ms).alerts]

    def finish(self) -> None:
        """All labels come."""
        while self.waiting:
            self._observe(None)

    def states(self, *rules: str) -> list[tuple[str, int]]:
        """What was said of rules, with the window that it is of."""
        return [
            (alert.state, (alert.window_start_ms or 0) // WINDOW_MS)
            for _, alert in self.said
            if not rules or not {alert.rule, *alert.others}.isdisjoint(rules)
        ]


def only(kind: float) -> Choose:
    return lambda labels, _: labels == kind


def share(of: float) -> Choose:
    return lambda _, numbers: numbers < of


def three_positives(labels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """All negatives, and three of the positives."""
    return (labels == 0) | (np.cumsum(labels) <= 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_quiet_windows_raise_nothing(seed: int) -> None:
    monitored = Monitored(make_pipeline(), seed)
    monitored.follow(20)
    monitored.finish()
    assert monitored.said == []


@pytest.mark.slow
def test_windows_whose_scores_mean_the_opposite_are_told_once_with_both_numbers_and_cleared_when_that_is_over() -> None:
    monitored = Monitored(make_pipeline(), 4)
    monitored.follow(4)
    monitored.follow(5, is_turned=True)
    monitored.follow(4)
    monitored.finish()
    assert monitored.states("worse-than-promised") == [("raised", 4), ("cleared", 10)]
    when, raised = next(each for each in monitored.said if each[1].rule == "worse-than-promised")
    assert when == 4 + DELAY  # as soon as its labels are here
    assert raised.others == ["concept-drift"]
    assert raised.value is not None
    assert raised.value < 0.3
    assert f"auc of fraud 1.2.0 is {raised.value:.4g} (" in raised.message
    promised = float(raised.message.split("where its scores promise ")[1].split(" ")[0])
    assert promised > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choose", "size"),
    [
        (share(0.0), N),  # all labels are late
        (share(0.01), N),
        (share(0.03), N),
        (only(0.0), N),
        (only(1.0), N),
        (three_positives, N),
        (None, 199),
        (None, 300),
    ],
    ids=["none", "one in a hundred", "three in a hundred", "negatives", "positives", "three positives", "199", "300"],
)
def test_windows_of_too_few_labels_neither_raise_nor_clear(choose: Choose | None, size: int) -> None:
    """After windows that were surely worse, which goes on; and before any."""
    worse = Monitored(make_pipeline(), 5)
    worse.follow(2)
    worse.follow(3, is_turned=True)
    worse.follow(6, is_turned=True, choose=choose, size=size)
    worse.finish()
    assert worse.states("worse-than-promised", "concept-drift") == [("raised", 2)]
    quiet = Monitored(make_pipeline(), 6)
    quiet.follow(8, choose=choose, size=size)
    quiet.finish()
    assert quiet.states("worse-than-promised", "concept-drift") == []
    # Of the positives alone most decisions are wrong, and among the labels that come that is new: the detector says so.
    is_new = choose is not None and not choose(np.zeros(9), np.ones(9)).any() and choose(np.ones(9), np.ones(9)).all()
    assert (quiet.states("errors-changed") != []) == is_new


CONCEPT = '[[alerts]]\nname = "concept"\non = "verdict"\nkinds = ["concept_drift"]\nclears_after = 1\n'


@pytest.mark.slow
def test_a_verdict_before_its_labels_are_here_does_not_clear_what_only_labels_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores that mean the opposite, of which half are positive; the windows after those have no labels yet."""
    monkeypatch.setattr(f"{__name__}.reference", functools.cache(common_reference))
    monitored = Monitored(make_pipeline(CONCEPT), 7)
    monitored.payments.draw = functools.partial(draw_common, monitored.payments)  # type: ignore[method-assign]
    monitored.follow(2)
    monitored.follow(1, is_turned=True)
    monitored.follow(3)
    assert monitored.states("concept") == [("raised", 2)]
    monitored.finish()
    assert monitored.states("concept") == [("raised", 2), ("cleared", 3)]


def draw_common(payments: Payments, n: int, *, is_turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """As many positives as negatives."""
    scores = payments.generator.random(n)
    return scores, (payments.generator.random(n) < (1 - scores if is_turned else scores)).astype(float)


def common_reference() -> Reference:
    scores, labels = draw_common(Payments(1), 20_000)
    return fit_reference(TrainingEvents(scores[:, None] * 100, scores, labels), [numeric("amount")], 16, 0.1)


@pytest.mark.slow
def test_rules_that_are_written_later_judge_what_the_checkpoint_keeps() -> None:
    monitored = Monitored(make_pipeline("alerts = []"), 8)
    monitored.follow(2)
    monitored.follow(3, is_turned=True)
    monitored.finish()
    assert monitored.said == []
    for since, raised in (("", [2]), ("since = 1970-01-01T00:00:03Z", [3]), ("since = 1970-01-01T00:00:05Z", [])):
        rules = f'[[alerts]]\nname = "low"\non = "performance"\nmeasure = "auc"\nbelow = 0.6\n{since}'
        other = MonitorCore(make_pipeline(rules))
        other.restore(monitored.core.snapshot())
        alerts = other.collect(now_ms=9).alerts
        assert [(alert.state, (alert.window_start_ms or 0) // WINDOW_MS) for alert in alerts] == [
            ("raised", number) for number in raised
        ]
        again = MonitorCore(make_pipeline(rules))
        again.restore(other.snapshot())
        assert again.snapshot() == other.snapshot()
        assert again.collect(now_ms=10).alerts == []
