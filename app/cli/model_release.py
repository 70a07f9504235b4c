"""``streamgauge model promote`` and ``rollback``: which version scores, by a record on the model-update topic."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from app.adapters.model_announcer import announce, read_timeline
from app.adapters.stack_error import StackError
from app.cli.model_context import ModelContext, UtcTime, emit, format_time, read_clock_ms, who, with_context
from models.registry import Entry, RegistryError
from models.verify import RefusedModelError, verify
from schemas.wire import ModelUpdate, to_builtins


@click.command("promote")
@click.argument("version")
@click.option(
    "--valid-from", "valid_from_ms", type=UtcTime(), help="Event time from which it scores.  [default: now on]"
)
@click.option("--why", default="", help="Reason, for the audit.")
@with_context
def promote(
    *, version: str, valid_from_ms: int | None, why: str, pipeline: str, home: Path | None, as_json: bool
) -> None:
    """Make a registered VERSION the champion: verify it here, then announce it to the workers."""
    context = ModelContext.read(pipeline, home)
    update, offset = release(context, version, valid_from_ms, why)
    emit(*describe_release(update, offset, as_json))


@click.command("rollback")
@click.option("--to", "version", help="Version to go back to.  [default: the one promoted before]")
@click.option("--why", default="rolled back", show_default=True, help="Reason, for the audit.")
@with_context
def rollback(version: str | None, why: str, pipeline: str, home: Path | None, as_json: bool) -> None:
    """Promote the previously promoted version again, for all events from now on."""
    context = ModelContext.read(pipeline, home)
    if version is None:
        version = _find_previous(context)
    update, offset = release(context, version, None, why)
    emit(*describe_release(update, offset, as_json))


def release(context: ModelContext, version: str, valid_from_ms: int | None, why: str) -> tuple[ModelUpdate, int]:
    """Verify a registered version and announce it as champion; ends the command with a sentence when it cannot."""
    try:
        entry = verify_entry(context, version)
        update = ModelUpdate(
            model=context.model,
            version=version,
            role="champion",
            uri=entry.uri,
            sha256=entry.manifest.artifact.sha256,
            feature_set=entry.manifest.feature_set,
            announced_at_ms=read_clock_ms(),
            valid_from_ms=valid_from_ms,
            by=who(),
            why=why,
        )
        offset = asyncio.run(announce(context.find_kafka(), context.pipeline.topics, update))
    except (RegistryError, ValueError, StackError) as error:
        raise click.ClickException(str(error)) from error
    except RefusedModelError as error:
        raise click.ClickException(f"{context.model} {version} is refused ({error.reason}): {error.detail}") from error
    return update, offset


def verify_entry(context: ModelContext, version: str) -> Entry:
    """Put a registered version through the gates of a worker, so that what is announced will be loaded."""
    entry = context.registry.entry(context.model, version)
    manifest, artifact = context.registry.load(context.model, version)
    verify(
        manifest,
        artifact,
        context.pipeline.feature_set,
        expected_names=context.pipeline.feature_names,
        expected_model=(context.model, version),
    )
    return entry


def describe_release(update: ModelUpdate, offset: int, as_json: bool) -> tuple[dict[str, Any], bool, str]:
    """Return what `emit` prints of an announcement."""
    since = "from now on" if update.valid_from_ms is None else f"for events from {format_time(update.valid_from_ms)}"
    line = f"{update.model} {update.version} is champion {since} (offset {offset} of the timeline)."
    return {**to_builtins(update), "offset": offset}, as_json, line


def _find_previous(context: ModelContext) -> str:
    try:
        timeline = asyncio.run(read_timeline(context.find_kafka(), context.pipeline.topics)).timeline
    except StackError as error:
        raise click.ClickException(str(error)) from error
    previous = timeline.previous()
    if previous is None:
        newest = timeline.newest()
        there = "no version has been promoted" if newest is None else f"{newest.version} is the first that was promoted"
        raise click.ClickException(f"There is nothing to go back to: {there}. Name a registered version by --to.")
    return previous.version
