"""``streamgauge record``: what a pipeline's topics hold, copied into one Parquet file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from app.adapters.topic_recorder import record_topics
from app.cli.data_commands import Counter, describe_rate, plain_errors
from app.cli.model_context import ModelContext, UtcTime, emit, read_clock_ms, with_context


@click.command("record", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output", metavar="RECORDING", type=click.Path(dir_okay=False, path_type=Path))
@with_context
@click.option("--from", "from_ms", type=UtcTime(), help="First record time stamp (when Kafka was given it), UTC.")
@click.option("--to", "to_ms", type=UtcTime(), help="Record time stamp to stop before.")
def command(
    *, output: Path, pipeline: str, home: Path | None, as_json: bool, from_ms: int | None, to_ms: int | None
) -> None:
    """Copy events, labels, scores and model updates into RECORDING, a Parquet file for replay, train and produce.

    Committed records only, up to where the topics end now. A part of a stream (--from, --to) begins without the state
    that earlier records had built up.
    """
    context = ModelContext.read(pipeline, home)
    started = time.monotonic()
    with plain_errors(), Counter("Recording") as counter:
        counts = asyncio.run(
            record_topics(
                context.find_kafka(),
                context.pipeline,
                output,
                read_clock_ms(),
                from_ms=from_ms,
                to_ms=to_ms,
                progress=counter.add,
            )
        )
    seconds = time.monotonic() - started
    result = {"path": str(output), "records": counts, "bytes": output.stat().st_size, "seconds": round(seconds, 3)}
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    emit(result, as_json, f"{said} {describe_rate(sum(counts.values()), seconds)}: {output}")
