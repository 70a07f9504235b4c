"""The alert on a hook that is disabled, as a record on ``<p>.alerts`` like any other."""

from __future__ import annotations

import hashlib

from schemas.pipeline.spec import Pipeline
from schemas.wire import Alert, HookState

RULE = "hook-disabled"


def alert_raised(pipeline: Pipeline, state: HookState) -> Alert:
    """A hook was disabled."""
    words = (
        f"The hook {state.hook} is disabled: {state.why} What it has to tell is kept in {pipeline.topics.hooks_dead}:"
        f" mend the destination, then `streamgauge hooks enable {state.hook}` and `streamgauge hooks resend`."
    )
    return Alert(
        alert_id=_id_of(pipeline, state),
        pipeline=pipeline.name,
        rule=RULE,
        severity="critical",
        state="raised",
        model=pipeline.model.name,
        version="",
        at_ms=state.disabled_at_ms,
        window_start_ms=None,
        window_end_ms=None,
        measure="hook",
        value=1.0,
        limit=None,
        message=words,
        since_ms=state.disabled_at_ms,
    )


def alert_cleared(pipeline: Pipeline, state: HookState, at_ms: int, by: str) -> Alert:
    """A person has enabled it again."""
    raised = alert_raised(pipeline, state)
    raised.state, raised.at_ms, raised.revision, raised.by, raised.value = "cleared", at_ms, 1, by, 0.0
    raised.message = f"The hook {state.hook} is enabled again."
    return raised


def _id_of(pipeline: Pipeline, state: HookState) -> str:
    name = f"{pipeline.name}/{state.hook}/{state.disabled_at_ms}"
    return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()
