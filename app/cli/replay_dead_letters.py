"""``streamgauge replay-dead-letters``: what could not be scored goes back to its topic, each record once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.letter_sender import LetterSender, read_done, read_letters
from app.cli.data_commands import Counter, count, plain_errors
from app.cli.model_context import ModelContext, emit, with_context
from app.cli.utc_time import UtcTime
from app.clock import wall_clock_ms
from app.core.replay.letter_selection import Selection, Wanted, select

STAGES = ("decode", "validate", "features", "score", "label")


@click.command("replay-dead-letters", context_settings={"help_option_names": ["-h", "--help"]})
@with_context
@click.option("--reason", "reasons", multiple=True, help="Only this reason, e.g. wrong_type; may be given again.")
@click.option(
    "--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this stage; may be given again."
)
@click.option("--from", "from_ms", type=UtcTime(), help="Only what was rejected from this time on, UTC.")
@click.option("--to", "to_ms", type=UtcTime(), help="Only what was rejected before this time.")
@click.option("--again", is_flag=True, help="Also records that were sent back before and rejected again.")
@click.option(
    "--transaction",
    "size",
    type=click.IntRange(1, 5_000),
    default=500,
    show_default=True,
    help="Records in one transaction.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def command(
    *,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    reasons: tuple[str, ...],
    stages: tuple[str, ...],
    from_ms: int | None,
    to_ms: int | None,
    again: bool,
    size: int,
    dry_run: bool,
) -> None:
    """Send records that could not be scored back to the end of the topic partition they came from, each once.

    The original key, value and headers, and a header that says where the record was read first. Run it again, after a
    crash or by mistake: what was sent is not sent again. Of two at once, the one that started first ends.

    A record that comes back is late: it is scored with what its windows hold now, and counts in the window of its own
    event time if that is still open or may be amended. It takes the time stamp of now, so `time_ahead` can pass.

    \b
    Examples:
      streamgauge replay-dead-letters --dry-run
      streamgauge replay-dead-letters --reason wrong_type --from 2026-03-01T06:00:00Z
      streamgauge replay-dead-letters --stage features
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise click.UsageError("--to must be after --from.")
    context = ModelContext.read(pipeline, home)
    wanted = Wanted(frozenset(reasons), frozenset(stages), from_ms, to_ms, again)
    with plain_errors():
        selection, sent, foreign = run_with_kafka(context.find_kafka(), _run(context, wanted, size, dry_run=dry_run))
    result: dict[str, Any] = {
        "dry_run": dry_run,
        "selected": len(selection.letters),
        "sent": sent,
        "sent_before": selection.done,
        "rejected_again": selection.repeated,
        "by_stage_and_reason": {f"{stage}/{reason}": n for (stage, reason), n in sorted(selection.counts.items())},
        "not_selected": {f"{stage}/{reason}": n for (stage, reason), n in sorted(selection.unmatched.items())},
    }
    emit(result, as_json, *_describe(selection, sent, foreign, dry_run=dry_run))


async def _run(context: ModelContext, wanted: Wanted, size: int, *, dry_run: bool) -> tuple[Selection, int, int]:
    kafka, pipeline = context.find_kafka(), context.pipeline
    async with AsyncExitStack() as stack:
        # Fence first: from then on another sender cannot commit, so what is read here is all that was sent.
        sender = None
        if not dry_run:
            sender = await stack.enter_async_context(LetterSender(kafka, pipeline, wall_clock_ms))
        done = await read_done(kafka, pipeline)
        letters, foreign = await read_letters(kafka, pipeline)
        selection = select(letters, wanted, done)
        sent = 0
        if sender is not None:
            with Counter("Sending back", len(selection.letters)) as counter:
                for start in range(0, len(selection.letters), size):
                    piece = selection.letters[start : start + size]
                    await sender.send(piece)
                    sent += len(piece)
                    counter.add(len(piece))
    return selection, sent, foreign


def _describe(selection: Selection, sent: int, foreign: int, *, dry_run: bool) -> list[str]:
    lines = []
    if dry_run:
        chosen = count(len(selection.letters), "record")
        lines.append(f"{chosen} would go back to where they came from; none was sent.")
    else:
        lines.append(f"{count(sent, 'record')} sent back to where they came from.")
    width = max((len(f"{n:,}") for n in selection.counts.values()), default=0)
    lines += [f"  {n:>{width},}  {stage}: {reason}" for (stage, reason), n in selection.counts.most_common()]
    if selection.done:
        lines.append(f"{count(selection.done, 'record')} had been sent back before.")
    if selection.repeated:
        repeated = count(selection.repeated, "record")
        lines.append(
            f"{repeated} had been sent back before and rejected again: mend what rejects them, and add --again."
        )
    if selection.unmatched:
        others = ", ".join(f"{stage}: {reason} {n:,}" for (stage, reason), n in selection.unmatched.most_common())
        lines.append(f"{selection.unmatched.total():,} others were not asked for ({others}).")
    if foreign:
        lines.append(f"{foreign:,} records of the topic are no dead letters of ours and were passed over.")
    return lines
