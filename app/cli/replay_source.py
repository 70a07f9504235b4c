"""Where a replay, a backfill or a parity check takes its records from: a recording, or the topics as they are now."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.recordings.file import Recording
from app.adapters.recordings.part import RecordingPart, check_bounds, reach_ms
from app.adapters.recordings.recorder import record_topics
from app.cli.data_commands import BoundType, Counter, DurationType, check_order
from app.cli.model_context import ModelContext, format_time
from app.clock import wall_clock_ms
from app.core.replay.bounds import OPEN, Bound
from app.flow.step import Step
from schemas.pipeline.spec import Pipeline

Command = TypeVar("Command", bound=Callable[..., Any])

_HOUR_MS = 3_600_000


def with_source(function: Command) -> Command:
    """Add RECORDING, --from, --to and --warm-up."""
    options = (
        click.argument(
            "path",
            metavar="[RECORDING]",
            required=False,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
        ),
        click.option(
            "--from", "begin", type=BoundType(), default=OPEN, help="First event.  [default: the oldest there is]"
        ),
        click.option("--to", "end", type=BoundType(), default=OPEN, help="Event to stop before.  [default: the end]"),
        click.option(
            "--warm-up",
            "warm_up_ms",
            type=DurationType(),
            help="How long before --from to run events that do not count, so that windows are filled, as 3d."
            "  [default: as long as windows and labels reach]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@contextmanager
def open_part(
    context: ModelContext,
    path: Path | None,
    begin: Bound,
    end: Bound,
    warm_up_ms: int | None,
    *,
    as_streamed: bool = True,
) -> Iterator[RecordingPart]:
    """Give the part to run, and tell the user what is run before it.

    Without a path the topics are first copied into a temporary recording, without a consumer group: no worker notices.

    ``as_streamed``: leave out what the workers were told to leave out by --from.
    """
    check_order(begin, end)
    pipeline = context.pipeline
    if path is not None:
        recording = Recording(path, as_streamed=as_streamed)
        recording.check_fits(pipeline)
        part = RecordingPart(recording, pipeline, begin, end, warm_up_ms)
        _narrate(part, pipeline, warm_up_ms)
        yield part
        return
    kafka = context.find_kafka()
    with tempfile.TemporaryDirectory(prefix="streamgauge-replay-") as folder:

        def copy(since: Bound) -> RecordingPart:
            file = Path(folder) / f"{'whole' if since.is_open else 'part'}.parquet"
            with Counter("Reading the topics") as counter:
                work = record_topics(
                    kafka,
                    pipeline,
                    file,
                    wall_clock_ms(),
                    begin=since,
                    progress=counter.add,
                )
                run_with_kafka(kafka, work)
            return RecordingPart(Recording(file, as_streamed=as_streamed), pipeline, begin, end, warm_up_ms)

        part = copy(_since(pipeline, begin, warm_up_ms))
        if part.lacks_history and warm_up_ms is None:  # events are sparse: those needed are older than what was copied
            part = copy(OPEN)
        _narrate(part, pipeline, warm_up_ms)
        yield part


def _since(pipeline: Pipeline, begin: Bound, warm_up_ms: int | None) -> Bound:
    """The record time stamp from which the topics must be read: an event is at most max_ahead older than its record."""
    if begin.time_ms is None:
        return OPEN
    before_ms = warm_up_ms if warm_up_ms is not None else reach_ms(pipeline) + 2 * pipeline.horizon_ms
    return Bound(begin.time_ms - before_ms - pipeline.events.max_ahead_ms - _HOUR_MS)


def _narrate(part: RecordingPart, pipeline: Pipeline, warm_up_ms: int | None) -> None:
    check_bounds(part)
    if part.recording.leaves_out:
        offsets = ", ".join(f"{partition}:{began[0]}" for partition, began in sorted(part.about.began.items()))
        click.echo(f"The stream began at offsets {offsets}, as --from said: what is before is not run.", err=True)
    if part.about.feature_set != pipeline.feature_set:
        click.echo("The features have changed since this was recorded; its models may refuse them.", err=True)
    if part.warm_from_ms is not None:
        why = "as --warm-up says" if warm_up_ms is not None else "as far as windows and labels reach back"
        click.echo(
            f"Warm-up: {part.warm_events:,} events from {format_time(part.warm_from_ms)} on, {why}, are run first and"
            " do not count.",
            err=True,
        )
    if warm_up_ms is not None and warm_up_ms < reach_ms(pipeline) + pipeline.horizon_ms:
        click.echo(
            "Windows and labels reach further back than --warm-up: what they hold may differ. Leave it out for equal"
            " scores.",
            err=True,
        )
    if part.lacks_history:
        click.echo(
            "This recording is a part of the stream: its first windows lack what came before, and may differ.", err=True
        )


def show(counter: Counter, step: Step) -> None:
    """Move a progress bar on by a step."""
    if len(step.events):
        counter.add(len(step.events), format_time(int(step.events.event_time_ms[-1]))[:10])
