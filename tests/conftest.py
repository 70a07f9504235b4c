"""What every test shares: one real Kafka a process, the same examples on every run, and tests side by side.

Most of an integration test is waiting, so several processes take tests in turn (pytest-xdist). Each has a broker of
its own; tests that share one have pipeline (and so topic) names of their own.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterator
from functools import cache as kept
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from chaos_report import Gatherer
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.settings import Settings

# OpenMP's threads wait for each other by spinning: on a busy machine fits of a few rows took twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Brokers of tests live for a minute: compiling their code once and quickly halves what a start costs.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
# A first look, for `make check`.
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=25)
# New examples on each run, to look for what the fixed ones miss: pytest --hypothesis-profile=explore
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")

#: Folders in the order in which they are begun: what takes long first, so that short tests fill the end.
_FOLDERS = ("chaos", "integration")
_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cache() -> Path:
    return Settings.read().cache


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """Bootstrap address of a broker that no test kills; it lives as long as the process that takes tests."""
    with EmbeddedKafka(home=tmp_path_factory.mktemp("kafka"), cache=cache) as broker:
        yield broker.access


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Gatherer())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Give an ``async def`` test an event loop of its own: pytest, which calls it next, fails it otherwise."""
    if iscoroutinefunction(test := pyfuncitem.obj):
        pyfuncitem.obj = lambda **fixtures: asyncio.run(test(**fixtures))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: as many as cores, and one more where tests wait; none beside for tests that were named."""
    if config.option.keyword or any("::" in name for name in config.args):
        return 0
    return (os.cpu_count() or 1) + (config.option.markexpr != "not slow")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _FilesThatShare(config, log)


class _FilesThatShare(LoadScopeScheduling):
    """One test at a time to whoever is free; together go tests of a file that share a fixture, and a test's examples.

    Examples of tests that take minutes go one by one.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if _shares(Path(path)):
            return path
        return nodeid if _rank(Path(path)) < len(_FOLDERS) else nodeid.partition("[")[0]

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Forget what is done: every test would be counted again at each one."""
        scope = self._split_scope(self.registered_collections[node][item_index])
        super().mark_test_complete(node, item_index, duration)
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]


@kept
def _shares(file: Path) -> bool:
    return _rank(file) < len(_FOLDERS) and 'scope="module"' in (_ROOT / file).read_text()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    return next((rank for rank, folder in enumerate(_FOLDERS) if path.parent.name == folder), len(_FOLDERS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how what failed is run again, alone."""
    failed = {
        report.nodeid
        for outcome in ("failed", "error")
        for report in terminalreporter.stats.get(outcome, [])
        if hasattr(report, "nodeid")
    }
    if failed:
        terminalreporter.section("to run it again")
        for test in sorted(failed):
            terminalreporter.write_line(f"make test ARGS={shlex.quote(shlex.quote(test))}")
