"""Who takes part: how each is started on a lane, and when it is done. What is set of a peer stands in its program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.bench.lane import BenchError, Child, Lane
from app.bench.peer_tools import Say, ensure_python, ensure_streams, program
from schemas.pipeline.spec import Delivery

#: Starts the processes of a contestant on a lane; gets the lane, its pipeline file, and whom to tell of downloads.
Starter = Callable[[Lane, Path, Say], list[Child]]


@dataclass(frozen=True)
class Contestant:
    """One way to do the job.

    Parameters
    ----------
    most
        Most events that it is given: the slow ones are stopped after so many, on the same topic.
    commits
        Whether its offsets say when it is done (it writes in transactions).
    counts
        Whether it keeps drift statistics, which are then held against the events.
    """

    name: str
    title: str
    start: Starter
    delivery: Delivery = "exactly_once"
    most: int = sys.maxsize
    commits: bool = False
    counts: bool = False


def worker_command(pipeline: Path) -> list[str]:
    """The command line of one worker of ours."""
    return [sys.executable, "-P", "-m", "app", "worker", "--pipeline", str(pipeline)]


def ours(delivery: Delivery, processes: int = 1) -> Contestant:
    """Our worker, drift statistics on."""

    def start(lane: Lane, pipeline: Path, say: Say) -> list[Child]:  # noqa: ARG001  # nothing to download
        return [lane.start(worker_command(pipeline)) for _ in range(processes)]

    name = "streamgauge" if delivery == "exactly_once" else "streamgauge-alo"
    title = f"streamgauge, {delivery.replace('_', ' ')}"
    if processes > 1:
        name, title = f"{name}-x{processes}", f"{title}, {processes} workers"
    return Contestant(name, title, start, delivery, commits=delivery == "exactly_once", counts=True)


def _own_python(script: str, *arguments: str) -> Starter:
    def start(lane: Lane, pipeline: Path, say: Say) -> list[Child]:  # noqa: ARG001  # nothing of ours is read
        command = [sys.executable, str(program(script)), *arguments]
        return [lane.start(command, lane.workload.write_for_peers(lane.folder))]

    return start


def _peer_python(script: str, package: str, **extra: str) -> Starter:
    def start(lane: Lane, pipeline: Path, say: Say) -> list[Child]:  # noqa: ARG001  # nothing of ours is read
        python = ensure_python(lane.settings.cache, package, say)
        environment = {**lane.workload.write_for_peers(lane.folder), **extra}
        return [lane.start([str(python), str(program(script))], environment)]

    return start


def kafka_streams(threads: int = 1) -> Contestant:
    """Kafka Streams, exactly once v2, commit interval 100 ms."""

    def start(lane: Lane, pipeline: Path, say: Say) -> list[Child]:  # noqa: ARG001  # nothing of ours is read
        command = ensure_streams(lane.settings.cache, say)
        environment = lane.workload.write_for_peers(lane.folder)
        environment |= {"THREADS": str(threads), "GUARANTEE": "exactly_once_v2"}
        return [lane.start(command, environment)]

    title = f"Kafka Streams exactly_once_v2, {threads} stream thread{'s' if threads > 1 else ''}"
    return Contestant(f"kafka-streams-x{threads}", title, start, commits=True)


OURS = ours("exactly_once")
OURS_AT_LEAST_ONCE = ours("at_least_once")
RAW = Contestant("aiokafka", "bare aiokafka loop and numpy, no promise", _own_python("raw_loop.py"))
FAUST = Contestant(
    "faust", "plain Faust, take(2000), the model on batches",
    _own_python("plain_faust.py", "worker", "-l", "error"), most=20_000,
)  # fmt: skip
QUIX_PREDICT = Contestant(
    "quix", "Quix Streams, the model on each row",
    _peer_python("quix_app.py", "quixstreams", MODE="predict"), most=30_000,
)  # fmt: skip
QUIX_DOT = Contestant(
    "quix-dot", "Quix Streams, dot product by hand",
    _peer_python("quix_app.py", "quixstreams", MODE="dot"), most=200_000,
)  # fmt: skip
BYTEWAX = Contestant("bytewax", "Bytewax, batches and numpy", _peer_python("bytewax_flow.py", "bytewax"))
CONFLUENT = Contestant(
    "confluent", "bare confluent-kafka loop and numpy, no promise", _peer_python("confluent_loop.py", "confluent-kafka")
)


def limited(contestant: Contestant, most: int) -> Contestant:
    """The same with a smaller share of the events."""
    if most < 1:
        raise BenchError("give at least one event by --events")
    return replace(contestant, most=min(most, contestant.most))
