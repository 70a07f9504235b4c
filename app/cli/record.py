"""``streamgauge record``: what a pipeline's topics hold, copied into one Parquet file."""

from __future__ import annotations

import time
from pathlib import Path

import click

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.recordings.recorder import record_topics
from app.cli.data_commands import BoundType, Counter, check_order, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, with_context
from app.clock import wall_clock_ms
from app.core.replay.bounds import OPEN, Bound


@click.command("record", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output", metavar="RECORDING", type=click.Path(dir_okay=False, path_type=Path))
@with_context
@click.option("--from", "begin", type=BoundType(), default=OPEN, help="Where to begin.  [default: the oldest record]")
@click.option("--to", "end", type=BoundType(), default=OPEN, help="Where to end.  [default: what the topics hold now]")
def command(*, output: Path, pipeline: str, home: Path | None, as_json: bool, begin: Bound, end: Bound) -> None:
    """Copy events, labels, scores and model updates into RECORDING, a Parquet file for replay, train and produce.

    Committed records only, up to where the topics end when it starts; then it ends. It reads without a consumer group,
    so no worker notices. The file appears when it is whole.

    --from and --to are times that Kafka was given a record, or offsets of the events topic by partition: from the
    first such record up to the first that is not before the end. A part begins without the state that earlier records
    had built up: record so much more before as the longest window and the horizon of labels are long.

    \b
    Examples:
      streamgauge record all.parquet
      streamgauge record day.parquet --from 2026-03-01 --to 2026-03-02
      streamgauge record tail.parquet --from 0:15000,1:14800
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    check_order(begin, end)
    context = ModelContext.read(pipeline, home)
    started = time.monotonic()
    with plain_errors(), Counter("Recording") as counter:
        kafka = context.find_kafka()
        counts = run_with_kafka(
            kafka,
            record_topics(
                kafka,
                context.pipeline,
                output,
                wall_clock_ms(),
                begin=begin,
                end=end,
                progress=counter.add,
            ),
        )
    seconds = time.monotonic() - started
    result = {"path": str(output), "records": counts, "bytes": output.stat().st_size, "seconds": round(seconds, 3)}
    counted = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    emit(result, as_json, f"{counted} {describe_rate(sum(counts.values()), seconds)}: {output}")
