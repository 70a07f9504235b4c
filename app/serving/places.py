"""Who serves a partition: this worker, another one, or for the moment nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.serving.desk import PreviewDesk
from schemas.serving import Problem


@dataclass(frozen=True)
class Elsewhere:
    """Another worker serves it, at this address."""

    url: str


Place = PreviewDesk | Elsewhere | Problem


class Places(Protocol):
    """What a worker knows of partitions."""

    def find(self, partition: int) -> Place:
        """Who serves a partition now; a problem says why nobody does."""

    def owners(self) -> dict[int, str]:
        """Partition -> address of its owner, as far as it is known."""

    def home_of(self, entity: str) -> int:
        """The partition in which an entity's events are, or will be."""
