"""``streamgauge model train``: a new version from a pipeline's data, registered and, if asked, promoted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from msgspec.structs import replace

from app.cli.model_context import ModelContext, emit, format_time, with_context
from app.cli.model_promote import describe_promotion, promote_version, promotion_lines
from app.cli.utc_time import UtcTime
from app.clock import wall_clock_ms
from app.core.drift.filling import say_of_training
from app.core.labels.held import say_share
from app.core.labels.hold_out import describe_hold_out, say_of_hold_out
from app.core.labels.maturity import MaturityError
from app.visible import visible
from models.scoring.families import FAMILIES
from models.training import TrainedModel, TrainingError
from models.training import train as train_model
from models.versions.manifest import Bump, Manifest, ManifestError, parse_version
from models.versions.registry import RegistryError, VersionTakenError
from models.versions.verify import Expected, RefusedModelError, verify

if TYPE_CHECKING:
    from app.flow.step import Step
    from models.hold_out import HoldOut

#: How often the next version number is tried when another training has just taken one.
RENUMBERINGS = 20
LINE_EVERY_S = 5.0


@click.command("train")
@click.option("--family", type=click.Choice(list(FAMILIES)), default="hgb", show_default=True, help="Kind of model.")
@click.option("--from", "from_ms", type=UtcTime(), required=True, help="First event time, UTC, e.g. 2013-01-01.")
@click.option("--to", "to_ms", type=UtcTime(), required=True, help="Event time to stop before, e.g. 2013-03-01.")
@click.option(
    "--recording",
    type=click.Path(exists=True, path_type=Path),
    help="Recording to train on.  [default: the pipeline's source]",
)
@click.option(
    "--immature",
    type=click.Choice(["leave-out", "weigh"]),
    default="leave-out",
    show_default=True,
    help="What to do with events that are younger than performance.maturity when the last label is known: nothing, or"
    " fit on those with a label as well, weighed by how likely it is to be here at that age.",
)
@click.option("--version", help="Version to give.  [default: the next one by --bump, or 1.0.0]")
@click.option(
    "--bump", type=click.Choice(get_args(Bump)), default="minor", show_default=True, help="Which number goes up."
)
@click.option("--register/--no-register", default=True, show_default=True, help="Store the version in the registry.")
@click.option(
    "--promote", is_flag=True, help="Announce it as champion, for events from --to on, once it is registered."
)
@with_context
def train(
    *,
    family: str,
    from_ms: int,
    to_ms: int,
    recording: Path | None,
    immature: str,
    version: str | None,
    bump: Bump,
    register: bool,
    promote: bool,
    pipeline: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Train a version on the labelled events of a time range, those whose labels must have come before its end.

    The newest fifth judges a model fitted on the rest; what is registered is then fitted on all.
    """
    if to_ms <= from_ms:
        raise click.UsageError("--to must be later than --from.")
    if promote and not register:
        raise click.UsageError("--promote needs --register: workers load what is registered.")
    context = _read_context(pipeline, home, recording)
    started = time.monotonic()
    try:
        if version is not None:
            parse_version(version)
        trained = _train(
            context,
            family=family,
            from_ms=from_ms,
            to_ms=to_ms,
            recording=recording,
            weigh_young=immature == "weigh",
            version=version,
            bump=bump,
        )
        manifest = trained.manifest
        if note := say_of_hold_out(trained.hold_out, [name for name in FAMILIES if name != family]):
            _say(f"Note: {note}")
        _say("Verifying the new version …")
        # These bytes are our own and need no child process; whoever loads them later uses one.
        verify(manifest, trained.artifact, Expected(context.pipeline.feature_set), in_child=False)
        uri = None
        if register:
            manifest, uri = _register(context, trained, version, bump)
    except (TrainingError, MaturityError, RegistryError, ManifestError) as error:
        raise click.ClickException(str(error)) from error
    except RefusedModelError as error:
        raise click.ClickException(f"The new version does not pass ({error.reason}): {error.detail}") from error
    result = _summarise(manifest, uri, time.monotonic() - started)
    lines = _describe(manifest, trained.hold_out, uri)
    if promote:
        promotion = promote_version(context, manifest.version, "trained")
        result["announced"] = describe_promotion(promotion)
        lines += promotion_lines(promotion)
    emit(result, as_json, *lines)


def _read_context(pipeline: str, home: Path | None, recording: Path | None) -> ModelContext:
    """Read the pipeline file; UsageError when there is nothing to train on by it."""
    context = ModelContext.read(pipeline, home)
    if context.pipeline.labels is None:
        raise click.UsageError(
            f"{context.pipeline.path} has no [labels], and a model learns from what became of events: add [labels] with"
            " a horizon, and have the labels sent."
        )
    if recording is None and context.pipeline.source is None:
        raise click.UsageError(
            f"{context.pipeline.path} names no source to train on: record the topics by `streamgauge record FILE`, and"
            " name that FILE by --recording."
        )
    return context


def _train(
    context: ModelContext,
    *,
    family: str,
    from_ms: int,
    to_ms: int,
    recording: Path | None,
    weigh_young: bool,
    version: str | None,
    bump: Bump,
) -> TrainedModel:
    known = context.registry.versions(context.model)
    if version in known:
        raise VersionTakenError(f"{context.model} {version} is registered and never changes; choose another version.")
    source = recording if recording is not None else "the pipeline's source"
    _say(f"Reading the events of {source} from {format_time(from_ms)} to {format_time(to_ms)} …")
    # Of the subcommands, only this one runs the core offline and needs the readers of recordings.
    from app.cli.data_commands import plain_errors  # noqa: PLC0415
    from app.replay.training_set import build_training_set  # noqa: PLC0415

    with plain_errors():
        data = build_training_set(
            context.pipeline, recording, from_ms, to_ms, weigh_young=weigh_young, see=_Reading().see
        )
    for sentence in data.maturity.describe():
        _say(sentence)
    newest_ms = int(data.event_time_ms[-1]) if len(data.labels) else from_ms
    for sentence in [*data.maturity.warnings(), *say_of_training(data.filling, newest_ms)]:
        _say(f"Note: {sentence}")
    return train_model(
        data.to_training_range(),
        context.pipeline,
        family,
        version=version or context.registry.next_version(context.model, bump),
        created_at_ms=wall_clock_ms(),
        parent=known[-1] if known else None,
        progress=lambda words: _say(f"{family}: {words} …"),
    )


class _Reading:
    """Says how far the reading has come, a line every few seconds."""

    def __init__(self) -> None:
        self._events = 0
        self._line_at = time.monotonic()

    def see(self, step: Step) -> None:
        self._events += len(step.events)
        if len(step.events) and time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            _say(f"  {self._events:,} events so far, up to {format_time(int(step.events.event_time_ms[-1]))[:10]}")


def _say(sentence: str) -> None:
    click.echo(visible(sentence), err=True)


def _register(context: ModelContext, trained: TrainedModel, version: str | None, bump: Bump) -> tuple[Manifest, str]:
    manifest = trained.manifest
    for _ in range(RENUMBERINGS):
        try:
            return manifest, context.registry.register(manifest, trained.artifact).uri
        except VersionTakenError:
            if version is not None:
                raise
            # Another training has taken the number meanwhile.
            manifest = replace(manifest, version=context.registry.next_version(context.model, bump))
    raise RegistryError(f"Other trainings keep taking the next version of {context.model}; choose one by --version.")


def _summarise(manifest: Manifest, uri: str | None, seconds: float) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "family": manifest.family,
        "uri": uri,
        "sha256": manifest.artifact.sha256,
        "feature_set": manifest.feature_set,
        "training": manifest.training,
        "metrics": manifest.metrics,
        "seconds": round(seconds, 3),
    }


def _describe(manifest: Manifest, judged: HoldOut, uri: str | None) -> list[str]:
    training = manifest.training
    name = f"{manifest.model} {manifest.version} ({manifest.family})"
    positive = f"{round(training.positive_share * training.labelled_rows):,} positive"
    return [
        f"{name} on {training.labelled_rows:,} labelled events, {positive} ({say_share(training.positive_share)}).",
        describe_hold_out(judged, manifest.metrics),
        f"Registered at {uri}." if uri else "Not registered.",
    ]
