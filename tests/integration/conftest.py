"""One real Kafka for all integration tests; each test has pipeline (and so topic) names of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.adapters.embedded_kafka import EmbeddedKafka
from app.settings import Settings


@pytest.fixture(scope="session")
def cache() -> Path:
    return Settings.read().cache


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """Bootstrap address of a broker that lives as long as the session."""
    with EmbeddedKafka(home=tmp_path_factory.mktemp("kafka"), cache=cache) as broker:
        yield broker.bootstrap
