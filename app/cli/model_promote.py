"""``streamgauge model promote`` and ``rollback``: which version scores, by a record on the model-update topic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.model_announcer import announce, read_timeline
from app.cli.model_context import ModelContext, emit, format_time, who, with_context
from app.cli.utc_time import UtcTime
from app.clock import wall_clock_ms
from app.exits import StackError
from models.versions.manifest import Manifest
from models.versions.registry import Entry, RegistryError
from models.versions.timeline import Span, Timeline
from models.versions.verify import Expected, RefusedModelError, verify
from schemas.wire import ModelUpdate, to_builtins


@click.command("promote")
@click.argument("version")
@click.option(
    "--valid-from",
    "valid_from_ms",
    type=UtcTime(),
    help="Event time from which it scores.  [default: the end of its training]",
)
@click.option(
    "--score-training-rows",
    is_flag=True,
    help="Let it score the events that it was trained on, too; without --valid-from, all events.",
)
@click.option("--why", default="", help="Reason, for the audit.")
@with_context
def promote(
    *,
    version: str,
    valid_from_ms: int | None,
    score_training_rows: bool,
    why: str,
    pipeline: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a registered VERSION the champion: verify it here, then announce it to the workers.

    It scores the events from --valid-from on. Earlier ones go on with the champions before it; those that no version is
    valid for are left unscored: windows see them, and nothing is published.
    """
    context = ModelContext.read(pipeline, home)
    emit_promotion(
        promote_version(context, version, why, valid_from_ms, score_training_rows=score_training_rows), as_json
    )


@click.command("rollback")
@click.option("--to", "version", help="Version to go back to.  [default: the one that was champion before]")
@click.option("--why", default="rolled back", show_default=True, help="Reason, for the audit.")
@with_context
def rollback(version: str | None, why: str, pipeline: str, home: Path | None, as_json: bool) -> None:
    """Undo the promotion of the champion, or with --to all since that of another version.

    Events are then scored as if what is undone had never been promoted; scores that are published stay. Each roll back
    goes one promotion further back. A version that was never champion is promoted.
    """
    context = ModelContext.read(pipeline, home)
    timeline = _read(context)
    newest = timeline.newest()
    if newest is not None and version == newest.version:
        raise click.ClickException(f"{context.model} {version} is the champion already.")
    back_to = timeline.previous() if version is None else _find_below(timeline, version)
    if back_to is not None:
        emit_promotion(_go_back(context, timeline, back_to, why), as_json)
    elif version is not None:
        emit_promotion(promote_version(context, version, why), as_json)
    else:
        there = "no version has been promoted" if newest is None else f"{newest.version} is the first that was promoted"
        raise click.ClickException(f"There is nothing to go back to: {there}. Name a registered version by --to.")


@dataclass(frozen=True)
class Promotion:
    """An announced update, its offset, and the timeline that it is the last of."""

    context: ModelContext
    update: ModelUpdate
    offset: int
    timeline: Timeline


def promote_version(
    context: ModelContext,
    version: str,
    why: str,
    valid_from_ms: int | None = None,
    *,
    score_training_rows: bool = False,
) -> Promotion:
    """Verify a registered version and announce it as champion; ends the command with a sentence when it cannot."""
    entry = verify_entry(context, version)
    if not score_training_rows:
        valid_from_ms = _begin_after_training(entry.manifest, valid_from_ms)
    update = ModelUpdate(
        model=context.model,
        version=version,
        role="champion",
        uri=entry.uri,
        sha256=entry.manifest.artifact.sha256,
        feature_set=entry.manifest.feature_set,
        announced_at_ms=wall_clock_ms(),
        valid_from_ms=valid_from_ms,
        by=who(),
        why=why,
    )
    return _announce(context, _read(context), update)


def expected_of(context: ModelContext, version: str) -> Expected:
    """What a version has to be to serve the pipeline."""
    return Expected(context.pipeline.feature_set, context.pipeline.feature_names, (context.model, version))


def verify_entry(context: ModelContext, version: str) -> Entry:
    """Put a registered version through the gates of a worker, so that what is announced will be loaded."""
    try:
        entry = context.registry.entry(context.model, version)
        verify(entry.manifest, entry.read_artifact(), expected_of(context, version))
    except (RegistryError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except RefusedModelError as error:
        raise click.ClickException(f"{context.model} {version} is refused ({error.reason}): {error.detail}") from error
    return entry


def emit_promotion(promotion: Promotion, as_json: bool) -> None:
    """Print an announcement."""
    emit(describe_promotion(promotion), as_json, *promotion_lines(promotion))


def describe_promotion(promotion: Promotion) -> dict[str, Any]:
    """Return the announcement for ``--json``; ``before``: who scores earlier events, the latest first."""
    before = [
        {"until_ms": span.to_ms, "version": span.champion.version if span.champion is not None else None}
        for span in _before(promotion)
    ]
    return {**to_builtins(promotion.update), "offset": promotion.offset, "before": before}


def promotion_lines(promotion: Promotion) -> list[str]:
    """Return what it says to a person: from when on the version scores, and what becomes of earlier events."""
    update, score_from_ms = promotion.update, promotion.context.pipeline.model.score_from_ms
    since_ms = update.valid_from_ms
    again = " again" if update.is_rollback else ""
    since = "for all events" if since_ms is None else f"for events from {format_time(since_ms)} on"
    place = f"(offset {promotion.offset} of the timeline)"
    lines = [f"{update.model} {update.version} is champion{again} {since} {place}."]
    if since_ms is not None and since_ms > wall_clock_ms():
        lines.append("By this machine's clock, no event is that new yet.")
    for span in _before(promotion):
        fate = f"go on with {span.champion.version}" if span.champion is not None else "are left unscored"
        lines.append(f"Events before {format_time(span.to_ms)} {fate}.")
    if any(earlier.role == "champion" for earlier in promotion.timeline.updates[:-1]):
        lines.append("Scores that are published already stay as they are.")
    if score_from_ms is not None:
        lines.append(f"The pipeline file leaves all events before {format_time(score_from_ms)} unscored (score_from).")
    return lines


def _before(promotion: Promotion) -> list[Span]:
    """The spans before the one of the champion, the latest first."""
    return list(promotion.timeline.spans())[-2::-1]


def _begin_after_training(manifest: Manifest, valid_from_ms: int | None) -> int:
    trained_to_ms = manifest.training.to_ms
    if valid_from_ms is not None and valid_from_ms < trained_to_ms:
        raise click.ClickException(
            f"{manifest.model} {manifest.version} was trained on events up to {format_time(trained_to_ms)}; scores of"
            " those would say nothing of how good it is. Leave --valid-from out to begin there, or add"
            " --score-training-rows."
        )
    return trained_to_ms if valid_from_ms is None else valid_from_ms


def _go_back(context: ModelContext, timeline: Timeline, back_to: ModelUpdate, why: str) -> Promotion:
    entry = verify_entry(context, back_to.version)
    update = replace(back_to, uri=entry.uri, announced_at_ms=wall_clock_ms(), by=who(), why=why, is_rollback=True)
    return _announce(context, timeline, update)


def _find_below(timeline: Timeline, version: str) -> ModelUpdate | None:
    """The newest promotion of a version below the champion."""
    return next((update for update in timeline.champions[-2::-1] if update.version == version), None)


def _announce(context: ModelContext, timeline: Timeline, update: ModelUpdate) -> Promotion:
    try:
        kafka = context.find_kafka()
        offset = run_with_kafka(kafka, announce(kafka, context.pipeline.topics, update))
    except StackError as error:
        raise click.ClickException(str(error)) from error
    timeline.observe(update)
    return Promotion(context, update, offset, timeline)


def _read(context: ModelContext) -> Timeline:
    try:
        kafka = context.find_kafka()
        return run_with_kafka(kafka, read_timeline(kafka, context.pipeline.topics)).timeline
    except StackError as error:
        raise click.ClickException(str(error)) from error
