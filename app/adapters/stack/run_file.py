"""``<home>/run.json``: where a running stack listens, for commands that are started beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from app.adapters.stack.child_process import birth_mark
from app.exits import StackError
from app.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from pathlib import Path


class RunningKafka(msgspec.Struct, frozen=True):
    """The Kafka of a run; ``pid`` is None for a given server."""

    bootstrap: str
    embedded: bool
    pid: int | None = None


class RunningChild(msgspec.Struct, frozen=True):
    """A child process of a run; ``http`` is None until it has said where it listens."""

    pid: int | None
    http: str | None
    restarts: int = 0


class Run(msgspec.Struct, frozen=True):
    """A running stack."""

    pid: int
    birth_mark: str
    pipeline: str
    started_at: str
    kafka: RunningKafka
    clickhouse: str
    children: dict[str, RunningChild]

    @property
    def monitor_http(self) -> str | None:
        """Where the monitor listens."""
        monitor = self.children.get("monitor")
        return monitor.http if monitor else None


def write_run(home: Path, run: Run) -> None:
    """Replace the run file as a whole."""
    temporary = home / f"run.json.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600)
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    temporary.replace(home / "run.json")


def remove_run(home: Path) -> None:
    """Remove the run file when there is one."""
    (home / "run.json").unlink(missing_ok=True)


def read_run(home: Path) -> Run | None:
    """The stack that runs in this home; None when there is none, or when the process that wrote the file is gone."""
    try:
        run = msgspec.json.decode((home / "run.json").read_bytes(), type=Run)
    except (OSError, msgspec.MsgspecError):
        return None
    return run if birth_mark(run.pid) == run.birth_mark else None


def find_kafka(servers: str, home: Path) -> KafkaAccess:
    """The Kafka to use: the servers given, or else those of the stack that runs in ``home``."""
    if servers:
        return KafkaAccess(servers)
    run = read_run(home)
    if run is None:
        raise StackError(
            f"No stack runs in {home}: start `streamgauge up`, "
            "name another home by STREAMGAUGE_HOME, or a server by STREAMGAUGE_KAFKA."
        )
    return KafkaAccess(run.kafka.bootstrap)
