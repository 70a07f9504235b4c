"""``streamgauge produce``: a pipeline's source, a recording or JSON lines, sent to its topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.event_producer import EventProducer
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.recordings.file import Recording
from app.adapters.recordings.source import read_in_time
from app.adapters.sources.json_lines import read_lines
from app.adapters.sources.source import EVENT, WATERMARK, EncodedRecord, read_source
from app.cli.data_commands import Counter, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, format_time, with_context
from app.cli.utc_time import UtcTime
from app.clock import wall_clock_ms
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline

#: A record may go this much before it is due, so that a paced producer does not wake up for each one.
_AHEAD_S = 0.02


@dataclass(frozen=True)
class Pace:
    """How fast to send: ``speed`` times real time (0: at once), at most ``rate`` events a second (None: no limit)."""

    speed: float = 0.0
    rate: float | None = None

    def due_times(self, chunk: Sequence[EncodedRecord], first_ms: int, events: int) -> list[float]:
        """When each record may go, in seconds after the start; ``events``: how many were sent before."""
        due = []
        for record in chunk:
            by_time = (record.time_ms - first_ms) / 1000 / self.speed if self.speed else 0.0
            by_count = events / self.rate if self.rate else 0.0
            due.append(max(by_time, by_count))
            events += record.kind == EVENT
        return due


async def send_paced(
    producer: EventProducer, chunk: Sequence[EncodedRecord], pace: Pace, started: float, first_ms: int
) -> None:
    """Send a chunk, each record when it is due."""
    due = pace.due_times(chunk, first_ms, producer.events)
    start = 0
    while start < len(chunk):
        passed = time.monotonic() - started
        stop = start
        while stop < len(chunk) and due[stop] <= passed + _AHEAD_S:
            stop += 1
        if stop == start:
            await asyncio.sleep(min(due[start] - passed, 1.0))
            continue
        await producer.send_encoded(chunk[start:stop])
        await producer.flush()
        start = stop


@click.command("produce", context_settings={"help_option_names": ["-h", "--help"]})
@with_context
@click.option("--from", "from_ms", type=UtcTime(), help="First time to send, UTC, e.g. 2013-03-01.")
@click.option("--to", "to_ms", type=UtcTime(), help="Time to stop before.")
@click.option("--limit", type=click.IntRange(1), help="Most events to send.")
@click.option("--speed", type=click.FloatRange(0), default=0, show_default=True, help="Times real time; 0: no waiting.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Most events a second.")
@click.option("--recording", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Send a recording.")
@click.option(
    "--from-file", "lines", type=click.File("rb"), help="Send JSON lines of a file, or of - (standard input)."
)
@click.option(
    "--topic-kind",
    type=click.Choice(["event", "label"]),
    default="event",
    show_default=True,
    help="What the lines are.",
)
@click.option(
    "--watermark/--no-watermark",
    "with_watermark",
    default=None,
    help="End with a record that says how far the data has come.  [default: yes, but not for --from-file]",
)
def command(
    *,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    from_ms: int | None,
    to_ms: int | None,
    limit: int | None,
    speed: float,
    rate: float | None,
    recording: Path | None,
    lines: BinaryIO | None,
    topic_kind: str,
    with_watermark: bool | None,
) -> None:
    """Send a pipeline's source data to its topics: every label before any later event.

    The data comes from the source that the pipeline file names, from --recording, or from --from-file; a line of a
    label has the event's entity as well, so that it goes where its event went.

    Records go to partitions as those of Kafka's Java clients do (murmur2 of the key). A stream whose producer chooses
    otherwise, as librdkafka does unless told, would have its entities in two partitions: send to it by that producer.
    """
    if recording is not None and lines is not None:
        raise click.UsageError("Give --recording or --from-file, not both.")
    if lines is not None and (from_ms is not None or to_ms is not None):
        raise click.UsageError("--from and --to do not go with --from-file: its lines are sent as they are.")
    context = ModelContext.read(pipeline, home)
    loaded = context.pipeline
    ends_with_watermark = with_watermark if with_watermark is not None else lines is None
    if recording is not None:
        chunks = _within(_open(recording, loaded), from_ms, to_ms, limit)
    elif lines is None:
        chunks = read_source(loaded, from_ms, to_ms, limit)
    else:
        chunks = _within(read_lines(lines, loaded, topic_kind), None, None, limit)
    is_whole_source = recording is None and lines is None and to_ms is None and limit is None

    def final_watermark(producer: EventProducer) -> int | None:
        if not ends_with_watermark or loaded.labels is None or producer.newest_ms is None:
            return None
        if is_whole_source:  # nothing follows, not even a label of the last event
            return min(producer.newest_ms + loaded.labels.horizon_ms, loaded.events.latest_ms)
        return to_ms if to_ms is not None else producer.newest_ms

    with plain_errors():
        kafka = context.find_kafka()
        result = run_with_kafka(
            kafka,
            _produce(
                kafka,
                loaded,
                chunks,
                Pace(speed, rate),
                with_watermarks=ends_with_watermark,
                final_watermark=final_watermark,
            ),
        )
    newest = "" if result["newest_ms"] is None else f", up to {format_time(result['newest_ms'])}"
    sent = (
        f"{result['events']:,} events and {result['labels']:,} labels sent to {loaded.topics.sent_events} and …labels"
    )
    emit(result, as_json, f"{sent} {describe_rate(result['events'] + result['labels'], result['seconds'])}{newest}.")


async def _produce(
    kafka: KafkaAccess,
    pipeline: Pipeline,
    chunks: Iterator[list[EncodedRecord]],
    pace: Pace,
    *,
    with_watermarks: bool,
    final_watermark: Callable[[EventProducer], int | None],
) -> dict[str, Any]:
    topics = pipeline.topics
    await ensure_topics(
        kafka, [topic for topic in topics.all() if topic.name in {topics.sent_events, topics.sent_labels}]
    )
    started = time.monotonic()
    first_ms: int | None = None
    async with EventProducer(kafka, pipeline, wall_clock_ms) as producer:
        with Counter("Sending") as counter:
            async for chunk in _in_background(chunks):
                kept = chunk if with_watermarks else [record for record in chunk if record.kind != WATERMARK]
                if not kept:
                    continue
                first_ms = kept[0].time_ms if first_ms is None else first_ms
                if pace == Pace():
                    await producer.send_encoded(kept)
                else:
                    await send_paced(producer, kept, pace, started, first_ms)
                counter.add(len(kept), format_time(kept[-1].time_ms)[:10])
        promised_ms = final_watermark(producer)
        if promised_ms is not None:
            await producer.promise(promised_ms)
    return {
        "pipeline": pipeline.name,
        "events": producer.events,
        "labels": producer.labels,
        "watermarks": producer.watermarks,
        "watermark_ms": promised_ms,
        "newest_ms": producer.newest_ms,
        "seconds": round(time.monotonic() - started, 3),
    }


async def _in_background(chunks: Iterator[list[EncodedRecord]]) -> AsyncIterator[list[EncodedRecord]]:
    """Read in a thread: a slow source, or a person who types, must not delay records that are being sent."""
    end = object()
    while (chunk := await asyncio.to_thread(next, chunks, end)) is not end:
        assert isinstance(chunk, list)
        yield chunk


def _open(path: Path, pipeline: Pipeline) -> Iterator[list[EncodedRecord]]:
    with plain_errors():
        recording = Recording(path)
        recording.check_fits(pipeline)
        return read_in_time(recording, pipeline)


def _within(
    chunks: Iterator[list[EncodedRecord]], from_ms: int | None, to_ms: int | None, limit: int | None
) -> Iterator[list[EncodedRecord]]:
    """Cut to a range of times, and end with the event of number ``limit``."""
    left = limit
    for chunk in chunks:
        kept = [
            record
            for record in chunk
            if (from_ms is None or record.time_ms >= from_ms) and (to_ms is None or record.time_ms < to_ms)
        ]
        if left is not None:
            places = [place for place, record in enumerate(kept) if record.kind == EVENT]
            if len(places) >= left:
                yield kept[: next(islice(places, left - 1, None)) + 1]
                return
            left -= len(places)
        yield kept
