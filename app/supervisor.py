"""Runs a stack: Kafka (embedded unless a server is given), its topics, a monitor, workers and hooks, each a process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from app.adapters.clickhouse.url import ClickHouseUrl
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.child_process import birth_mark
from app.adapters.stack.embedded_kafka import EmbeddedKafka, refuse_taken_port
from app.adapters.stack.home_lock import HomeLock
from app.adapters.stack.private_folder import private_home
from app.adapters.stack.run_file import Run, RunningChild, RunningKafka, remove_run, write_run
from app.adapters.stack.supervised_child import FORMER_PORT, Child, RestartPolicy, SupervisedChild
from app.clock import utc_now
from app.exits import StackError
from app.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.adapters.stack.kafka_jars import Download
    from app.settings import Settings
    from schemas.topics import Topic

STOP_DEADLINE_S = 30.0


def pipeline_children(
    pipeline: str, workers: int, http_port: int = 0, begin: str | None = None, *, with_hooks: bool = False
) -> Callable[[Settings], list[Child]]:
    """Return the monitor, the workers and, with hooks, their sender, of a pipeline, as `Stack` takes them.

    ``http_port`` is the monitor's; 0 takes a free one, as the workers do. A child that is started again keeps its port.
    ``begin``: the workers' --from.
    """

    def build(settings: Settings) -> list[Child]:
        # -P: a folder named app where the user happens to be must not be taken for ours.
        run = (sys.executable, "-P", "-m", "app")
        environment = settings.to_environment()
        # The port is passed only when asked for: its absence means a free one to worker and monitor.
        port = ("--http-port", str(http_port)) if http_port else ()
        start = ("--from", begin) if begin else ()
        # A home belongs to one stack, so a worker's name in it is its own, and the same when it is started again.
        place = f"{socket.gethostname()}-{zlib.crc32(bytes(settings.home)):08x}"
        return [
            Child("monitor", (*run, "monitor", "--pipeline", pipeline, *port), environment, port_option=FORMER_PORT),
            *(
                Child(
                    f"worker-{n}",
                    (*run, "worker", "--pipeline", pipeline, "--instance", f"{place}-{n}", *start),
                    {**environment, "STREAMGAUGE_CLICKHOUSE": ""},  # it never asks ClickHouse, so it gets no password
                    stop_first=True,
                    port_option=FORMER_PORT,
                )
                for n in range(1, workers + 1)
            ),
            *(
                [
                    Child(
                        "hooks",
                        (*run, "hooks", "run", "--pipeline", pipeline, "--instance", f"{place}-hooks"),
                        {**environment, "STREAMGAUGE_CLICKHOUSE": ""},
                        port_option=FORMER_PORT,
                    )
                ]
                if with_hooks
                else []
            ),
        ]

    return build


class Stack:
    """Everything that runs for one pipeline in one home.

    Parameters
    ----------
    settings
        With ``settings.kafka`` empty, an embedded Kafka is started in ``settings.home``.
    pipeline
        The pipeline's name, for the run file.
    topics
        Created before any child starts.
    children
        What to run, given the settings with ``kafka`` filled in; started in this order.
    kafka_port
        Of the embedded Kafka; 0 takes a free one.
    http_port
        The port that a child is told to listen on; when it is taken, nothing is started. 0: no child was told one.
    say, progress
        Are told what a person should know, as in `EmbeddedKafka`; they are called from several threads.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pipeline: str,
        topics: Sequence[Topic],
        children: Callable[[Settings], Sequence[Child]],
        kafka_port: int = 0,
        http_port: int = 0,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[Download], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._pipeline = pipeline
        self._topics = topics
        self._build_children = children
        self._http_port = http_port
        self._clickhouse = str(ClickHouseUrl.parse(settings.clickhouse)) if settings.clickhouse else "embedded"
        #: How long a crashed child (or Kafka) waits until it is started again.
        self._policy = RestartPolicy()
        self._say = say
        self._children: list[SupervisedChild] = []
        self._lock = HomeLock(settings.home / "stack.lock")
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._started_at = ""
        self._kafka_watch: threading.Thread | None = None
        self._kafka: EmbeddedKafka | None = None
        if not settings.kafka:
            self._kafka = EmbeddedKafka(settings.home, settings.cache, kafka_port, say=say, progress=progress)

    @property
    def kafka(self) -> KafkaAccess:
        """Where Kafka's clients connect."""
        return self.settings.kafka_access

    def start(self) -> Self:
        """Start everything; children may still be getting ready when this returns.

        Raises
        ------
        StackError
            When something cannot be started; what had been started is stopped again.
        """
        home = self.settings.home
        if not self._lock.try_acquire():
            raise StackError(
                f"Another run (process {self._lock.holder()}) uses the home {home}: "
                "stop it, or choose another by --home."
            )
        try:
            private_home(home)
            if self._http_port:
                refuse_taken_port(self._http_port, "--http-port")
            if self._kafka is not None:
                self._kafka.start()
                self.settings = replace(self.settings, kafka=self._kafka.access.servers)
            # One copy on the embedded server; on given ones as many as they can hold, up to three.
            replication = 1 if self._kafka is not None else None
            asyncio.run(ensure_topics(self.kafka, self._topics, replication))
            self._started_at = utc_now().isoformat(timespec="seconds")
            self._children = [
                SupervisedChild(
                    child, home / "logs" / f"{child.name}.log", self._policy, changed=self._on_change, say=self._say
                )
                for child in self._build_children(self.settings)
            ]
            for child in self._children:
                child.start()
            if self._kafka is not None:
                self._kafka_watch = threading.Thread(target=self._watch_kafka, name="watch-kafka", daemon=True)
                self._kafka_watch.start()
            self._on_change()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, deadline_s: float = 120.0) -> None:
        """Wait until each child has said where it listens (or is done). `StackError` when one fails or is too late."""
        until = time.monotonic() + deadline_s
        with self._changed:
            while True:
                self._raise_failure()
                waiting = [child for child in self._children if child.state not in {"ready", "done"}]
                if not waiting:
                    return
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise StackError(
                        f"{waiting[0].child.name} was not ready after {deadline_s:g} s: see {waiting[0].log_path}."
                    )
                self._changed.wait(left_s)

    def wait(self) -> None:
        """Wait until every child is over. When one has failed for good, say so; the others go on.

        `StackError` when all are over and one has failed.
        """
        told: set[str] = set()
        with self._changed:
            while not all(child.is_over for child in self._children):
                for child in self._children:
                    if child.state == "failed" and child.child.name not in told:
                        told.add(child.child.name)
                        self._say(f"{child.why}. The rest goes on; mend it, and start this again.")
                self._changed.wait()
            self._raise_failure()

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Stop all in order: workers, monitor, Kafka. Harmless when nothing runs."""
        self._stopping.set()
        for first in (True, False):
            together = [child for child in self._children if child.child.stop_first is first]
            threads = [threading.Thread(target=child.stop, args=(deadline_s,)) for child in together]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._kafka_watch is not None:
            self._kafka_watch.join()
        if self._kafka is not None:
            self._kafka.stop()
        if self._lock.is_held:
            remove_run(self.settings.home)
            self._lock.release()

    def kill(self) -> None:
        """End the children at once, to shorten a `stop` that is under way in another thread or was interrupted."""
        for child in self._children:
            child.kill()

    def processes(self) -> dict[str, int]:
        """Name to process id of all that runs now; Kafka only when it is embedded."""
        pids = {child.child.name: child.pid for child in self._children}
        if self._kafka is not None:
            pids["kafka"] = self._kafka.pid
        return {name: pid for name, pid in pids.items() if pid is not None}

    def addresses(self) -> dict[str, str]:
        """Name to where it listens: kafka as host:port, children as URLs once they are ready."""
        return {"kafka": self.kafka.servers, **{child.child.name: child.http for child in self._children if child.http}}

    def describe(self) -> Run:
        """Return what the run file says."""
        pid = os.getpid()
        return Run(
            pid=pid,
            birth_mark=birth_mark(pid) or "",
            pipeline=self._pipeline,
            started_at=self._started_at,
            kafka=RunningKafka(self.kafka.servers, self._kafka is not None, self._kafka.pid if self._kafka else None),
            clickhouse=self._clickhouse,
            children={
                child.child.name: RunningChild(child.pid, child.http or None, child.restarts)
                for child in self._children
            },
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _on_change(self) -> None:
        with self._changed:
            if not self._stopping.is_set():
                try:
                    write_run(self.settings.home, self.describe())
                except OSError as error:  # the stack goes on, but other commands do not find it
                    self._say(f"Cannot write {self.settings.home / 'run.json'} ({error.strerror}): make room.")
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        failed = next((child for child in self._children if child.state == "failed"), None)
        if failed is not None:
            raise StackError(failed.why)

    def _watch_kafka(self) -> None:
        assert self._kafka is not None
        crashes = 0
        started = time.monotonic()
        while not self._stopping.wait(0.2):
            if self._kafka.is_alive():
                continue
            crashes = 1 if time.monotonic() - started >= self._policy.settled_s else crashes + 1
            wait_s = self._policy.wait_s(crashes)
            in_a_row = f" {crashes} times in a row" if crashes > 1 else ""
            self._say(f"Kafka died{in_a_row}; starting it again in {wait_s:g} s, see {self._kafka.log_path}.")
            if self._stopping.wait(wait_s):
                return
            try:
                self._kafka.revive()
            except (StackError, OSError) as error:
                self._say(str(error))
            started = time.monotonic()
            self._on_change()
