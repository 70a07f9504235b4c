"""Children: what they may rely on, tried with small real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from app.adapters.stack.child_process import birth_mark, end_process, spawn, stop_child
from app.adapters.stack.home_lock import HomeLock
from app.adapters.stack.run_file import Run, RunningChild, RunningKafka, find_kafka, read_run, remove_run, write_run
from app.adapters.stack.supervised_child import Child, RestartPolicy, SupervisedChild, read_ready_line
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from app.supervisor import pipeline_children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = RestartPolicy(first_wait_s=0.01, longest_wait_s=0.02)
READY = """import json, sys; print(json.dumps({"ready": True, "http": "http://127.0.0.1:1"})); """
STAY = "import signal; signal.pause()"


class Watched:
    """A supervised child, with a wait on its state."""

    def __init__(
        self, tmp_path: Path, program: str, policy: RestartPolicy = QUICK, port_option: str = "", **environment: str
    ) -> None:
        self._changed = threading.Condition()
        self.said: list[str] = []
        self.child = SupervisedChild(
            Child("program", (sys.executable, "-c", program), environment, port_option=port_option),
            tmp_path / "logs" / "program.log",
            policy,
            changed=self._notify,
            say=self.said.append,
        )

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[SupervisedChild], bool]) -> SupervisedChild:
        deadline = time.monotonic() + 30
        with self._changed:
            while not condition(self.child):
                assert time.monotonic() < deadline, self.child.state
                self._changed.wait(0.05)  # a line in the log changes no state
        return self.child

    @property
    def log(self) -> str:
        return self.child.log_path.read_text()


def test_the_ready_line_says_where_a_child_listens_and_the_rest_is_its_log(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "print('before'); " + READY + "print('{after', flush=True); " + STAY)
    watched.child.start()
    child = watched.wait_until(lambda child: child.state == "ready")
    assert child.http == "http://127.0.0.1:1"
    assert child.pid is not None
    watched.wait_until(lambda _: watched.log.endswith("{after\n"))
    child.stop(10)
    assert child.state == "stopped"
    assert child.http is None
    assert child.pid is None
    assert watched.log == "before\n{after\n"
    assert watched.said == []


def test_a_child_has_the_environment_it_is_given(tmp_path: Path) -> None:
    watched = Watched(
        tmp_path, "import os; print(os.environ['SOME_SETTING'], 'PATH' in os.environ)", SOME_SETTING="here"
    )
    watched.child.start()
    watched.wait_until(lambda child: child.is_over)
    assert watched.log == "here True\n"


def test_exit_code_0_means_done(tmp_path: Path) -> None:
    watched = Watched(tmp_path, READY)
    watched.child.start()
    child = watched.wait_until(lambda child: child.is_over)
    assert (child.state, child.restarts, watched.said) == ("done", 0, [])


@pytest.mark.parametrize("code", [2, 78])
def test_wrong_usage_and_what_a_person_must_mend_are_not_tried_again(tmp_path: Path, code: int) -> None:
    watched = Watched(tmp_path, f"import sys; print('no such pipeline', file=sys.stderr); sys.exit({code})")
    watched.child.start()
    child = watched.wait_until(lambda child: child.is_over)
    assert (child.state, child.restarts) == ("failed", 0)
    assert child.why == f"program ended with exit code {code}: no such pipeline (its log: {child.log_path})"


@pytest.mark.slow
def test_a_child_is_started_again_however_often_it_crashes(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    attempts.touch()
    program = f"file = open({str(attempts)!r}, 'a+'); file.write('x'); file.seek(0); "
    watched = Watched(tmp_path, program + "raise SystemExit(0 if len(file.read()) == 12 else 75)")
    watched.child.start()
    child = watched.wait_until(lambda child: child.is_over)
    assert (child.state, child.restarts) == ("done", 11)
    assert watched.said[0].startswith("program ended with exit code 75; starting it again in 0.01 s, see ")
    assert watched.said[-1].startswith("program ended with exit code 75 11 times in a row; starting it again in 0.02 s")


def test_a_child_whose_log_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    log_path = tmp_path / "program.log"
    log_path.mkdir()
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        log_path.rmdir()

    child = SupervisedChild(Child("program", (sys.executable, "-c", "")), log_path, QUICK, say=say)
    child.start()
    deadline = time.monotonic() + 30
    while not child.is_over:
        assert time.monotonic() < deadline, child.state
        time.sleep(0.01)
    assert (child.state, child.restarts) == ("done", 1)
    assert said[0].startswith("program could not be started ([Errno 21] Is a directory")


def test_a_killed_child_comes_back(tmp_path: Path) -> None:
    watched = Watched(tmp_path, READY + STAY)
    watched.child.start()
    first = watched.wait_until(lambda child: child.state == "ready").pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    child = watched.wait_until(lambda child: child.restarts == 1 and child.state == "ready")
    assert child.pid != first
    assert watched.said[0].startswith("program ended with signal SIGKILL; starting it again in 0.01 s, see ")
    child.stop(10)


#: Listens on the port that it is told, or on port 1111; on 2222, when there is a file "taken".
LISTENER = (
    "import json, os, signal, sys; port = 2222 if os.path.exists('{taken}') else int((sys.argv[2:] or [1111])[0]); "
    "print(sys.argv[1:], file=sys.stderr, flush=True); "
    "print(json.dumps({{'ready': True, 'http': f'http://[::1]:{{port}}'}}), flush=True); signal.pause()"
)


def test_a_child_that_is_started_again_is_told_the_port_it_had(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    watched = Watched(tmp_path, LISTENER.format(taken=taken), port_option="--former")
    watched.child.start()
    for restarts in range(4):
        child = watched.wait_until(lambda child, n=restarts: child.restarts == n and child.state == "ready")  # type: ignore[misc]  # mypy knows no defaults of lambdas
        assert child.http == ("http://[::1]:1111" if restarts < 2 else "http://[::1]:2222")
        if restarts == 1:
            taken.touch()
        if restarts < 3:
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
    child.stop(10)
    told = ["[]", *(f"['--former', '{port}']" for port in (1111, 1111, 2222))]
    assert watched.log.splitlines() == told
    moved = [line for line in watched.said if "listens" in line]
    assert moved == ["program now listens on http://[::1]:2222: its former port, 1111, was taken."]


def test_a_child_without_an_address_is_told_no_port(tmp_path: Path) -> None:
    program = "import json, signal, sys; print(sys.argv[1:], file=sys.stderr, flush=True); "
    watched = Watched(tmp_path, program + "print(json.dumps({'ready': True}), flush=True); " + STAY, port_option="--p")
    watched.child.start()
    first = watched.wait_until(lambda child: child.state == "ready").pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    watched.wait_until(lambda child: child.restarts == 1 and child.state == "ready").stop(10)
    assert watched.log.splitlines() == ["[]", "[]"]


def test_a_child_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + STAY)
    watched.child.start()
    child = watched.wait_until(lambda child: child.state == "ready")
    child.stop(0.05)
    assert child.state == "stopped"
    assert watched.said == ["program did not stop within 0 s and was killed."]


def test_a_child_stopped_while_it_waits_to_start_again_stays_stopped(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "raise SystemExit(1)", RestartPolicy(first_wait_s=3600))
    watched.child.start()
    child = watched.wait_until(lambda child: child.state == "waiting")
    child.stop(10)
    assert (child.state, child.restarts) == ("stopped", 0)


def test_what_a_child_left_running_ends_with_it(tmp_path: Path) -> None:
    program = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {STAY!r}]).pid)"
    watched = Watched(tmp_path, program)
    watched.child.start()
    watched.wait_until(lambda child: child.state == "done")  # it would wait for the open pipe otherwise
    try:
        descriptor = os.pidfd_open(int(watched.log))
    except ProcessLookupError:
        return  # already gone
    assert _ends(descriptor)


def test_waits_double_up_to_the_longest() -> None:
    policy = RestartPolicy(first_wait_s=0.5, longest_wait_s=3)
    assert [policy.wait_s(crashes) for crashes in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("line", [b"", b"ready", b'{"ready": false}', b'{"ready": 1}', b"{broken", b'["ready"]', b"{}"])
def test_other_lines_are_not_ready_lines(line: bytes) -> None:
    assert read_ready_line(line) is None


def test_a_ready_line_without_an_address_is_one() -> None:
    assert read_ready_line(b'{"ready": true}\n') == ""


def test_children_die_with_their_parent() -> None:
    program = (
        "import subprocess, signal, sys; from app.adapters.stack.child_process import spawn; "
        f"child = spawn([sys.executable, '-c', {STAY!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "print(child.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        mark = birth_mark(child)
        assert mark is not None
        descriptor = os.pidfd_open(child)
        parent.kill()
    assert _ends(descriptor)


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-c", "print(flush=True); " + STAY]
    thread = threading.Thread(
        target=lambda: started.append(spawn(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    )
    thread.start()
    thread.join()
    child = started[0]
    assert child.stdout is not None
    assert child.stdout.readline() == b"\n"  # it lives on after the thread, long enough to get here
    assert child.poll() is None
    assert stop_child(child, 10)
    child.stdout.close()


def test_ctrl_c_while_the_first_child_is_being_started_hangs_nothing() -> None:
    program = f"""
import subprocess, sys, threading
from app.adapters.stack.child_process import spawn
start = threading.Thread.start
def interrupted(thread):
    start(thread)
    raise KeyboardInterrupt  # as a signal's handler does while the thread is waited for
threading.Thread.start = interrupted
try:
    spawn([sys.executable, "-c", {STAY!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    assert done.stdout == "interrupted\n"


@pytest.mark.slow
def test_a_child_of_which_ctrl_c_left_no_trace_is_ended() -> None:
    program = f"""
import os, signal, subprocess, sys, time
from app.adapters.stack.child_process import spawn
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
started = []
class Slow(subprocess.Popen):
    def __init__(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # the wait for this child is over
        super().__init__(*arguments, **options)
        started.append(self)
subprocess.Popen = Slow
try:
    spawn([sys.executable, "-c", {STAY!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
except KeyboardInterrupt:
    while not started:
        time.sleep(0.01)
    print(started[0].wait(20))
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout == f"{-signal.SIGKILL}\n"


def test_a_left_over_process_is_ended_only_if_it_is_the_one_recorded() -> None:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); " + STAY], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        mark = birth_mark(stranger.pid)
        assert mark is not None
        assert not end_process(stranger.pid, mark + "0")
        assert stranger.poll() is None
        assert end_process(stranger.pid, mark)
        assert stranger.wait() == -signal.SIGTERM
    assert birth_mark(stranger.pid) is None
    assert not end_process(stranger.pid, mark)


def test_a_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lock"
    with HomeLock(path) as held:
        other = HomeLock(path)
        assert held.is_held
        assert not other.try_acquire()
        assert other.holder() == os.getpid()
    assert other.holder() is None
    assert other.try_acquire()
    other.release()


def a_run(tmp_path: Path, mark: str) -> Run:
    kafka = RunningKafka("127.0.0.1:9092", embedded=True, pid=1)
    children = {"monitor": RunningChild(2, "http://127.0.0.1:8080")}
    run = Run(os.getpid(), mark, "flights", "2013-01-01T00:00:00+00:00", kafka, "embedded", children)
    write_run(tmp_path, run)
    return run


def test_the_run_file_says_what_was_written_until_it_is_removed(tmp_path: Path) -> None:
    run = a_run(tmp_path, birth_mark(os.getpid()) or "")
    assert read_run(tmp_path) == run
    assert run.monitor_http == "http://127.0.0.1:8080"
    assert find_kafka("", tmp_path) == KafkaAccess("127.0.0.1:9092")
    assert find_kafka("given:1", tmp_path) == KafkaAccess("given:1")
    remove_run(tmp_path)
    assert read_run(tmp_path) is None


def test_the_run_file_of_a_dead_run_counts_as_none(tmp_path: Path) -> None:
    a_run(tmp_path, "another process had this id")
    assert read_run(tmp_path) is None
    with pytest.raises(StackError, match="No stack runs in"):
        find_kafka("", tmp_path)


def test_monitor_and_workers_are_given_pipeline_port_and_settings() -> None:
    settings = Settings.read({"STREAMGAUGE_KAFKA": "127.0.0.1:9", "STREAMGAUGE_HOME": "/h", "HOME": "/h"})
    monitor, *workers = pipeline_children("/some/flights.toml", 2, 8080)(settings)
    assert monitor.command[-5:] == ("monitor", "--pipeline", "/some/flights.toml", "--http-port", "8080")
    assert [worker.name for worker in workers] == ["worker-1", "worker-2"]
    given = ("worker", "--pipeline", "/some/flights.toml", "--instance")
    assert {worker.command[-5:-1] for worker in workers} == {given}
    assert monitor.environment == settings.to_environment()
    assert all(worker.environment["STREAMGAUGE_KAFKA"] == "127.0.0.1:9" for worker in workers)
    assert [child.stop_first for child in (monitor, *workers)] == [False, True, True]


def test_a_pipeline_with_hooks_has_a_sender_that_outlives_the_workers_and_gets_no_password_of_clickhouse() -> None:
    settings = Settings.read({"STREAMGAUGE_CLICKHOUSE": "http://ann:canary@h:8123", "HOME": "/h"})
    *others, hooks = pipeline_children("/some/shop.toml", 1, with_hooks=True)(settings)
    assert [child.name for child in others] == ["monitor", "worker-1"]
    assert hooks.command[3:-1] == ("app", "hooks", "run", "--pipeline", "/some/shop.toml", "--instance")
    assert hooks.environment["STREAMGAUGE_CLICKHOUSE"] == ""
    assert not hooks.stop_first


def test_workers_are_not_given_the_password_of_clickhouse() -> None:
    settings = Settings.read({"STREAMGAUGE_CLICKHOUSE": "http://ann:canary@h:8123", "HOME": "/h"})
    monitor, worker = pipeline_children("flights", 1)(settings)
    assert monitor.environment["STREAMGAUGE_CLICKHOUSE"] == "http://ann:canary@h:8123"
    # Empty, not missing: a child has what its parent has.
    assert worker.environment["STREAMGAUGE_CLICKHOUSE"] == ""


def test_workers_are_told_where_to_begin() -> None:
    settings = Settings.read({"STREAMGAUGE_HOME": "/h", "HOME": "/h"})
    monitor, worker = pipeline_children("flights", 1, begin="latest")(settings)
    assert worker.command[-2:] == ("--from", "latest")
    assert "--from" not in monitor.command


def test_a_worker_has_the_same_name_at_each_start_of_its_home_and_no_other_worker_has_it() -> None:
    def names(home: str) -> list[str]:
        settings = Settings.read({"STREAMGAUGE_HOME": home, "HOME": "/h"})
        return [worker.command[-1] for worker in pipeline_children("flights", 2)(settings)[1:]]

    assert names("/a") == names("/a")
    assert len({*names("/a"), *names("/b")}) == 4


def _ends(descriptor: int) -> bool:
    """Whether the process behind a pidfd ends within a deadline."""
    import select  # noqa: PLC0415  # only here

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(30_000))
    finally:
        os.close(descriptor)
