"""``streamgauge parity``: features as they were served, held against the same features computed anew."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from app.adapters.recordings.part import RecordingPart
from app.adapters.sources.features import compile_features
from app.cli.data_commands import Counter, count, plain_errors
from app.cli.model_context import ModelContext, emit, with_context
from app.cli.replay_source import open_part, show, with_source
from app.core.replay.bounds import Bound
from app.core.replay.parity import FeatureParity
from app.replay.asked import check_asked, read_asked
from app.replay.models import load_model
from app.replay.parity import Parity, run_parity
from app.replay.served import ServedFromTable

#: For more events than this, SQL may take minutes, and the command says so.
_MANY_EVENTS = 50_000


@click.command("parity", context_settings={"help_option_names": ["-h", "--help"]})
@with_source
@with_context
@click.option(
    "--served",
    type=click.Choice(["recording", "clickhouse"]),
    default="recording",
    show_default=True,
    help="Where the served values are: the recorded scores, or the table scores.",
)
@click.option(
    "--answers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Compare answers of the scoring hook instead: a file with a line {"event": …, "answer": …} for each.',
)
@click.option("--sql/--no-sql", "with_sql", default=True, help="Also compute the windows by SQL.  [default: yes]")
def command(
    *,
    path: Path | None,
    begin: Bound,
    end: Bound,
    warm_up_ms: int | None,
    pipeline: str,
    home: Path | None,
    as_json: bool,
    served: str,
    answers: Path | None,
    with_sql: bool,
) -> None:
    """Compare the features that were served with the same features computed anew from a RECORDING or the topics.

    Twice: by the transformation that serves them, equal to the last bit; and, for windows, by SQL that is written from
    their definition and runs in a scratch database of ClickHouse, equal within 1e-9. Features made of windows are made
    anew of SQL's. Scores that were served stale, or by other features than the pipeline file's, are counted and not
    compared. With --answers, the events that the scoring hook was asked about are asked again, after a replay up to the
    offsets that each answer names; equal to the last bit. Exit code 1 when any value differs.

    \b
    Examples:
      streamgauge parity
      streamgauge parity day.parquet --from 2013-05-01 --to 2013-05-08
      streamgauge parity day.parquet --answers asked.jsonl
      streamgauge parity --served clickhouse --no-sql --json
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    context = ModelContext.read(pipeline, home)
    if answers is not None:
        with plain_errors(), threadpool_limits(1), open_part(context, path, begin, end, warm_up_ms) as part:
            _check_answers(context, part, answers, as_json=as_json)
        return
    started = time.monotonic()
    url = context.settings.clickhouse
    with (
        plain_errors(),
        threadpool_limits(1),
        open_part(context, path, begin, end, warm_up_ms) as part,
        ServedFromTable.open(url, context.home, served == "clickhouse") as table,
        _Progress(part.events + part.warm_events) as progress,
    ):
        parity = run_parity(
            context.pipeline,
            part,
            table,
            with_sql=with_sql,
            url=url,
            see=lambda step: show(progress.counter, step),
            see_sql=progress.see_sql,
        )
    result: dict[str, Any] = {
        "source": str(path) if path is not None else "topics",
        "served": served,
        "events": parity.compared,
        "stale": parity.stale,
        "other_features": parity.other_features,
        "without_score": parity.without_score,
        "without_sql": list(parity.without_sql),
        "equal": parity.is_equal,
        "transform": [_to_json(feature) for feature in parity.transform],
        "sql": [_to_json(feature) for feature in parity.sql],
        "seconds": round(time.monotonic() - started, 3),
    }
    emit(result, as_json, *_describe(parity))
    if not parity.is_equal:
        raise SystemExit(1)


def _check_answers(context: ModelContext, part: RecordingPart, path: Path, *, as_json: bool) -> None:
    """Hold answers of the hook against a replay; exit code 1 when any differs."""
    pipeline = context.pipeline
    plan, asked = compile_features(pipeline), read_asked(path)
    found = check_asked(pipeline, plan, part, lambda version: load_model(pipeline, context.registry, version), asked)
    lines = [
        f"{count(number, 'answer')}: {why}, and not compared."
        for number, why in (
            (found.stale, "stale"),
            (found.published, "published, so for replay --check"),
        )
        if number
    ]
    if found.is_equal:
        lines.append(f"{count(found.compared, 'answer')}: answered = computed after a replay, bit for bit.")
    emit({**vars(found), "equal": found.is_equal}, as_json, *found.different, *lines)
    if not found.is_equal:
        raise SystemExit(1)


class _Progress:
    """How far the comparison is: first the transformation, then SQL."""

    def __init__(self, n_events: int) -> None:
        self._stack = ExitStack()
        self.counter = Counter("Computing features anew", n_events)
        self._done = 0

    def __enter__(self) -> Self:
        self._stack.enter_context(self.counter)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def see_sql(self, done: int, total: int) -> None:
        """Show how many events SQL has done; called with 0 when it begins."""
        if not done:
            self._stack.close()
            if total > _MANY_EVENTS:
                click.echo(
                    "Computing windows by SQL takes minutes where keys have many events: --from compares a part,"
                    " --no-sql leaves it out.",
                    err=True,
                )
            self.counter = self._stack.enter_context(Counter("Computing windows by SQL", total))
        self.counter.add(done - self._done)
        self._done = done


def _to_json(feature: FeatureParity) -> dict[str, Any]:
    return {
        "feature": feature.name,
        "rows": feature.rows,
        "different": feature.different,
        "largest": feature.largest if math.isfinite(feature.largest) else None,
        "first": [vars(row) for row in feature.first],
    }


def _describe(parity: Parity) -> list[str]:
    by_sql = {feature.name: feature for feature in parity.sql}
    table = Table(header_style="bold")
    table.add_column("feature")
    for title in ("rows", "differ from transform", "largest", "differ from SQL", "largest"):
        table.add_column(title, justify="right")
    for feature in parity.transform:
        other = by_sql.get(feature.name)
        table.add_row(feature.name, f"{feature.rows:,}", *_cells(feature), *(_cells(other) if other else ("", "")))
    console = Console(width=120, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().rstrip().splitlines()]
    for number, what in (
        (parity.stale, "was served stale, without labels it should have seen, and is not compared"),
        (parity.other_features, "was served by other features than the pipeline file's, and is not compared"),
        (parity.without_score, "has no score"),
    ):
        if number:
            lines.append(f"{count(number, 'event')}: each {what}.")
    if parity.without_sql:
        lines.append(f"Not computed by SQL: {', '.join(parity.without_sql)}.")
    for how, features in (("transform", parity.transform), ("SQL", parity.sql)):
        for feature in features:
            lines += [
                f"{feature.name}, partition {row.partition} offset {row.offset}: served {row.served!r}, {how}"
                f" {row.computed!r}"
                for row in feature.first
            ]
    if parity.is_equal:
        derived = sum(feature.tolerance == 0 for feature in parity.sql)
        also = f"; {count(len(parity.sql) - derived, 'window')} within 1e-9 of SQL" if parity.sql else ""
        also += f", and {count(derived, 'feature')} made of them" if derived else ""
        lines.append(f"{count(parity.compared, 'event')}: served = computed, bit for bit{also}.")
    return lines


def _cells(feature: FeatureParity) -> tuple[str, str]:
    return f"{feature.different:,}", f"{feature.largest:.3g}"
