"""What one evaluation shares: how much is drawn, from which seed, on how many processes, and the figures so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from app.figures import Figures

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Said at most so often while a section computes.
_EVERY_S = 15.0


@dataclass(frozen=True)
class Sizes:
    """How much is drawn; everything follows from ``runs``, the runs of a null stream that something is promised of."""

    runs: int = 100

    @property
    def others(self) -> int:
        """Runs of the other null streams."""
        return max(1, self.runs // 3)

    @property
    def changes(self) -> int:
        """Runs of each change of features."""
        return max(1, self.runs // 5)

    @property
    def seeds(self) -> int:
        """Streams of each of river's generators and kinds of change."""
        return max(1, self.runs // 100)

    @property
    def payments(self) -> int:
        """Runs of each law of payments."""
        return max(1, self.runs // 5)

    @property
    def episodes(self) -> int:
        """Episodes of each cell of the KDD 2026 protocol, which has 50."""
        return max(1, min(50, self.runs // 20))


@dataclass
class EvaluationRun:
    """Tasks on processes, and figures. ``report``: folder of what is written; ``cache``: of what is downloaded."""

    say: Callable[[str], None]
    sizes: Sizes
    report: Path
    cache: Path
    seed: int = 1
    workers: int = 1
    figures: Figures = field(
        default_factory=lambda: Figures(
            files=("drift.json", "drift.md"),
            heading="Drift evaluation",
            fairness="Values with a range have it at 95 %.",
        )
    )

    def map(self, what: str, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Compute ``work`` of each task, in their order, and say how far that is."""
        todo = list(tasks)
        said = time.monotonic()
        for done, result in enumerate(self._compute(work, todo), start=1):
            if time.monotonic() - said > _EVERY_S:
                said = time.monotonic()
                self.say(f"{what}: {done} of {len(todo)}")
            yield result

    def _compute(self, work: Callable[[Task], Result], tasks: list[Task]) -> Iterator[Result]:
        if self.workers == 1:
            yield from map(work, tasks)
            return
        with ProcessPoolExecutor(self.workers) as pool:
            yield from pool.map(work, tasks)


def generator(seed: int, *of: int) -> np.random.Generator:
    """The chance of one task: it depends on the seed and the task's numbers alone, not on which process computes it."""
    return np.random.default_rng(np.random.SeedSequence([seed, *of]))
