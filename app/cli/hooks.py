"""``streamgauge hooks``: tell others what is published; list what was given up, and send it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from app.adapters.http.place import HttpPlace
from app.cli.http_options import http_options
from app.cli.model_context import ModelContext, emit, format_time, who, with_context
from app.cli.utc_time import StartType, UtcTime
from app.exits import StackError
from schemas.wire import HookDelivery, HookState

if TYPE_CHECKING:
    from app.hooks.resend import Choose, Resent


@click.group("hooks", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Tell others of scores, alerts, verdicts and models (docs/hooks.md); list and send again what was given up."""


@command.command("run")
@click.option("--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="Whose hooks.")
@http_options("/healthz, /readyz and /metrics")
@click.option(
    "--instance",
    metavar="NAME",
    help="A name that this sender keeps when it is started again, unlike any other's: it has its partitions back at"
    " once.",
)
@click.option(
    "--from",
    "begin_ms",
    type=StartType(),
    default="latest",
    show_default=True,
    help="Where topics begin that no sender has read: what Kafka stamped with TIME (UTC) or later, all of it, or only"
    " what comes from now on. Otherwise a sender goes on where the last one was.",
)
@click.option(
    "--skip-removed",
    is_flag=True,
    help="Go on although retention has removed records before they were told; without it the sender refuses.",
)
def run_command(
    *,
    name: str,
    http_host: str,
    http_port: int,
    former_http_port: int,
    allowed_hosts: tuple[str, ...],
    instance: str | None,
    begin_ms: int,
    skip_removed: bool,
) -> None:
    """Run the hooks of a pipeline until SIGTERM or Ctrl-C.

    Several may run: they share the partitions. `streamgauge up` runs one for a pipeline with hooks.

    Exit codes: 0 stopped, 2 wrong usage, 75 failed and worth starting again, 78 failed and a person must mend it first.
    """
    from app.hooks.start import run  # noqa: PLC0415  # `--help` needs none of it
    from app.hooks.starts import Beginning  # noqa: PLC0415

    place = HttpPlace.choose(http_host, http_port, former_http_port, allowed_hosts)
    run(name, place, Beginning(begin_ms, skip_removed), instance)


@command.command("list")
@with_context
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="Only of this hook; may be given again.")
@click.option("--parked", is_flag=True, help="What is retried now, instead of what was given up.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="How many are shown one by one.")
def list_command(
    *, pipeline: str, home: Path | None, as_json: bool, hooks: tuple[str, ...], parked: bool, limit: int
) -> None:
    """List what was given up, by hook and one by one, and which hooks are disabled.

    Exit codes: 0 done, 1 it could not be done, 2 wrong usage.
    """
    context = _read(pipeline, home)
    with _plain_errors():
        topics = context.pipeline.topics
        records, states = _look(context, topics.hooks_retry if parked else topics.hooks_dead)
    chosen = _choose(records, hooks)
    counts = Counter(record.hook for record in chosen)
    what = "parked" if parked else "given up"
    lines = [
        f"Hook {state.hook} is disabled since {format_time(state.disabled_at_ms)}: {state.why}" for state in states
    ]
    lines += [f"{name}: {n:,} {what}" for name, n in sorted(counts.items())] or [f"Nothing is {what}."]
    lines += [_describe(record) for record in chosen[:limit]]
    if limit and len(chosen) > limit:
        lines.append(f"… and {len(chosen) - limit:,} more: --limit shows them.")
    result = {
        "disabled": [msgspec.to_builtins(state) for state in states],
        "counts": dict(counts),
        "deliveries": [_as_json(record) for record in chosen[:limit]],
    }
    emit(result, as_json, *lines)


@command.command("resend")
@with_context
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="Only of this hook; may be given again.")
@click.option("--id", "ids", multiple=True, metavar="WEBHOOK-ID", help="Only this one; may be given again.")
@click.option("--from", "from_ms", type=UtcTime(), help="Only what was given up from this time on, UTC.")
@click.option("--to", "to_ms", type=UtcTime(), help="Only what was given up before this time.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def resend_command(
    *,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    hooks: tuple[str, ...],
    ids: tuple[str, ...],
    from_ms: int | None,
    to_ms: int | None,
    dry_run: bool,
) -> None:
    """Send what was given up again, each once, in the order of the records.

    What has arrived is given up no more: running this again sends only what has failed. Each keeps its webhook-id, so
    a receiver that has it already can tell. The secrets must be in the environment, as for `streamgauge hooks run`.

    \b
    Examples:
      streamgauge hooks resend --pipeline payments.toml --hook crm --dry-run
      streamgauge hooks resend --pipeline payments.toml --hook crm

    Exit codes: 0 all have arrived, 1 some have not, 2 wrong usage.
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise click.UsageError("--to must be after --from.")
    context = _read(pipeline, home)

    def choose(dead: dict[str, HookDelivery]) -> list[HookDelivery]:
        if missing := [name for name in ids if name not in dead]:
            raise StackError(f"{missing[0]} is not among what was given up: `streamgauge hooks list` shows that.")
        chosen = [record for record in _choose(dead.values(), hooks) if _is_within(record, from_ms, to_ms)]
        return [record for record in chosen if not ids or record.id in ids]

    with _plain_errors():
        if dry_run:
            records, _ = _look(context, context.pipeline.topics.hooks_dead)
            names = [record.id for record in choose({record.id: record for record in records})]
            emit({"would_send": names}, as_json, f"{len(names):,} would be sent.", *names[:20])
            return
        result = _resend(context, choose)
    names = sorted({*result.told, *result.failed, *result.left})
    lines = [
        f"{name}: {result.told[name]:,} arrived, {result.failed[name]:,} failed, {result.left[name]:,} left"
        + (f". {result.why[name]}" if name in result.why else "")
        for name in names
    ]
    said = {name: dict(getattr(result, name)) for name in ("told", "failed", "left", "why")}
    emit(said, as_json, *(lines or ["Nothing is given up that could be sent."]))
    if result.failed or result.left:
        raise SystemExit(1)


@command.command("enable")
@click.argument("hook")
@with_context
@click.option("--by", default=who, help="Your name.  [default: who you are on this machine]")
def enable_command(*, hook: str, pipeline: str, home: Path | None, as_json: bool, by: str) -> None:
    """Use a hook again that was disabled because its destination answered 410.

    What it had to tell meanwhile was given up: `streamgauge hooks resend` sends it.

    Exit codes: 0 enabled, or not disabled; 1 it could not be done, 2 wrong usage.
    """
    context = _read(pipeline, home)
    with _plain_errors():
        was_disabled = _enable(context, hook, by)
    said = f"{hook} is enabled." if was_disabled else f"{hook} is not disabled."
    emit({"hook": hook, "was_disabled": was_disabled}, as_json, said)


def _read(pipeline: str, home: Path | None) -> ModelContext:
    context = ModelContext.read(pipeline, home)
    known = [hook.name for hook in context.pipeline.hooks]
    if not known:
        raise click.ClickException(f"{context.pipeline.path} has no hooks; add a table [[hooks]].")
    return context


def _look(context: ModelContext, topic: str) -> tuple[list[HookDelivery], list[HookState]]:
    """The deliveries of a topic, and the hooks that are disabled."""
    from app.adapters.kafka.answers import run_with_kafka  # noqa: PLC0415  # `--help` needs none of it
    from app.hooks.hook_records import read_deliveries, read_states  # noqa: PLC0415

    kafka = context.find_kafka()

    async def read() -> tuple[list[HookDelivery], list[HookState]]:
        try:
            deliveries = await read_deliveries(kafka, context.pipeline.topics, topic)
            states = await read_states(kafka, context.pipeline)
        except LookupError as error:
            raise StackError(str(error)) from error
        return list(deliveries.values()), list(states.values())

    return run_with_kafka(kafka, read())


def _resend(context: ModelContext, choose: Choose) -> Resent:
    from app.adapters.kafka.answers import run_with_kafka  # noqa: PLC0415  # `--help` needs none of it
    from app.hooks.resend import resend  # noqa: PLC0415

    kafka = context.find_kafka()
    return run_with_kafka(kafka, resend(context.pipeline, kafka, choose))


def _enable(context: ModelContext, hook: str, by: str) -> bool:
    from app.adapters.kafka.answers import run_with_kafka  # noqa: PLC0415  # `--help` needs none of it
    from app.hooks.resend import enable  # noqa: PLC0415

    kafka = context.find_kafka()
    return run_with_kafka(kafka, enable(context.pipeline, kafka, hook, by))


def _plain_errors() -> Any:
    from app.cli.data_commands import plain_errors  # noqa: PLC0415  # it knows the errors of all commands

    return plain_errors()


def _choose(records: Iterable[HookDelivery], hooks: Sequence[str]) -> list[HookDelivery]:
    """Those of some hooks (none: of all), the newest first."""
    chosen = [record for record in records if not hooks or record.hook in hooks]
    return sorted(chosen, key=lambda record: -(record.given_up_at_ms or record.parked_at_ms))


def _is_within(record: HookDelivery, from_ms: int | None, to_ms: int | None) -> bool:
    at_ms = record.given_up_at_ms or 0
    return (from_ms is None or at_ms >= from_ms) and (to_ms is None or at_ms < to_ms)


def _describe(record: HookDelivery) -> str:
    at = format_time(record.given_up_at_ms or record.parked_at_ms)
    return f"{at}  {record.id}  {record.type} of {record.entity}  {record.why}".rstrip()


def _as_json(record: HookDelivery) -> dict[str, Any]:
    return {"id": record.id, **{name: getattr(record, name) for name in record.__struct_fields__}}
