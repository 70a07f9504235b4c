"""``streamgauge score``: batch scoring of a Parquet or CSV file with the champion, or another registered version."""

from __future__ import annotations

import time
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.model_announcer import read_timeline
from app.adapters.sources.event_tables import EventTable, check_suffix
from app.adapters.sources.features import compile_features
from app.adapters.sources.score_tables import RejectionWriter, ScoreWriter
from app.cli.data_commands import Counter, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, format_time, with_context
from app.clock import wall_clock_ms
from app.core.scoring import ChampionTimeline
from app.exits import StackError
from app.flow.step import FlowOutput
from app.replay.drive import PartitionRun, drive_partitions, new_flow
from app.replay.models import load_model
from app.replay.part_selector import TrainingRows
from schemas.pipeline.spec import Pipeline


@click.command("score", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(dir_okay=False, path_type=Path))
@with_context
@click.option("--version", metavar="VERSION", help="Registered version that scores.  [default: the champion]")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of event_id, label, label_time_ms, for windows over labels.",
)
@click.option("--features", "with_features", is_flag=True, help="Add the feature vector to each score.")
def command(
    *,
    source: Path,
    output: Path,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    version: str | None,
    labels: Path | None,
    with_features: bool,
) -> None:
    """Score the events of INPUT (.parquet or .csv, event fields as columns) into OUTPUT (.parquet or .csv).

    Windows see the earlier rows of the file, and nothing that came before it. A row that cannot be scored goes to
    OUTPUT's name with .rejected before its suffix, with the reason. One version scores all rows, whatever its valid
    time.
    """
    context = ModelContext.read(pipeline, home)
    loaded, now_ms = context.pipeline, wall_clock_ms()
    started = time.monotonic()
    with plain_errors(), threadpool_limits(1):
        check_suffix(output)
        if output.resolve() == source.resolve():
            raise click.UsageError("OUTPUT is INPUT; name another file.")
        chosen = version or _find_champion(context)
        trained_on = TrainingRows(chosen, context.registry.entry(context.model, chosen).manifest.training)
        events = EventTable(source, loaded, "events", now_ms, _say)
        label_table = EventTable(labels, loaded, "labels", now_ms, _say) if labels is not None else None
        models = ChampionTimeline([load_model(loaded, context.registry, chosen)])
        flow = new_flow(loaded, compile_features(loaded), 0, models, outputs=FlowOutput.SCORES)
        label_batches = label_table.read() if label_table is not None else iter(())
        with (
            ScoreWriter(output, loaded, with_features=with_features) as scores,
            RejectionWriter(output) as rejections,
            Counter("Scoring", events.rows) as counter,
        ):
            run = PartitionRun(flow, models, events.read(), label_batches)
            for step in drive_partitions([run], flow.shared.board if flow.shared else None, now_ms):
                scores.add(step)
                trained_on.add(step.events.event_time_ms)
                rejections.add(
                    (
                        (label_table if letter.stage == "label" and label_table else events).original_row(
                            letter.source.offset
                        )
                        + 1,
                        letter,
                    )
                    for letter in step.dead_letters
                )
                last_ms = int(step.events.event_time_ms[-1]) if len(step.events) else None
                counter.add(len(step.events), format_time(last_ms)[:10] if last_ms is not None else "")
    seconds = time.monotonic() - started
    empty = loaded.windows_over("labels") if labels is None else []
    result = {
        "pipeline": loaded.name,
        "model": context.model,
        "version": chosen,
        "rows": events.rows,
        "scored": scores.rows,
        "rejected": rejections.rows,
        "trained_on": trained_on.count,
        "without_labels": empty,
        "output": str(output),
        "rejected_output": str(rejections.path) if rejections.rows else None,
        "seconds": round(seconds, 3),
    }
    took = describe_rate(scores.rows, seconds)
    who = chosen if version is not None else f"{chosen}, the champion,"
    lines = [f"{scores.rows:,} of {events.rows:,} rows scored by {who} {took}: {output}", *trained_on.lines()]
    lines += describe_windows(loaded, with_labels=labels is not None)
    if rejections.rows:
        lines.append(f"{rejections.rows:,} rejected, with their reasons: {rejections.path}")
    emit(result, as_json, *lines)


def _find_champion(context: ModelContext) -> str:
    try:
        kafka = context.find_kafka()
    except StackError as error:
        raise StackError(
            f"Which version is champion is known to Kafka alone. {error} Or name one by --version."
        ) from error
    newest = run_with_kafka(kafka, read_timeline(kafka, context.pipeline.topics)).timeline.newest()
    if newest is None:
        raise click.ClickException(
            f"No version of {context.model} is champion: promote one by `streamgauge model promote`, or name a"
            " registered one by --version."
        )
    return newest.version


def describe_windows(pipeline: Pipeline, *, with_labels: bool) -> list[str]:
    """Say which windows are empty because no labels were given, and which see only what the files hold."""
    kinds = ("events", "labels") if with_labels else ("events",)
    seeing = {kind: windows for kind in kinds if (windows := pipeline.windows_over(kind))}
    empty = [] if with_labels else pipeline.windows_over("labels")
    lines = []
    if empty:
        lines.append(f"No --labels were given, so these windows over labels are empty: {', '.join(empty)}.")
    if seeing:
        names = ", ".join(name for windows in seeing.values() for name in windows)
        files = "files" if with_labels and "labels" in seeing else "file"
        lines.append(
            f"These windows see only the {' and '.join(seeing)} of the {files}, and nothing that came before: {names}."
        )
    return lines


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
