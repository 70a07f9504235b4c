"""What one check of ``streamgauge check`` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.adapters.http.client import MonitorError
from app.adapters.sources.source import SourceError
from app.exits import StackError
from app.ports import WarehouseError
from models.versions.manifest import ManifestError
from models.versions.registry import RegistryError
from schemas.pipeline.spec import PipelineError

#: How long a server has to answer.
ANSWER_S = 5.0

#: Errors whose sentence says what to do.
EXPECTED = (
    PipelineError,
    SourceError,
    StackError,
    WarehouseError,
    MonitorError,
    RegistryError,
    ManifestError,
    OSError,
)

State = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was found, and for a problem what to do about it."""

    check: str
    state: State
    detail: str


def find_out(check: str, look: Callable[[], str]) -> Finding:
    """Run one check; it returns what it found or raises an expected error that says what to do."""
    try:
        return Finding(check, "ok", look())
    except EXPECTED as error:
        return Finding(check, "problem", " ".join(str(error).split()))
