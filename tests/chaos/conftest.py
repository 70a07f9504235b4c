"""Faults on a real Kafka. What takes minutes is marked ``chaos_full`` and runs under `make chaos` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_report import render, seed_of

from app.adapters.embedded_kafka import EmbeddedKafka
from app.settings import Settings

#: "full": everything; anything else: without what is marked ``chaos_full``.
SCOPE_VARIABLE = "STREAMGAUGE_CHAOS"
#: Of one test: dozens of faults take their time, the more on a busy machine.
FULL_TIMEOUT_S = 3_600


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, without a word, what only `make chaos` runs."""
    if os.environ.get(SCOPE_VARIABLE) == "full":
        for item in items:
            if item.get_closest_marker("chaos_full"):
                item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
        return
    left_out = [item for item in items if item.get_closest_marker("chaos_full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("chaos_full")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what the run's faults came to."""
    table = render()
    if table:
        terminalreporter.section("chaos")
        terminalreporter.write(table)


@pytest.fixture(scope="session")
def cache() -> Path:
    return Settings.read().cache


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """Bootstrap address of a broker that no test of this folder kills."""
    with EmbeddedKafka(home=tmp_path_factory.mktemp("kafka"), cache=cache) as broker:
        yield broker.bootstrap


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of the test: made of its name, or the one asked for."""
    return seed_of(request.node.name)
