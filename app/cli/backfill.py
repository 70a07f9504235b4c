"""``streamgauge backfill``: scores of a version for events of the past, into ClickHouse beside the live scores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from threadpoolctl import threadpool_limits

from app.adapters.http.row_writers import RowWriter
from app.adapters.recordings.part import RecordingPart
from app.adapters.sources.features import compile_features
from app.cli.data_commands import Counter, count, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, with_context
from app.cli.replay_source import open_part, show, with_source
from app.core.replay.bounds import Bound
from app.core.scoring import ChampionTimeline
from app.replay.backfill_blocks import BackfillWriter, first_missing, read_held
from app.replay.models import load_model
from app.replay.offline import run_recording
from app.replay.part_selector import PartSelector, TrainingRows, count_rejected, is_counted


@click.command("backfill", context_settings={"help_option_names": ["-h", "--help"]})
@with_source
@with_context
@click.option("--version", required=True, metavar="VERSION", help="Registered version that scores.")
@click.option("--features", "with_features", is_flag=True, help="Write the feature values as well.")
def command(
    *,
    path: Path | None,
    begin: Bound,
    end: Bound,
    warm_up_ms: int | None,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    version: str,
    with_features: bool,
) -> None:
    """Score the events of a RECORDING, or of the topics as they are now, with one version, into backfilled_scores.

    That table is apart from the live scores: nothing that reads scores or daily_scores sees a backfill. Run it again
    after a crash and it goes on where rows are missing; the same again changes nothing. While the embedded stack runs,
    the monitor writes the rows.

    \b
    Examples:
      streamgauge backfill --version 1.1.0
      streamgauge backfill year.parquet --version 1.1.0 --from 2013-05-01 --to 2013-06-01
      streamgauge query "SELECT version, avg(score) FROM backfilled_scores GROUP BY version"
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    context = ModelContext.read(pipeline, home)
    started = time.monotonic()
    with (
        plain_errors(),
        threadpool_limits(1),
        open_part(context, path, begin, end, warm_up_ms, as_streamed=False) as part,
        RowWriter(context.settings.clickhouse, context.home) as rows,
    ):
        trained_on = TrainingRows(version, context.registry.entry(context.model, version).manifest.training)
        held = read_held(rows, context.pipeline, version, part, with_features=with_features)
        left = _what_is_left(part, first_missing(part, held)) if held else part
        result: dict[str, Any] = {
            "source": str(path) if path is not None else "topics",
            "version": version,
            "events": part.events,
            "held_before": sum(block.rows for block in held.values()),
            "written": 0,
            "rejected": 0,
        }
        if left is not None:
            writer = BackfillWriter(rows, context.pipeline, held, with_features=with_features)
            result["rejected"] = _score(context, left, version, writer, trained_on)
            result["written"] = writer.written
    seconds = time.monotonic() - started
    result |= {"trained_on": trained_on.count, "seconds": round(seconds, 3)}
    written = count(result["written"], "score")
    lines = [f"{written} of {version} written to backfilled_scores {describe_rate(result['written'], seconds)}."]
    lines += trained_on.lines()
    if result["held_before"]:
        lines.append(f"{count(result['held_before'], 'event')} had theirs already.")
    if result["rejected"]:
        lines.append(f"{count(result['rejected'], 'event')} cannot be scored.")
    emit(result, as_json, *lines)


def _what_is_left(part: RecordingPart, starts: dict[int, int]) -> RecordingPart | None:
    """The part that begins where rows are missing; None when none are."""
    if all(starts[partition] >= stretch.stop for partition, stretch in part.stretches.items()):
        return None
    left = part.from_offsets(starts)
    return left if left.events else None


def _score(
    context: ModelContext, part: RecordingPart, version: str, writer: BackfillWriter, trained_on: TrainingRows
) -> int:
    """Score what is left; return how many events were rejected."""
    pipeline, rejected = context.pipeline, 0
    models = ChampionTimeline([load_model(pipeline, context.registry, version)])
    selectors = {partition: PartSelector(models, part, partition) for partition in part.partitions}
    with Counter("Scoring", part.events + part.warm_events) as counter:
        for step in run_recording(pipeline, compile_features(pipeline), part, selectors.__getitem__):
            show(counter, step)
            rejected += count_rejected(step, part)
            if is_counted(step, part):
                writer.add(step)
                trained_on.add(step.events.event_time_ms)
        writer.finish()
    return rejected
