"""Faults on a real Kafka. What takes minutes is marked ``chaos_full`` and runs under `make chaos` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from chaos_report import ROW, seed_of, take_recorded

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hand what a test recorded to its report, which reaches the process that gathers them."""
    try:
        return (yield)
    finally:
        item.user_properties.extend((ROW, row) for row in take_recorded())


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of the test: made of its name, or the one asked for."""
    return seed_of(request.node.name)
