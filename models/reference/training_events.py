"""What a reference is fitted on: the scored events of a training, and what each column of their matrix is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from models.reference.dependence import Span

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingEvents:
    """The events of a training, in the order of event time.

    Parameters
    ----------
    matrix
        Feature matrix, events x features; NaN is missing, a category is its code.
    scores, outcomes
        What the model says of each event, and its label (0, 1, NaN = never known). Scores of events that the model was
        not fitted on make the better reference: on its own training rows a model is too sure.
    times_ms
        Event times, ascending, to see at which hours decisions are wrong; None: the events have none.
    span
        In which detection windows the events lie; None: that is not known.
    share
        The share of all events that these are; windows hold all of them. Three in ten of the events resemble each other
        as those of a window with three tenths of the events do. That is what is measured, and then scaled up.
    """

    matrix: Floats
    scores: Floats
    outcomes: Floats
    times_ms: Ints | None = None
    span: Span | None = None
    share: float = 1.0

    def span_of(self, rows: Ints | Bools | slice) -> Span | None:
        """In which detection windows some of the events lie."""
        return None if self.span is None else self.span.of(rows)

    def check(self, columns: Sequence[FeatureColumn]) -> None:
        """ValueError unless there is a score and an outcome per event, and a column of the matrix per feature."""
        n_events = len(self.scores)
        if self.matrix.shape != (n_events, len(columns)) or len(self.outcomes) != n_events:
            raise ValueError(
                f"matrix {self.matrix.shape}, {len(columns)} features, {n_events} scores and {len(self.outcomes)} "
                "outcomes do not fit together; give one row per event and one column per feature"
            )


class FeatureColumn(NamedTuple):
    """What a column of the feature matrix holds.

    Parameters
    ----------
    codes
        Number of codes of a category: one for each of its values, and one for all others.
    values
        The values of a category, which name its codes; empty: they are not known.
    memory
        How many detection windows the longest window of the feature spans; 0: it does not carry the past.
    """

    name: str
    kind: Literal["numeric", "category"]
    codes: int = 0
    values: Sequence[str] = ()
    memory: float = 0.0


def numeric(name: str) -> FeatureColumn:
    """A column of numbers."""
    return FeatureColumn(name, "numeric")


def category(name: str, codes: int, values: Sequence[str] = ()) -> FeatureColumn:
    """A column of codes below ``codes``."""
    return FeatureColumn(name, "category", codes, values)
