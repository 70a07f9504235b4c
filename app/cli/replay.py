"""``streamgauge replay``: recorded events through the same core, and whether and how the scores differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from threadpoolctl import threadpool_limits

from app.adapters.recordings.part import RecordingPart
from app.adapters.recordings.scores import RecordedScores
from app.adapters.sources.features import compile_features
from app.adapters.sources.score_tables import ScoreWriter
from app.cli.data_commands import Counter, describe_rate, plain_errors
from app.cli.model_context import ModelContext, emit, with_context
from app.cli.replay_diff import RECORDED, Comparison, check_plot, describe_diff, draw_diff, write_diff
from app.cli.replay_source import open_part, show, with_source
from app.core.replay.bounds import Bound
from app.core.replay.score_check import ScoreCheck
from app.core.scoring import ChampionTimeline, ModelSelector
from app.flow.step import Step
from app.replay.models import load_model, load_recorded_models
from app.replay.offline import run_recording
from app.replay.part_selector import PartSelector, TrainingRows, count_rejected, is_counted
from schemas.pipeline.spec import Pipeline


@dataclass(frozen=True)
class Wanted:
    """What a replay is to make of each step."""

    out: Path | None
    check: ScoreCheck | None
    comparison: Comparison | None
    trained_on: TrainingRows | None


@dataclass
class Done:
    """What became of the events that count."""

    trained_on: TrainingRows | None
    scored: int = 0
    unscored: int = 0
    rejected: int = 0

    def add(self, step: Step, scored: Step) -> None:
        """Count a step, and what of it was scored."""
        self.scored += len(scored.events)
        self.unscored += len(step.events) - len(scored.events)
        if self.trained_on is not None:
            self.trained_on.add(scored.events.event_time_ms)


@click.command("replay", context_settings={"help_option_names": ["-h", "--help"]})
@with_source
@with_context
@click.option(
    "--models",
    default=RECORDED,
    show_default=True,
    metavar="recorded|VERSION[,VERSION]",
    help="Score each event with the version that scored it, or all with one version; two for --diff.",
)
@click.option("--check", "with_check", is_flag=True, help="Compare with the recorded scores; exit 1 if any differs.")
@click.option("--diff", "with_diff", is_flag=True, help="Say how far apart the scores of two versions are.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the difference into a .svg or .png file."
)
@click.option("--write", is_flag=True, help="Write the difference to the ClickHouse table score_diffs.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the scores (.parquet, .csv, .jsonl)."
)
def command(
    *,
    path: Path | None,
    begin: Bound,
    end: Bound,
    warm_up_ms: int | None,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    models: str,
    with_check: bool,
    with_diff: bool,
    plot: Path | None,
    write: bool,
    out: Path | None,
) -> None:
    """Run a RECORDING, or the topics as they are now, through the core that scores the stream, once, and end.

    The topics are read without a consumer group: no worker notices. --from and --to bound event time (a stretch of
    each partition's log: from the first event that is not before --from up to the first that is not before --to), or
    offsets of the events topic by partition.

    --check compares scores, features, versions and decisions bit for bit. Scores that were served stale, before labels
    that should have preceded them had arrived, are counted and not compared.

    --diff compares two versions on the same events; with one version in --models, the recorded scores with it.

    \b
    Examples:
      streamgauge replay day.parquet --check
      streamgauge replay --from 2013-05-01 --to 2013-06-01 --check
      streamgauge replay --models 1.1.0 --diff --plot diff.svg
      streamgauge replay day.parquet --models 1.0.0,1.1.0 --diff --write
      streamgauge replay --from 0:1500,1:1480 --models 1.1.0 --out scores.parquet
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    sides = _read_sides(models, with_diff=with_diff, with_check=with_check)
    if (plot or write) and not with_diff:
        raise click.UsageError("--plot and --write show a difference: add --diff.")
    context = ModelContext.read(pipeline, home)
    loaded = context.pipeline
    if plot is not None:
        check_plot(plot)
    started = time.monotonic()
    with (
        plain_errors(),
        threadpool_limits(1),
        open_part(context, path, begin, end, warm_up_ms) as part,
    ):
        comparison = Comparison.load(context, sides[0], sides[-1], part) if with_diff else None
        check = ScoreCheck() if with_check else None
        trained_on = _trained_on(context, sides[-1])
        done = _replay(context, part, _choose(context, part, sides[-1]), Wanted(out, check, comparison, trained_on))
        seconds = time.monotonic() - started
        result: dict[str, Any] = {
            "source": str(path) if path is not None else "topics",
            "events": part.events,
            "warm_up_events": part.warm_events,
            "scored": done.scored,
            "unscored": done.unscored,
            "rejected": done.rejected,
            "trained_on": trained_on.count if trained_on is not None else None,
            "seconds": round(seconds, 3),
            "output": str(out) if out is not None else None,
        }
        rate = describe_rate(done.scored, seconds)
        lines = [f"{done.scored:,} events scored, {done.rejected:,} rejected, {rate}."]
        if done.unscored:
            lines.append(f"{done.unscored:,} left unscored, as by the stream: no version was to score anything so old.")
        if trained_on is not None:
            lines += trained_on.lines()
        if check is not None:
            result["check"] = _summarise(check)
            lines += describe_check(check, loaded)
        if comparison is not None:
            result["diff"] = comparison.to_json()
            lines += describe_diff(comparison)
            if plot is not None:
                draw_diff(comparison, plot, loaded.model.threshold)
                lines.append(f"Drawn: {plot}")
            if write:
                result["written"] = write_diff(context, comparison)
                lines.append(f"{result['written']:,} rows written to score_diffs; the same again changes nothing.")
    emit(result, as_json, *lines)
    if check is not None and not check.is_equal:
        raise SystemExit(1)


def _read_sides(models: str, *, with_diff: bool, with_check: bool) -> list[str]:
    """The versions named by --models, the one that scores last; with --diff there are two."""
    sides = [side.strip() for side in models.split(",")]
    if len(sides) > 2 or not all(sides):
        raise click.UsageError("--models takes a version, or two as 1.0.0,1.1.0.")
    if not with_diff:
        if len(sides) == 2:
            raise click.UsageError("Two versions are for --diff: add it, or name one.")
        return sides
    if with_check:
        raise click.UsageError("--check asks for equal scores and --diff for different versions: give one of them.")
    if sides[-1] == RECORDED:
        raise click.UsageError("--diff needs the version to compare with, as --models 1.1.0 or --models 1.0.0,1.1.0.")
    if len(sides) == 1:
        sides.insert(0, RECORDED)
    if sides[0] == sides[1]:
        raise click.UsageError("--diff needs two different sides.")
    return sides


def _replay(context: ModelContext, part: RecordingPart, selectors: dict[int, ModelSelector], wanted: Wanted) -> Done:
    """Run all partitions."""
    pipeline, check, done = context.pipeline, wanted.check, Done(wanted.trained_on)
    recorded = {partition: _values(part, partition) for partition in part.partitions}
    with ExitStack() as stack:
        counter = stack.enter_context(Counter("Replaying", part.events + part.warm_events))
        writer = None
        if wanted.out is not None:
            writer = stack.enter_context(ScoreWriter(wanted.out, pipeline, with_features=True, with_source=True))
        for step in run_recording(pipeline, compile_features(pipeline), part, selectors.__getitem__):
            show(counter, step)
            done.rejected += count_rejected(step, part)
            if wanted.comparison is not None:
                wanted.comparison.add(step, part)
            if not is_counted(step, part):
                continue
            scored = step.scored()
            done.add(step, scored)
            if writer is not None:
                writer.add(scored)
            if check is not None:
                _compare(check, scored, recorded[step.partition])
    if check is not None:
        for values in recorded.values():
            for value in values:
                check.add_recorded(value)
    return done


def _trained_on(context: ModelContext, models: str) -> TrainingRows | None:
    """What the named version was trained on; None for the recorded versions, which the stream has chosen."""
    if models == RECORDED:
        return None
    return TrainingRows(models, context.registry.entry(context.model, models).manifest.training)


def _choose(context: ModelContext, part: RecordingPart, models: str) -> dict[int, ModelSelector]:
    chosen: dict[int, ModelSelector] = {}
    if models == RECORDED:
        chosen.update(load_recorded_models(context.pipeline, context.registry, part.recording))
    else:
        timeline = ChampionTimeline([load_model(context.pipeline, context.registry, models)])
        chosen.update(dict.fromkeys(part.partitions, timeline))
    return {partition: PartSelector(chosen[partition], part, partition) for partition in part.partitions}


def _values(part: RecordingPart, partition: int) -> Iterator[bytes]:
    return RecordedScores(part, partition, lambda offset: part.counts(partition, offset)).values()


def _compare(check: ScoreCheck, step: Step, recorded: Iterator[bytes]) -> None:
    """Compare a step with as many recorded scores: both are in the same order, unless something is wrong."""
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


def describe_check(check: ScoreCheck, pipeline: Pipeline) -> list[str]:
    """Say in lines how recorded and replayed scores compare."""
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
    by_same_version = check.by_kind["score"] - check.by_kind["version"]
    if by_same_version > 0 and pipeline.windows_over("labels"):
        lines.append(
            "Labels that came after later events are a possible cause: the stream's windows over labels were without"
            " them (docs/pipeline-file.md, Events and labels)."
        )
    return [*lines, "The first:", *(f"  {difference}" for difference in check.differences())]
