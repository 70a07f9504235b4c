"""``streamgauge replay``: a recording through the same core, without Kafka, and whether it gives the same scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from threadpoolctl import threadpool_limits

from app.adapters.recordings import EVENTS, SCORES, Recording
from app.adapters.score_tables import ScoreWriter
from app.bootstrap import compile_features
from app.cli.data_commands import Counter, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, format_time, with_context
from app.core.score_check import ScoreCheck
from app.core.scoring import ChampionTimeline, ModelSelector
from app.offline import load_model, load_recorded_models, run_recording
from app.pipeline import Step
from schemas.pipeline import Pipeline


@click.command("replay", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="RECORDING", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_context
@click.option(
    "--models",
    default="recorded",
    show_default=True,
    metavar="recorded|VERSION",
    help="Score each event with the version that scored it, or all with one version.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the scores (.parquet, .csv, .jsonl)."
)
@click.option("--check", "with_check", is_flag=True, help="Compare with the recorded scores; exit 1 if any differs.")
def command(
    *,
    path: Path,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    models: str,
    out: Path | None,
    with_check: bool,
) -> None:
    """Run a RECORDING through the core that scores the stream.

    --check compares scores, features, versions and decisions bit for bit. Scores that were served stale, before labels
    that should have preceded them had arrived, are counted and not compared.
    """
    context = ModelContext.read(pipeline, home)
    loaded = context.pipeline
    started = time.monotonic()
    check = ScoreCheck() if with_check else None
    with plain_errors(), threadpool_limits(1):
        recording = Recording(path)
        recording.check_fits(loaded)
        _warn(recording, context, with_check)
        selectors = _choose(context, recording, models)
        scored, rejected = _replay(loaded, recording, selectors, out, check)
    seconds = time.monotonic() - started
    result: dict[str, Any] = {
        "recording": str(path),
        "events": recording.count(EVENTS),
        "scored": scored,
        "rejected": rejected,
        "seconds": round(seconds, 3),
        "output": str(out) if out is not None else None,
    }
    lines = [f"{scored:,} events scored, {rejected:,} rejected, {describe_rate(scored, seconds)}."]
    if check is not None:
        result["check"] = _summarise(check)
        lines += _describe(check)
    emit(result, as_json, *lines)
    if check is not None and not check.is_equal:
        raise SystemExit(1)


def _replay(
    pipeline: Pipeline,
    recording: Recording,
    selectors: dict[int, ModelSelector],
    out: Path | None,
    check: ScoreCheck | None,
) -> tuple[int, int]:
    """Run all partitions; how many events were scored and rejected."""
    scored = rejected = 0
    recorded = {partition: _recorded_scores(recording, partition) for partition in recording.partitions}
    with ExitStack() as stack:
        counter = stack.enter_context(Counter("Replaying", recording.count(EVENTS)))
        writer = None
        if out is not None:
            writer = stack.enter_context(ScoreWriter(out, pipeline, with_features=True, with_source=True))
        for step in run_recording(pipeline, compile_features(pipeline), recording, selectors.__getitem__):
            scored += len(step.events)
            rejected += sum(letter.stage != "label" for letter in step.dead_letters)
            if writer is not None:
                writer.add(step)
            if check is not None:
                _compare(check, step, recorded[step.partition])
            if len(step.events):
                counter.add(len(step.events), format_time(int(step.events.event_time_ms[-1]))[:10])
    if check is not None:
        for values in recorded.values():
            for value in values:
                check.add_recorded(value)
    return scored, rejected


def _choose(context: ModelContext, recording: Recording, models: str) -> dict[int, ModelSelector]:
    if models == "recorded":
        return dict(load_recorded_models(context.pipeline, context.registry, recording))
    timeline = ChampionTimeline([load_model(context.pipeline, context.registry, models)])
    return dict.fromkeys(recording.partitions, timeline)


def _warn(recording: Recording, context: ModelContext, with_check: bool) -> None:
    if recording.about.feature_set != context.pipeline.feature_set:
        click.echo("The features have changed since this was recorded; its models may refuse them.", err=True)
    if with_check and not recording.about.is_whole:
        click.echo(
            "This recording is a part of the stream: its first windows lack what came before, and will differ.",
            err=True,
        )


def _recorded_scores(recording: Recording, partition: int) -> Iterator[bytes]:
    for batch in recording.read(SCORES, partition):
        yield from (value for value in batch.values if value is not None)


def _compare(check: ScoreCheck, step: Step, recorded: Iterator[bytes]) -> None:
    """Compare a step with as many recorded scores, which are in the same order unless something is wrong."""
    for offset, (_, value, _) in zip(step.events.offsets.tolist(), step.outgoing_scores, strict=True):
        assert value is not None
        check.add_replayed(step.partition, offset, value)
        other = next(recorded, None)
        if other is not None:
            check.add_recorded(other)


def _summarise(check: ScoreCheck) -> dict[str, Any]:
    return {
        "equal": check.equal,
        "different": check.different,
        "not_replayed": check.not_replayed,
        "missing": check.missing,
        "doubled": check.doubled,
        "not_yet_scored": check.not_recorded - check.missing,
        "stale": check.stale,
        "by_kind": dict(check.by_kind),
        "first": [vars(difference) for difference in check.differences()],
    }


def _describe(check: ScoreCheck) -> list[str]:
    lines = [f"{check.equal:,} scores are the same, bit for bit."]
    if check.stale:
        lines.append(f"{check.stale:,} were served stale, without labels they should have seen, and are not compared.")
    if waiting := check.not_recorded - check.missing:
        lines.append(f"{waiting:,} events were not scored yet when this was recorded.")
    if check.is_equal:
        return lines
    for count, what in (
        (check.different, "differ"),
        (check.not_replayed, "were scored by the stream alone"),
        (check.missing, "were scored by the replay alone"),
        (check.doubled, "recorded scores are of an event scored before"),
    ):
        if count:
            lines.append(f"{count:,} {what}.")
    if check.by_kind:
        lines.append("Values that differ: " + ", ".join(f"{what} {n:,}" for what, n in check.by_kind.most_common()))
    return [*lines, "The first:", *(f"  {difference}" for difference in check.differences())]
