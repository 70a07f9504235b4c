"""How a Kafka is reached: all that its clients need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KafkaAccess:
    """Where a Kafka is. As text: its servers.

    ``servers``: "host:port", several of them separated by commas.
    """

    servers: str

    def __str__(self) -> str:
        return self.servers

    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is given."""
        return {"bootstrap_servers": self.servers}
