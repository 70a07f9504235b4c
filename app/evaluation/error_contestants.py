"""Who looks at a stream of errors (1.0: the model was wrong): river's detectors, and one that always fires.

To add one, write a class with `ErrorDetector.observe` and name it in `ERROR_CONTESTANTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from river import drift
from river.drift import binary

from app.core.errors.cusum import Cusum
from app.core.errors.detectors import TrainingErrors

Floats = NDArray[np.float64]
#: An always-fire detector does so once in so many events.
ALWAYS_EVERY = 100


class ErrorDetector(Protocol):
    """Watches the errors of one stream, in any cut; after an alarm it goes on."""

    def observe(self, errors: Floats) -> list[int]:
        """Give the positions in ``errors`` at which it alarms; its state goes on to the next call."""
        ...


@dataclass(frozen=True)
class ErrorContestant:
    """A detector by name.

    Parameters
    ----------
    make
        Builds one from the errors of a calibration period in which nothing changed, and the declared number of events
        between two false alarms. River's have no budget: they see the calibration period as the beginning of the
        stream, and its alarms do not count.
    one_in
        Takes part in one run of so many: a slow one in few.
    """

    name: str
    title: str
    make: Callable[[Floats, int], ErrorDetector]
    one_in: int = 1


class _River:
    def __init__(self, detector: Any, calibration: Floats) -> None:
        self._detector = detector
        self.observe(calibration)

    def observe(self, errors: Floats) -> list[int]:
        detector, positions = self._detector, []
        for position, error in enumerate(errors.tolist()):
            detector.update(error)
            if detector.drift_detected:
                positions.append(position)
        return positions


class _Cusum:
    """Ours: a rise is an alarm."""

    def __init__(self, calibration: Floats, per_events: int) -> None:
        self._detector = Cusum(TrainingErrors(len(calibration), int(calibration.sum()), float(per_events)))
        self._seen = 0

    def observe(self, errors: Floats) -> list[int]:
        detections = self._detector.observe(errors.astype(np.uint8))
        positions = [detection.position - self._seen for detection in detections if detection.rose]
        self._seen += len(errors)
        return positions


class AlwaysFire:
    """Fires at each ``every``-th event."""

    def __init__(self, every: int = ALWAYS_EVERY) -> None:
        self._every = every
        self._seen = 0

    def observe(self, errors: Floats) -> list[int]:
        """Look at nothing but the number of events."""
        numbers = np.arange(self._seen + 1, self._seen + 1 + len(errors))
        self._seen += len(errors)
        return np.flatnonzero(numbers % self._every == 0).tolist()


def _river(name: str, title: str, build: Callable[[], Any], one_in: int = 1) -> ErrorContestant:
    return ErrorContestant(name, title, lambda calibration, _: _River(build(), calibration), one_in)


#: In the order of the tables; river's with their defaults.
ERROR_CONTESTANTS = (
    ErrorContestant("cusum", "streamgauge CUSUM", _Cusum),
    _river("adwin", "river ADWIN", drift.ADWIN),
    # 200 µs an event, a hundred times what the others take.
    _river("kswin", "river KSWIN", lambda: drift.KSWIN(seed=1), one_in=10),
    _river("page-hinkley", "river PageHinkley (up)", lambda: drift.PageHinkley(mode="up")),
    _river("ddm", "river DDM", binary.DDM),
    _river("eddm", "river EDDM", binary.EDDM),
    _river("hddm-a", "river HDDM_A", binary.HDDMA),
    _river("hddm-w", "river HDDM_W", binary.HDDMW),
    ErrorContestant("always-fire", f"always-fire every {ALWAYS_EVERY}", lambda _, __: AlwaysFire()),
)
