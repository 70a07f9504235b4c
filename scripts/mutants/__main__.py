"""Makes small mistakes in the code on purpose, one at a time, and says which of them no unit test notices.

``make mutants ARGS="--seed 1 --minutes 20 --only app/core/intake/merge.py"``. All happens in copies of the tree. Each
mistake is tried in a process of its own, forked from this one with the libraries imported. It runs the tests that enter
the changed function, the nearest first, up to the first that fails. Exits with 1 when less than 90 % are noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest
from changes import Change, find_changes, make_changed

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "mutants-report"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
GOAL = 0.9
CHANGED = ("app/core", "app/flow", "app/pipeline.py", "models")
TESTS = ("tests/unit", "tests/chaos/test_core_*.py", "app/core", "models")
SHARED = ("tests/conftest.py", "tests/unit/conftest.py")
PYTEST = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
#: What a trial may take of the processor: so many times what its tests take without a mistake, and so many seconds.
SLOWER, LEAST_CPU_S = 4, 15
FIRST = 8
MOST_BYTES = 6 << 30


@dataclass(frozen=True, slots=True)
class Test:
    """Some test as it runs without a mistake."""

    name: str
    cpu_s: float
    functions: frozenset[str]

    @property
    def file(self) -> str:
        return self.name.split("::")[0]


@dataclass(eq=False, slots=True)
class Watch:
    """A pytest plugin: which functions each test of one file enters, and what it costs.

    What is entered while the file is collected, or by a fixture that several tests share, belongs to all of its tests.
    Python's profiler sees it: in C, so that tests take hardly longer. It does not see other threads.
    """

    common: set[CodeType] = field(default_factory=set)
    tests: dict[str, tuple[float, set[CodeType]]] = field(default_factory=dict)
    _watching: list[cProfile.Profile] = field(default_factory=list)

    @contextlib.contextmanager
    def _seeing(self, codes: set[CodeType]) -> Iterator[None]:
        for outer in self._watching[-1:]:
            outer.disable()
        profile = cProfile.Profile(builtins=False)
        self._watching.append(profile)
        profile.enable()
        try:
            yield
        finally:
            self._watching.pop().disable()
            codes |= {entry.code for entry in profile.getstats() if isinstance(entry.code, CodeType)}
            for outer in self._watching[-1:]:
                outer.enable()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Iterator[None]:
        with self._seeing(self.common):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        with self._seeing(self.common):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began, codes = time.process_time(), set[CodeType]()
        with self._seeing(codes):
            result = yield
        self.tests[item.nodeid] = time.process_time() - began, codes
        return result

    def to_json(self, root: Path) -> dict[str, Any]:
        def name(codes: set[CodeType]) -> list[str]:
            ours = ((Path(code.co_filename), code.co_qualname) for code in codes)
            return sorted({f"{path.relative_to(root)}:{name}" for path, name in ours if path.is_relative_to(root)})

        return {
            each: {"cpu_s": cpu_s, "functions": name(codes | self.common)}
            for each, (cpu_s, codes) in self.tests.items()
        }


@dataclass(eq=False, slots=True)
class Choice:
    """A pytest plugin: runs the chosen tests in the order of choice and keeps the name of the first that fails."""

    names: list[str]
    failed: str = ""

    def pytest_configure(self) -> None:
        """An example that fails is enough: no smaller one is looked for."""
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("once", hypothesis.settings(), phases=phases)
        hypothesis.settings.load_profile("once")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self.names if name in by_name]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


@dataclass(slots=True)
class Workers:
    """Processes forked from this one, each in a copy of the tree that it has for itself."""

    folders: list[Path]
    running: dict[int, tuple[Path, float, Callable[[Path, int], None]]] = field(default_factory=dict)

    def start(self, work: Callable[[], int], done: Callable[[Path, int], None], cpu_s: float = 3600) -> Path:
        """Run ``work`` in a free copy; ``done`` is given the copy and the status. Waits until a copy is free."""
        while not self.folders:
            self._reap()
        folder = self.folders.pop()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(folder, cpu_s, work)
        self.running[pid] = folder, time.monotonic() + 60 + 10 * cpu_s, done
        return folder

    def finish(self) -> None:
        while self.running:
            self._reap()

    def stop(self) -> None:
        for pid in self.running:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _reap(self) -> None:
        for pid, (folder, until, done) in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what a test has started and left
                del self.running[pid]
                self.folders.append(folder)
                done(folder, os.waitstatus_to_exitcode(status))
            elif time.monotonic() > until:
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)


def _become(folder: Path, cpu_s: float, work: Callable[[], int]) -> None:
    """In the child: the copy comes before the tree that .venv knows, in processes that a test starts as well."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp")}
        tempfile.tempdir = None
        said = os.open(folder / "said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(said, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s) + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        status = work()
    finally:
        sys.stdout.flush()
        os._exit(status)


def main() -> int:
    options = _read_options()
    entries = tomllib.loads(EQUIVALENT.read_text("utf-8")).get("change", [])
    equivalent = {(entry["file"], entry["scope"], entry["line"], entry["change"]) for entry in entries}
    changes = [
        change
        for path in _to_files(options.only or CHANGED)
        for change in find_changes(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    ]
    random.Random(options.seed).shuffle(changes)  # noqa: S311  (a sample that can be drawn again, no secret)
    REPORT.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended as by Ctrl-C, with nothing left behind
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        workers = Workers([_copy_tree(Path(temporary) / "0")])
        try:
            _import_libraries(workers)
            for number in range(1, options.workers):
                copy = shutil.copytree(Path(temporary) / "0", Path(temporary) / str(number))
                workers.folders.append(copy)
            tests = _watch_tests(workers)
            tally = _try_all(changes, equivalent, tests, workers, options)
        except KeyboardInterrupt:
            sys.exit("stopped before any mistake was made")
        finally:
            workers.stop()
    files, keys = {change.file for change in changes}, {change.key for change in changes}
    stale = sorted(key for key in equivalent - keys if key[0] in files)
    print(*(f"equivalent.toml names what is not there any more: {' | '.join(key)}" for key in stale), sep="\n")
    return max(tally.report(options.seed, len(changes)), int(bool(stale)))


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="draws the sample (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=20, help="stop after so long (default: %(default)s)")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="stop after so many mistakes")
    parser.add_argument("--only", nargs="+", metavar="PATH", help="files or folders to make mistakes in")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="mistakes tried at a time")
    parser.add_argument("--seconds", type=float, default=20, help="processor time for the tests of one mistake")
    return parser.parse_args()


def _to_files(patterns: Sequence[str]) -> list[Path]:
    found = (path for pattern in patterns for path in ROOT.glob(pattern))
    return sorted({file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path])})


def _copy_tree(folder: Path) -> Path:
    """All that git would commit, compiled, so that a trial compiles the changed file only."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603  (as it stands above)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "app", "models", "schemas"], cwd=folder, check=True)
    (folder / "tmp").mkdir()
    return folder


def _watch_tests(workers: Workers) -> list[Test]:
    """Run each file of tests without mistakes, unless it and the code that it enters are as they were."""
    cache = REPORT / "tests.json"
    known = json.loads(cache.read_text("utf-8")) if cache.is_file() else {}
    files = _list_test_files()
    known = {
        file: known[file]
        for file in files
        if file in known and known[file]["made_of"] == _digest(ROOT, known[file]["made_of"])
    }
    todo = [file for file in files if file not in known]
    print(f"{len(todo)} of {len(files)} files of tests run without mistakes first", flush=True)
    failed: list[str] = []

    def keep(file: str, folder: Path, status: int) -> None:
        if status in {0, 5}:  # 5: nothing but what was deselected
            watched = json.loads((folder / "watched.json").read_text("utf-8"))
            entered = {function.split(":")[0] for test in watched.values() for function in test["functions"]}
            shared = (str(path.relative_to(ROOT)) for path in _to_files(SHARED))
            known[file] = {"tests": watched, "made_of": _digest(folder, [file, *entered, *shared])}
            cache.write_text(json.dumps(known), encoding="utf-8")
        else:
            failed.append(f"{file}: {status}\n{(folder / 'said').read_text('utf-8')[-2000:]}")

    for file in todo:
        workers.start(partial(_watch, file), partial(keep, file))
    workers.finish()
    if failed:
        sys.exit("\n".join([*failed, "fails without any mistake: mend that first"]))
    return [
        Test(name, test["cpu_s"], frozenset(test["functions"]))
        for watched in known.values()
        for name, test in watched["tests"].items()
    ]


def _list_test_files() -> list[str]:
    files = (path for path in _to_files(TESTS) if path.name.startswith("test_") or ">>>" in path.read_text("utf-8"))
    return [str(path.relative_to(ROOT)) for path in files]


def _digest(root: Path, files: Iterable[str]) -> dict[str, str]:
    paths = {file: root / file for file in files}
    return {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in paths.items() if path.is_file()}


def _watch(file: str) -> int:
    watch = Watch()
    status = pytest.main([*PYTEST, file], plugins=[watch])
    Path("watched.json").write_text(json.dumps(watch.to_json(Path.cwd())), encoding="utf-8")
    return status


def _import_libraries(workers: Workers) -> None:
    """What the tests import besides our own, so that a fork has it for nothing; compiles the tests."""

    def collect() -> int:
        sys.dont_write_bytecode = False
        status = pytest.main([*PYTEST, "--collect-only", *_list_test_files()])
        paths = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
        Path("loaded").write_text("\n".join(name for name in paths if "site-packages" in paths[name]), encoding="utf-8")
        return status

    def load(folder: Path, status: int) -> None:
        if status != 0:
            sys.exit((folder / "said").read_text("utf-8"))
        for name in (folder / "loaded").read_text("utf-8").split():
            if not name.startswith(("_pytest", "pytest", "chdb", "rocksdict")):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)

    workers.start(collect, load)
    workers.finish()


@dataclass(slots=True)
class Tally:
    """What came of the mistakes so far."""

    noticed: list[Change] = field(default_factory=list)
    survived: list[Change] = field(default_factory=list)
    n_equivalent: int = 0
    by_test: Counter[str] = field(default_factory=Counter)

    def report(self, seed: int, n_changes: int) -> int:
        noticed, survived = (Counter(change.file for change in changes) for changes in (self.noticed, self.survived))
        for change in sorted(self.survived, key=lambda change: (change.file, change.line)):
            print(f"{change.file}:{change.line} {change.scope}: {change.text}\n    {change.old} → {change.new}")
        print(f"{'file':<40}{'noticed':>10}{'survived':>10}{'share':>8}")
        for file in sorted(noticed | survived, key=lambda file: (-survived[file], file)):
            share = noticed[file] / (noticed[file] + survived[file])
            print(f"{file:<40}{noticed[file]:>10}{survived[file]:>10}{share:>8.0%}")
        tried = len(self.noticed) + len(self.survived)
        share = len(self.noticed) / max(tried, 1)
        print(f"seed {seed}: {tried} of {n_changes} mistakes tried, {self.n_equivalent} more change nothing")
        print(f"noticed: {share:.1%}; the goal is {GOAL:.0%}")
        return 0 if share >= GOAL else 1


def _try_all(
    changes: list[Change], equivalent: set[Any], tests: list[Test], workers: Workers, options: argparse.Namespace
) -> Tally:
    tally, nearness = Tally(), _measure_nearness(tests)
    sources = {file: (ROOT / file).read_text("utf-8") for file in {change.file for change in changes}}
    end = time.monotonic() + options.minutes * 60
    log = REPORT / "mistakes.jsonl"
    log.write_text("", encoding="utf-8")

    def keep(change: Change, folder: Path, status: int) -> None:
        _write(folder / change.file, sources[change.file], (ROOT / change.file).stat().st_mtime)
        (tally.survived if status == 0 else tally.noticed).append(change)
        by = (folder / "failed").read_text("utf-8") if status == 1 else "" if status == 0 else f"status {status}"
        tally.by_test[by] += 1
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(dataclasses.asdict(change) | {"survived": status == 0, "by": by}) + "\n")

    try:
        for change in changes:
            if time.monotonic() > end or len(tally.noticed) + len(tally.survived) >= options.most:
                break
            if change.key in equivalent:
                tally.n_equivalent += 1
                continue
            chosen = _choose(change, tests, nearness, tally.by_test, options.seconds)
            text = make_changed(sources[change.file], change.place)
            workers.start(
                partial(_try, change.file, text, [test.name for test in chosen]),
                partial(keep, change),
                LEAST_CPU_S + SLOWER * sum(test.cpu_s for test in chosen),
            )
        workers.finish()
    except KeyboardInterrupt:
        print("\nstopped; what has been tried so far:")
    return tally


def _try(file: str, text: str, names: list[str]) -> int:
    _write(Path(file), text, 0.0)
    Path("failed").write_text("", encoding="utf-8")
    # The first few by themselves: most mistakes are noticed by them, and to collect a file costs as much as its tests.
    for part in (names[:FIRST], names[FIRST:]):
        if part:
            choice = Choice(part)
            status = pytest.main(
                [*PYTEST, "-x", *dict.fromkeys(name.split("::")[0] for name in part)], plugins=[choice]
            )
            if status != 0:
                Path("failed").write_text(choice.failed or "cannot be collected", encoding="utf-8")
                return 1
    return 0


def _write(path: Path, text: str, modified_s: float) -> None:
    """As a file of its own time, by which Python knows whether what it has compiled is of this text."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (modified_s, modified_s))


def _measure_nearness(tests: list[Test]) -> dict[tuple[str, str], float]:
    """(file of tests, file of code) -> which share of all functions that the tests enter are of that file."""
    entered: dict[str, set[str]] = {}
    for test in tests:
        entered.setdefault(test.file, set()).update(test.functions)
    counted = {file: Counter(function.split(":")[0] for function in functions) for file, functions in entered.items()}
    return {(file, of): n / counts.total() for file, counts in counted.items() for of, n in counts.items()}


def _choose(
    change: Change, tests: list[Test], nearness: dict[tuple[str, str], float], by_test: Counter[str], seconds: float
) -> list[Test]:
    """The tests that enter the changed function, the likeliest to notice first, as many as the seconds allow."""
    here = [test for test in tests if (test.file, change.file) in nearness]
    enter = [test for test in here if f"{change.file}:{change.scope}" in test.functions] or [
        test for test in here if any(name.startswith(f"{change.file}:") for name in test.functions)
    ]
    enter.sort(key=lambda test: (-by_test[test.name], -nearness[test.file, change.file], test.cpu_s))
    chosen = []
    for test in enter:
        if seconds >= test.cpu_s:
            seconds -= test.cpu_s
            chosen.append(test)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
