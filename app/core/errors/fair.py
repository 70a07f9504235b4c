"""Leaves out of the stream of errors the stretches in which only one kind of label has come.

A detector takes decisions as their labels come. One label may be rare, and the other may not come, because its sender
fails or sends late. Then nearly all labels are of the rare kind. Of frauds alone, for example, nearly every decision is
wrong, though nothing has changed but what is sent. Such stretches are no sample of the decisions, and are left out.

They are looked for in `STRETCH` decisions in a row, by their number: what is left out does not depend on where batches
are cut. So up to that many decisions wait for those after them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import bdtrc

from app.core.errors.stream import Errors

if TYPE_CHECKING:
    from models.reference.reference import Reference

#: Decisions that are looked at together.
STRETCH = 16
#: A label is rare up to this share in training; it may become this many times as frequent ...
_RARE, _TIMES = 0.1, 5.0
#: ... and then there are too many of it in a stretch if chance makes them so many less often than this.
_SELDOM = 1e-3


class FairErrors:
    """Takes the errors of one version as they are released, and gives those of stretches with labels of both kinds.

    Parameters
    ----------
    reference
        Of the version: which label is rare, and how rare. Where none is, all errors are given at once.
    """

    def __init__(self, reference: Reference) -> None:
        negative, positive = (int(n) for n in reference.training.outcomes.sum(axis=1))
        share = min(negative, positive) / max(negative + positive, 1)
        self._is_rare = 0 < share <= _RARE
        self._rare = positive < negative
        due = np.array([bdtrc(n, STRETCH, min(_TIMES * share, 0.5)) for n in range(STRETCH)])
        self._most = int(np.argmax(due < _SELDOM))
        self._waiting = Errors.join([])

    def take(self, errors: Errors) -> Errors:
        """Take the next ones; give those that go on."""
        if not self._is_rare:
            return errors
        errors = Errors.join([self._waiting, errors])
        whole = len(errors.decisions) // STRETCH * STRETCH
        rows = np.arange(len(errors.decisions))
        self._waiting = errors.take(rows[whole:])
        numbers = (errors.is_positive[:whole] == self._rare).reshape(-1, STRETCH).sum(axis=1)
        return errors.take(rows[:whole][np.repeat(numbers <= self._most, STRETCH)])

    def snapshot(self) -> list[str]:
        """What waits, as values that JSON keeps."""
        return [b64encode(column).decode() for column in self._waiting.to_bytes()]

    def restore(self, state: list[Any]) -> None:
        """Take what `snapshot` gave."""
        times_ms, *bits = (b64decode(column) for column in state)
        self._waiting = Errors(
            np.frombuffer(times_ms, "<i8").astype(np.int64), *(np.frombuffer(column, np.uint8) for column in bits)
        )
