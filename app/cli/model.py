"""``streamgauge model``: the life of a model version, from training to roll back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.model_announcer import read_timeline
from app.cli.model_context import ModelContext, emit, format_time, with_context
from app.cli.model_promote import expected_of, promote, rollback
from app.cli.model_train import train
from app.exits import StackError
from models.versions.manifest import Manifest, ManifestError
from models.versions.registry import RegistryError, read_bundle
from models.versions.timeline import Timeline
from models.versions.verify import RefusedModelError, verify


@click.group("model", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Train, register, list, show, promote and roll back model versions.

    Versions live in the registry (STREAMGAUGE_REGISTRY) and never change; which of them scores is the timeline on the
    pipeline's model-update topic.
    """


@command.command("register")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@with_context
def register(path: Path, pipeline: str, home: Path | None, as_json: bool) -> None:
    """Verify and store the version in the folder PATH (manifest.json and model.skops)."""
    context = ModelContext.read(pipeline, home)
    try:
        manifest, artifact = read_bundle(path)
        verified = verify(manifest, artifact, expected_of(context, manifest.version))
        entry = context.registry.register(manifest, artifact)
    except (RegistryError, ManifestError) as error:
        raise click.ClickException(str(error)) from error
    except RefusedModelError as error:
        raise click.ClickException(f"{path} is refused ({error.reason}): {error.detail}") from error
    result = {
        "model": manifest.model,
        "version": manifest.version,
        "uri": entry.uri,
        "is_bit_equal": verified.is_bit_equal,
        "latency_us": verified.latency_us,
    }
    emit(result, as_json, f"{manifest.model} {manifest.version} is registered at {entry.uri}.")


@command.command("list")
@with_context
def list_versions(pipeline: str, home: Path | None, as_json: bool) -> None:
    """List the registered versions of the pipeline's model, oldest first, and which one is champion."""
    context = ModelContext.read(pipeline, home)
    try:
        entries = context.registry.entries(context.model)
    except (RegistryError, ManifestError) as error:
        raise click.ClickException(str(error)) from error
    timeline = _read_timeline_if_any(context)
    newest = timeline.newest() if timeline else None
    unfinished = [str(folder) for folder in context.registry.unfinished()]
    rows = [
        {**_brief(entry.manifest), "uri": entry.uri, "is_champion": newest is not None and _is(newest, entry.manifest)}
        for entry in entries
    ]
    lines = [_row(row) for row in rows] or [
        f"{context.registry.root} has no version of {context.model}; make one by `streamgauge model train`."
    ]
    if unfinished:
        lines.append(f"Ignored, as they are not finished: {', '.join(unfinished)}; remove them when no training runs.")
    emit({"model": context.model, "versions": rows, "unfinished": unfinished}, as_json, *lines)


@command.command("show")
@click.argument("version")
@with_context
def show(version: str, pipeline: str, home: Path | None, as_json: bool) -> None:
    """Show what the manifest of VERSION says; --json prints all of it but the golden rows and the reference."""
    context = ModelContext.read(pipeline, home)
    try:
        entry = context.registry.entry(context.model, version)
    except (RegistryError, ManifestError) as error:
        raise click.ClickException(str(error)) from error
    manifest = entry.manifest
    timeline = _read_timeline_if_any(context)
    history = [update for update in timeline.updates if _is(update, manifest)] if timeline else []
    body: dict[str, Any] = msgspec.to_builtins(manifest)
    body["golden"] = len(manifest.golden.rows)
    body["reference"] = None if manifest.reference is None else len(manifest.reference.get("metrics", ()))
    body |= {
        "digest": manifest.digest,
        "uri": entry.uri,
        "timeline": [msgspec.to_builtins(update) for update in history],
    }
    matches = manifest.feature_set == context.pipeline.feature_set
    body["matches_pipeline"] = matches
    training, width = manifest.training, len(manifest.signature.features)
    stale = "" if matches else f"; the pipeline now has {context.pipeline.feature_set}, so workers will refuse it"
    facts = {
        "predicts": manifest.target or "(not said)",
        "trained on": f"{format_time(training.from_ms)} … {format_time(training.to_ms)}",
        "rows": f"{training.labelled_rows} labelled of {training.rows} events, SHA-256 {training.sha256[:12]}…",
        "features": f"{width}, set {manifest.feature_set}{stale}",
        "artifact": f"{manifest.artifact.format}, {manifest.artifact.size_bytes} bytes, {manifest.artifact.sha256}",
        "golden rows": str(len(manifest.golden.rows)),
        "libraries": ", ".join(f"{name} {number}" for name, number in manifest.libraries.items()),
        "follows": manifest.parent or "nothing",
    }
    lines = [_row(_brief(manifest) | {"is_champion": False})]
    lines += [f"  {name:<12} {fact}" for name, fact in facts.items()]
    lines += [
        f"  {update.role:<12} {format_time(update.announced_at_ms)} {update.by} {update.why}" for update in history
    ]
    emit(body, as_json, *lines)


def _read_timeline_if_any(context: ModelContext) -> Timeline | None:
    """Return the timeline when Kafka is there: listing what is registered must work without."""
    try:
        return run_with_kafka(
            context.find_kafka(), read_timeline(context.find_kafka(), context.pipeline.topics)
        ).timeline
    except StackError:
        return None


def _is(update: Any, manifest: Manifest) -> bool:
    return (update.model, update.version) == (manifest.model, manifest.version)


def _brief(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "family": manifest.family,
        "auc": manifest.metrics.auc,
        "log_loss": manifest.metrics.log_loss,
        "from_ms": manifest.training.from_ms,
        "to_ms": manifest.training.to_ms,
        "labelled_rows": manifest.training.labelled_rows,
        "created_at_ms": manifest.created_at_ms,
    }


def _row(row: dict[str, Any]) -> str:
    auc = "   -  " if row["auc"] is None else f"{row['auc']:.4f}"
    champion = "  champion" if row["is_champion"] else ""
    return (
        f"{row['model']} {row['version']:<9} {row['family']:<9} AUC {auc}  log loss {row['log_loss']:.4f}  "
        f"{format_time(row['from_ms'])[:10]} … {format_time(row['to_ms'])[:10]}{champion}"
    )


for subcommand in (train, promote, rollback):
    command.add_command(subcommand)
