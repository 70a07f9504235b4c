"""The course of a demo: start, train, stream, drain, ledger, report."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.adapters.http.client import MonitorClient, MonitorError
from app.demo.course import Course, DemoError, Progress, Sent
from app.demo.lag_watch import LagWatch
from app.demo.memory import PeakMemory
from app.demo.stream import Streamer
from app.demo.summary import count_rows, summarise
from app.demo.training import ModelCommand, TrainingFailedError, format_day
from app.ledger import draw_up, read_topics, read_warehouse
from app.report import read_facts, write_report
from app.supervisor import Stack
from schemas.pipeline.spec import Pipeline

#: 2013, UTC: the first version learns from January and February, the rest is streamed.
TRAIN_FROM_MS = 1_356_998_400_000
STREAM_FROM_MS = 1_362_096_000_000
STREAM_TO_MS = 1_388_534_400_000

READY_DEADLINE_S = 120.0
DRAIN_DEADLINE_S = 180.0
#: After so long without any progress, draining will not end by itself.
STALL_S = 45.0
POLL_S = 0.25


@dataclass(frozen=True)
class DemoOptions:
    """What a user may choose.

    Parameters
    ----------
    limit
        Events at most, from March on; None: all of March to December.
    retrain_at
        Retrain once so many events are sent, whatever the monitor says; for short demos.
    """

    report: Path
    limit: int | None = None
    retrain_at: int | None = None
    family: str = "hgb"
    most_retrains: int = 3
    command: str = "streamgauge demo"


class Demo:
    """One demo on a stack that is not started yet.

    Parameters
    ----------
    say
        Is told what a person should know, in sentences.
    show
        Is told how far the stream is, a few times a second.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stack: Stack,
        options: DemoOptions,
        *,
        say: Callable[[str], None],
        show: Callable[[Progress], None],
    ) -> None:
        self._pipeline = pipeline
        self._stack = stack
        self._options = options
        self._say = say
        self._show = show
        self._phases: dict[str, float] = {}
        self._log_folder = stack.settings.home / "logs"

    def run(self) -> dict[str, Any]:
        """Run it on the stack, which is left running; returns the summary and writes it, and the report.

        Raises
        ------
        DemoError, StackError
            When it cannot go on.
        """
        began = time.monotonic()
        with PeakMemory() as memory:
            try:
                self._start_and_train()
                monitor = MonitorClient(lambda: self._stack.addresses().get("monitor"))
                sent = self._stream(monitor)
                with self._phase("drain"):
                    asyncio.run(self._drain(monitor, sent))
                with self._phase("ledger"):
                    events, on_topics = asyncio.run(read_topics(self._stack.kafka, self._pipeline.topics))
                    in_warehouse = read_warehouse(monitor.query, self._pipeline.topics)
                    promoted = ["1.0.0", *(retrain.version for retrain in sent.retrains)]
                    ledger = draw_up(events, on_topics, in_warehouse, promoted)
                facts = read_facts(monitor.query, self._pipeline.name)
                tables = count_rows(monitor.query, self._pipeline.name)
            except (TrainingFailedError, MonitorError) as error:
                raise DemoError(str(error)) from error
        summary = summarise(
            ledger,
            facts,
            sent,
            tables,
            self._phases,
            seconds=time.monotonic() - began,
            memory=memory,
            command=self._options.command,
        )
        folder = self._options.report
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        write_report(folder, facts, summary, self._pipeline)
        return summary

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._phases[name] = time.monotonic() - began

    def _command(self, *arguments: str) -> ModelCommand:
        log_path = self._log_folder / "training.log"
        return ModelCommand(list(arguments), str(self._pipeline.path), self._stack.settings, log_path)

    def _start_and_train(self) -> None:
        """Start the stack and train the first version beside it: neither needs the other until it is promoted."""
        spans = "--from", format_day(TRAIN_FROM_MS), "--to", format_day(STREAM_FROM_MS)
        self._say("Starting Kafka, a monitor and a worker; training version 1.0.0 on January and February beside it.")
        training = self._command("train", "--family", self._options.family, *spans, "--version", "1.0.0")
        try:
            with self._phase("start"):
                self._stack.start()
                self._stack.wait_ready(READY_DEADLINE_S)
            trained = training.wait()
        finally:
            training.stop()
        promotion = self._command("promote", "1.0.0", "--why", "the first version")
        try:
            promotion.wait()
        finally:
            promotion.stop()
        self._phases["train"] = training.seconds + promotion.seconds
        auc = trained["metrics"].get("auc")
        said = "" if auc is None else f" (AUC {auc:.3f} on the newest fifth, unseen)"
        self._say(f"Version 1.0.0 is trained{said} and promoted after {self._phases['train']:.1f} s.")

    def _stream(self, monitor: MonitorClient) -> Sent:
        options = self._options
        course = Course(
            from_ms=STREAM_FROM_MS,
            to_ms=STREAM_TO_MS,
            limit=options.limit,
            family=options.family,
            retrain_at=options.retrain_at,
            most_retrains=options.most_retrains,
            expected_training_s=self._phases["train"],
        )
        streamer = Streamer(
            self._pipeline,
            self._stack.settings,
            monitor,
            course,
            self._log_folder,
            say=self._say,
            show=self._show,
        )
        with self._phase("stream"):
            return asyncio.run(streamer.run("1.0.0"))

    async def _drain(self, monitor: MonitorClient, sent: Sent) -> None:
        """Wait until the worker has read everything and the monitor has reported and stored it."""
        began = last_change = time.monotonic()
        before: tuple[int, ...] = ()
        async with LagWatch(self._pipeline, self._stack.kafka) as watch:
            while True:
                await watch.look()
                left = await asyncio.to_thread(self._measure, monitor, sent, watch)
                if not any(left):
                    return
                if left != before:
                    before, last_change = left, time.monotonic()
                waited_s = time.monotonic() - began
                if waited_s > DRAIN_DEADLINE_S or time.monotonic() - last_change > STALL_S:
                    raise DemoError(
                        f"After {waited_s:.0f} s of draining {self._describe(left)}:"
                        f" see the logs in {self._log_folder}."
                    )
                self._show(Progress(1.0, sent.events, 0.0, watch.events_lag, sent.at_ms, ""))
                await asyncio.sleep(POLL_S)

    def _measure(self, monitor: MonitorClient, sent: Sent, watch: LagWatch) -> tuple[int, int, int, int]:
        """Count what is still to come: events unread, labels unread, outcomes not stored, windows not reported."""
        topics = self._pipeline.topics
        stored = monitor.query(
            "SELECT (SELECT count() FROM scores) AS scored,"  # noqa: S608  # names of our own
            f" (SELECT count() FROM dead_letters WHERE topic = '{topics.events}') AS rejected"
        )[0]
        waiting = max(0, sent.events - stored["scored"] - stored["rejected"])
        # The last window's outcome and performance are the last that the monitor says.
        reported = monitor.query(
            f"WITH fromUnixTimestamp64Milli({sent.last_event_ms}) AS last SELECT count() AS n FROM performance"  # noqa: S608  # a number
            " WHERE measure = 'auc' AND label_maturity IS NOT NULL AND window_start <= last AND window_end > last"
        )[0]["n"]
        return watch.events_lag, watch.labels_lag, waiting, 0 if reported else 1

    @staticmethod
    def _describe(left: tuple[int, ...]) -> str:
        events, labels, waiting, window = left
        parts = [
            f"{events:,} events and {labels:,} labels are not processed" if events or labels else "",
            f"{waiting:,} outcomes are not in ClickHouse" if waiting else "",
            "the last window is not reported" if window else "",
        ]
        return ", ".join(part for part in parts if part)
