"""A whole stack on the real Kafka, with small programs in the place of worker and monitor."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from app.adapters.stack.child_process import birth_mark
from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.adapters.stack.run_file import read_run
from app.adapters.stack.supervised_child import Child
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from app.supervisor import Stack, pipeline_children
from schemas.pipeline.file import load
from schemas.topics import Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Settings.read().cache
TOPICS = [Topic("small.events", 2), Topic("small.scores", 2)]

#: Says that it is ready with the Kafka it was given, and on SIGTERM writes its name into the file "stopped" and ends.
STAND_IN = """
import json, os, signal, sys
def stop(*_):
    with open(os.environ["STREAMGAUGE_HOME"] + "/stopped", "a") as file:
        print(sys.argv[1], file=file)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print(json.dumps({"ready": True, "http": "http://" + os.environ["STREAMGAUGE_KAFKA"] + "/" + sys.argv[1]}))
while True:
    signal.pause()
"""

#: Ends as what a person must mend does.
MENDER = "import sys; print('no grant on scores', file=sys.stderr); sys.exit(78)"


def stand_ins(settings: Settings) -> list[Child]:
    return [
        Child(name, (sys.executable, "-c", STAND_IN, name), settings.to_environment(), stop_first=name != "monitor")
        for name in ("monitor", "worker-1", "worker-2")
    ]


def settings_for(home: Path, **changes: str) -> Settings:
    return Settings.read({"STREAMGAUGE_HOME": str(home), "STREAMGAUGE_CACHE": str(CACHE), **changes})


#: `streamgauge up` but for the pipeline: same start, same announcement, same signals, same exit code.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from app.cli.narration import Narrator
from app.cli.up import announce, run_stack
from app.supervisor import Stack
import stack_on_trial as trial
narrator = Narrator()
stack = Stack(trial.settings_for(Path(sys.argv[1])), pipeline="small", topics=trial.TOPICS, children=trial.stand_ins,
              say=narrator.say, progress=narrator.progress)
sys.exit(run_stack(stack, narrator, lambda: announce(stack, as_json=True)))
"""


@contextmanager
def driven(home: Path, modules: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process that runs the stack, and the JSON object that it printed."""
    modules.mkdir(exist_ok=True)
    (modules / "stack_on_trial.py").write_text(Path(__file__).read_text())
    program = [sys.executable, "-c", DRIVER, str(home), str(modules)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child ends within a deadline."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(60_000))
    finally:
        os.close(descriptor)


def pids(run: dict[str, Any]) -> list[int]:
    return [run["kafka"]["pid"], *(child["pid"] for child in run["children"].values())]


async def list_topics(kafka: KafkaAccess) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


def test_a_stack_says_where_everything_listens_and_stops_in_order(tmp_path: Path) -> None:
    stack = Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=stand_ins)
    with stack:
        stack.wait_ready(60)
        kafka = stack.kafka
        assert stack.addresses() == {
            "kafka": kafka.servers,
            "monitor": f"http://{kafka}/monitor",
            "worker-1": f"http://{kafka}/worker-1",
            "worker-2": f"http://{kafka}/worker-2",
        }
        processes = stack.processes()
        assert set(processes) == {"kafka", "monitor", "worker-1", "worker-2"}
        assert asyncio.run(list_topics(kafka)) >= {topic.name for topic in TOPICS}
        run = read_run(tmp_path)
        assert run is not None
        assert (run.pid, run.pipeline, run.kafka.bootstrap) == (os.getpid(), "small", kafka.servers)
        assert {name: child.pid for name, child in run.children.items()} | {"kafka": run.kafka.pid} == processes
        with pytest.raises(StackError, match=rf"Another run \(process {os.getpid()}\)"):
            Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=stand_ins).start()
    assert stack.processes() == {}
    assert [birth_mark(pid) for pid in processes.values()] == [None] * 4
    assert not (tmp_path / "run.json").exists()
    *workers, last = (tmp_path / "stopped").read_text().split()
    assert (sorted(workers), last) == (["worker-1", "worker-2"], "monitor")


def test_a_taken_http_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack = Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=stand_ins, http_port=port)
        with pytest.raises(StackError, match=rf"Port {port} is in use: .*--http-port"):
            stack.start()
    assert not (tmp_path / "kafka").exists()


def test_a_given_kafka_is_used_and_left_alone(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "server", CACHE) as server:
        home = tmp_path / "home"
        (home / "logs").mkdir(parents=True)
        home.chmod(0o755)  # as an earlier release left it
        settings = settings_for(home, STREAMGAUGE_KAFKA=server.access.servers)
        with Stack(settings, pipeline="small", topics=TOPICS, children=stand_ins) as stack:
            stack.wait_ready(60)
            assert stack.kafka == server.access
            assert "kafka" not in stack.processes()
            run = read_run(tmp_path / "home")
            assert run is not None
            assert not run.kafka.embedded
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [home, *home.iterdir()]}
            assert modes == {"home": 0o700, "logs": 0o700, "run.json": 0o600, "stack.lock": 0o600}
        assert server.is_alive()
        assert not (tmp_path / "home" / "kafka").exists()


def test_a_child_that_a_person_must_mend_fails_the_start(tmp_path: Path) -> None:
    def children(settings: Settings) -> list[Child]:
        broken = Child("worker-1", (sys.executable, "-c", MENDER), settings.to_environment())
        return [*stand_ins(settings)[:1], broken]

    stack = Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=children)
    with stack, pytest.raises(StackError, match=r"worker-1 ended with exit code 78: no grant on scores"):
        stack.wait_ready(60)


def test_a_child_that_a_person_must_mend_later_leaves_the_others_at_work(tmp_path: Path) -> None:
    go_wrong, go_home = tmp_path / "go-wrong", tmp_path / "go-home"
    ready = "import json, os, sys, time; print(json.dumps({'ready': True}), flush=True)\n"

    def children(settings: Settings) -> list[Child]:
        monitor = ready + f"while not os.path.exists({str(go_wrong)!r}): time.sleep(0.01)\n{MENDER}"
        worker = ready + f"while not os.path.exists({str(go_home)!r}): time.sleep(0.01)"
        programs = {"monitor": monitor, "worker-1": worker}
        return [
            Child(name, (sys.executable, "-c", program), settings.to_environment())
            for name, program in programs.items()
        ]

    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if "The rest goes on" in sentence:
            assert set(stack.processes()) == {"kafka", "worker-1"}
            go_home.touch()

    stack = Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=children, say=say)
    with stack:
        stack.wait_ready(60)
        go_wrong.touch()
        with pytest.raises(StackError, match="monitor ended with exit code 78: no grant on scores"):
            stack.wait()
    assert sum("The rest goes on; mend it, and start this again." in sentence for sentence in said) == 1


def test_a_dead_kafka_comes_back_where_it_was(tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack(settings_for(tmp_path), pipeline="small", topics=TOPICS, children=stand_ins, say=said.append)
    with stack:
        stack.wait_ready(60)
        before = stack.processes()
        os.kill(before["kafka"], signal.SIGKILL)
        assert has_ended(before["kafka"])
        # The clients' own patience is the wait: they try until the server answers again.
        assert asyncio.run(_list_topics_patiently(stack.kafka)) >= {topic.name for topic in TOPICS}
        after = stack.processes()
        assert after.pop("kafka") != before.pop("kafka")
        assert after == before
    assert said[-1].startswith("Kafka died; starting it again in 0.5 s, see ")


def test_what_died_answers_at_its_former_address_or_says_the_new_one(kafka: KafkaAccess, tmp_path: Path) -> None:
    """The real worker and monitor, asked by a client that knows nothing of the stack."""
    settings = settings_for(tmp_path, STREAMGAUGE_KAFKA=kafka.servers)
    pipeline = tmp_path / "restarted.toml"
    pipeline.write_text(
        'name = "restarted"\npartitions = 1\n[model]\ntarget = "late"\n'
        '[events]\nentity = "who"\nid = "id"\ntime = "at"\n'
        '[events.fields]\nid = "string"\nwho = "string"\nat = "int"\n'
        '[[features]]\nname = "hour"\ntype = "int"\nexpression = "at % 24"\n'
    )
    said: list[str] = []
    topics = load(str(pipeline)).topics.all()
    children = pipeline_children(str(pipeline), 1)
    with Stack(settings, pipeline="restarted", topics=topics, children=children, say=said.append) as stack:
        stack.wait_ready(120)
        before = stack.addresses()
        died = stack.processes()
        for pid in died.values():
            os.kill(pid, signal.SIGKILL)
            assert has_ended(pid)
        for name in died:
            wait_for_answer(before[name])
        stack.wait_ready(120)  # an address answers shortly before the stack is told of it
        run = read_run(tmp_path)
        assert run is not None
        assert {name: child.http for name, child in run.children.items()} | {"kafka": kafka.servers} == before
        assert not any("listens" in sentence for sentence in said)
        # Somebody else takes the port before the worker is there again.
        port = int(before["worker-1"].rpartition(":")[2])
        os.kill(stack.processes()["worker-1"], signal.SIGKILL)
        with listen_on(port):
            until = time.monotonic() + 120
            while stack.addresses().get("worker-1") in {None, before["worker-1"]}:
                assert time.monotonic() < until, said
                time.sleep(0.05)
            moved = stack.addresses()["worker-1"]
            wait_for_answer(moved)
            assert f"worker-1 now listens on {moved}: its former port, {port}, was taken." in said
            run = read_run(tmp_path)
            assert run is not None
            assert run.children["worker-1"].http == moved


def wait_for_answer(address: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with urlopen(f"{address}/healthz", timeout=10) as answer:
                assert answer.status == 200
                return
        except (URLError, ConnectionError):
            assert time.monotonic() < until, address
            time.sleep(0.05)


def listen_on(port: int) -> socket.socket:
    """Listen there as soon as whoever does is gone."""
    until = time.monotonic() + 30
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.005)


async def _list_topics_patiently(kafka: KafkaAccess) -> set[str]:
    async with asyncio.timeout(90):
        while True:
            try:
                return await list_topics(kafka)
            except Exception:  # noqa: BLE001  # whatever a client says while there is no server
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_the_next_start_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    for _ in range(2):
        with driven(home, tmp_path / "modules") as (process, run):
            assert run["pid"] == process.pid
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        assert [has_ended(pid) for pid in pids(run)] == [True] * 4
        assert not (home / "run.json").exists()
        assert "earlier run" not in said


def test_after_a_kill_nothing_goes_on_and_the_next_start_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with driven(home, tmp_path / "modules") as (process, killed):
        process.kill()
    assert [has_ended(pid) for pid in pids(killed)] == [True] * 4
    assert read_run(home) is None
    with driven(home, tmp_path / "modules") as (process, run):
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert not set(pids(run)) & set(pids(killed))
    assert f"An earlier run in {home} did not stop cleanly; going on from its data." in said
