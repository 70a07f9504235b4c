"""``streamgauge check``: a pipeline file, what it names, and the servers, one line per check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NoReturn

import click
import numpy as np

from app.adapters.http.client import MonitorError, ask_monitor
from app.adapters.sources.lookup_files import load_lookups
from app.adapters.sources.python_features import load_functions
from app.adapters.sources.source import SourceError, cut_batches, read_source
from app.adapters.stack.run_file import read_run
from app.cli.check_finding import ANSWER_S, Finding, find_out
from app.cli.check_kafka import check_kafka
from app.cli.model_context import ModelContext, emit, with_context
from app.core.features.plan import FeaturePlan
from app.replay.offline import run
from app.secret import Secret
from app.settings import read_named
from schemas.pipeline.file import SHIPPED
from schemas.pipeline.spec import Pipeline, PipelineError

#: Events of the source that the features are tried on.
SAMPLE_EVENTS = 2_000


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run-python",
    is_flag=True,
    help="Run the Python that the file names, and try the features on events of its source. A shipped file's is run "
    "without asking; of another one, read it first.",
)
@with_context
def command(*, run_python: bool, pipeline: str, home: str | None, as_json: bool) -> None:
    """Check a pipeline file, its data and features, and the servers and topics it works with.

    The Python that a file names is read; it is run only with --run-python.

    Exit codes: 0 all well, 1 a problem was found, 2 wrong usage. A server that is neither given nor running is skipped.
    """
    findings = list(_check(pipeline, home, run_python=run_python))
    problems = sum(finding.state == "problem" for finding in findings)
    words = {"ok": "ok      ", "problem": "PROBLEM ", "skipped": "skipped "}
    emit(
        {"pipeline": pipeline, "problems": problems, "checks": [asdict(finding) for finding in findings]},
        as_json,
        *(f"{words[finding.state]} {finding.check}: {finding.detail}" for finding in findings),
    )
    if problems:
        raise SystemExit(1)


def _check(name: str, home: str | None, *, run_python: bool) -> Iterator[Finding]:
    try:
        context = ModelContext.read(name, home)  # type: ignore[arg-type]  # click gives a Path
    except click.ClickException as error:
        yield Finding("pipeline file", "problem", error.message)
        return
    pipeline = context.pipeline
    yield Finding(
        "pipeline file",
        "ok",
        f"{pipeline.path} is valid: {len(pipeline.features)} features, feature set {pipeline.feature_set}",
    )
    yield find_out("lookups", lambda: _describe_lookups(pipeline))
    if run_python or pipeline.path.parent == SHIPPED:
        yield find_out("features", lambda: _try_features(pipeline))
    else:
        yield find_out("features", lambda: _compile_features(pipeline))
    if pipeline.hooks:
        yield _check_hooks(pipeline)
    yield from check_kafka(context)
    yield _check_clickhouse(context)
    if pipeline.labels is not None:
        yield _check_delays(context)


def _check_hooks(pipeline: Pipeline) -> Finding:
    """Whether hooks find in this environment what they go to and sign with; a sender may have another one."""
    from app.hooks.targets import read_targets  # noqa: PLC0415  # only for those who have hooks

    named = {name for hook in pipeline.hooks for name in (*hook.secrets, hook.url_from) if name}
    if named and not read_named(named):
        detail = f"none of {', '.join(sorted(named))} is set here; the process of `streamgauge hooks run` needs them"
        return Finding("hooks", "skipped", detail)
    hooks = ", ".join(hook.name for hook in pipeline.hooks)
    return find_out("hooks", lambda: f"{hooks}: {len(read_targets(pipeline))} over HTTP can be signed and sent")


def _describe_lookups(pipeline: Pipeline) -> str:
    load_lookups(pipeline)
    return ", ".join(lookup.name for lookup in pipeline.lookups) + " can be read" if pipeline.lookups else "none"


def _compile_features(pipeline: Pipeline) -> str:
    """Compile the features without running what the file names: the file may be a stranger's."""
    named = dict.fromkeys(feature.python for feature in pipeline.features if feature.python is not None)
    plan = FeaturePlan.compile(pipeline, load_lookups(pipeline), dict.fromkeys(named, _stand_in))
    summary = f"{len(plan.names)} features compile"
    python = [*named, *([pipeline.source] if pipeline.source is not None else [])]
    if not python:
        return f"{summary}; without a source they are not tried on events"
    return f"{summary}; {', '.join(dict.fromkeys(python))} is there and was not run: read it, then say --run-python"


def _stand_in(*_: Any) -> NoReturn:
    raise AssertionError("nothing is computed here")


def _try_features(pipeline: Pipeline) -> str:
    plan = FeaturePlan.compile(pipeline, load_lookups(pipeline), load_functions(pipeline))
    if pipeline.source is None:
        return f"{len(plan.names)} features compile; without a source they are not tried on events"
    chunks = list(read_source(pipeline, None, None, SAMPLE_EVENTS))
    steps = list(run(pipeline, plan, cut_batches(chunks, pipeline), None))
    matrix = np.concatenate([np.zeros((0, len(plan.names))), *(step.matrix for step in steps)])
    letters = [letter for step in steps for letter in step.dead_letters]
    if letters:
        first = letters[0]
        raise PipelineError(
            f"{len(letters)} of the first {len(matrix) + len(letters)} records of the source are rejected, the first as"
            f" {first.reason} ({first.detail}); correct the source, [events.fields] or the feature."
        )
    if not len(matrix):
        raise SourceError(f"The source {pipeline.source} yields no events; correct it.")
    unseen = np.array([plan.category_sizes.get(name, np.inf) for name in plan.names]) - 1
    empty = [name for name, is_empty in zip(plan.names, np.isnan(matrix).all(axis=0), strict=True) if is_empty]
    strange = [name for name, is_unseen in zip(plan.names, (matrix == unseen).all(axis=0), strict=True) if is_unseen]
    summary = f"{len(plan.names)} features of {len(matrix)} events of the source"
    summary += f"; always missing: {', '.join(empty)}" if empty else "; none is always missing"
    return f"{summary}; never one of its values: {', '.join(strange)}" if strange else summary


def _check_clickhouse(context: ModelContext) -> Finding:
    url = context.settings.clickhouse
    if url:
        return find_out("clickhouse", lambda: _ask_server(url))
    running = read_run(context.home)
    if running is None or running.monitor_http is None:
        return Finding("clickhouse", "skipped", "no server is given, and no monitor runs with the embedded engine")
    return find_out("clickhouse", lambda: _ask_monitor(str(running.monitor_http)))


def _check_delays(context: ModelContext) -> Finding:
    """Whether labels come as soon as `performance.maturity` says: a running monitor knows how long they take."""
    running = read_run(context.home)
    if running is None or running.monitor_http is None:
        return Finding("label delays", "skipped", "no monitor runs here, which knows how long labels take")
    try:
        status = ask_monitor(running.monitor_http, "/api/v1/status", timeout_s=ANSWER_S)
    except MonitorError as error:
        return Finding("label delays", "problem", str(error))
    labels = status.get("labels")
    if status.get("pipeline") != context.pipeline.name or not labels or not labels["applied"]:
        return Finding("label delays", "skipped", "the monitor has not read labels of this pipeline")
    if labels["maturity_too_short"]:
        return Finding("label delays", "problem", " ".join(labels["maturity_too_short"]))
    return Finding("label delays", "ok", "; ".join(delay["words"] for delay in labels["delays"].values()))


def _ask_server(url: Secret) -> str:
    from app.adapters.clickhouse.warehouse import ClickHouseWarehouse  # noqa: PLC0415  # only for those who have a server

    warehouse = ClickHouseWarehouse(url)
    try:
        warehouse.wait_ready(ANSWER_S)
        return f"{warehouse.where} answers"
    finally:
        warehouse.close()


def _ask_monitor(address: str) -> str:
    ask_monitor(address, "/api/v1/query", json.dumps({"sql": "SELECT 1", "limit": 1}).encode(), timeout_s=ANSWER_S)
    return f"the embedded engine answers through the monitor at {address}"
