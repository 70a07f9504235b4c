"""river's drift detectors as detectors of the error stream, by configuration.

river gives no state to keep, so what is kept are the errors since a detector began anew, one bit each: a fresh detector
that sees them again is in the same state. They are bounded: when they reach `Made.most`, the detector is made anew from
the newest `Made.keep` of them, in the course of the stream and not only at a restart, so that both go on alike.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from app.core.errors.detectors import Detection, TrainingErrors, locate_change
from app.core.errors.watch import make_cusum

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.errors.detectors import Bits, Detector
    from schemas.pipeline.spec import ErrorDetector

#: A restart sees at most this many errors again: 0.4 s with the slowest detector, KSWIN aside.
MOST = 2**17

#: Of each name in a pipeline file, where it is in `river.drift`.
KINDS = {
    "adwin": "ADWIN",
    "kswin": "KSWIN",
    "page_hinkley": "PageHinkley",
    "ddm": "binary.DDM",
    "eddm": "binary.EDDM",
    "hddm_a": "binary.HDDMA",
    "hddm_w": "binary.HDDMW",
}


class Made(NamedTuple):
    """How one of river's detectors is made, and how many errors are kept for it."""

    kind: Callable[..., Any]
    settings: dict[str, Any]
    most: int = MOST
    keep: int = MOST // 2


def make_detector(wanted: ErrorDetector, baseline: TrainingErrors) -> Detector:
    """Make the detector that a pipeline file asks for."""
    if wanted.detector == "cusum":
        return make_cusum(wanted, baseline)
    made = Made(find_kind(wanted.detector), dict(wanted.settings))
    if wanted.detector == "kswin":  # it looks back no further than its window, and 0.2 ms an event is slow
        window = int(wanted.settings["window_size"])
        made = made._replace(most=20 * window, keep=window)
    return RiverDetector(made)


def find_kind(name: str) -> Callable[..., Any]:
    """River's detector of a name in `KINDS`."""
    from river import drift  # noqa: PLC0415  # with scikit-learn behind it, two seconds that a monitor may not need

    kind: Callable[..., Any] = attrgetter(KINDS[name])(drift)
    return kind


class RiverDetector:
    """One of river's, as a `app.core.errors.detectors.Detector`.

    The time of the change is where the errors since it began anew divide best (`locate_change`), for all of them alike.
    """

    def __init__(self, made: Made) -> None:
        self._made = made
        self._seen = 0
        self._bits = bytearray()
        self._inner = made.kind(**made.settings)

    def observe(self, wrong: Bits, hours: Bits | None = None) -> list[Detection]:  # noqa: ARG002  # it knows of none
        """Take the next errors; see `app.core.errors.detectors.Detector`."""
        detections = []
        for bit in wrong.tolist():
            self._inner.update(bit)
            self._bits.append(bit)
            self._seen += 1
            if self._inner.drift_detected:
                detections.append(self._detection())
                self._see_again(b"")
            elif len(self._bits) == self._made.most:
                self._see_again(self._bits[-self._made.keep :])
        return detections

    def _detection(self) -> Detection:
        bits = np.frombuffer(self._bits, np.uint8)
        n, change = len(bits), locate_change(bits) if len(bits) > 1 else 0
        before, since = int(bits[:change].sum()), int(bits[change:].sum())
        rate = before / change if change else 0.0
        return Detection(
            position=self._seen - 1,
            change=self._seen - n + change,
            n_since=n - change,
            wrong_since=since,
            n_before=change,
            rate_before=rate,
            rose=since / (n - change) > rate,
        )

    def _see_again(self, bits: bytes | bytearray) -> None:
        self._bits = bytearray(bits)
        self._inner = self._made.kind(**self._made.settings)
        for bit in self._bits:
            self._inner.update(bit)

    def snapshot(self) -> dict[str, Any]:
        """The errors since it began anew."""
        packed = np.packbits(np.frombuffer(self._bits, np.uint8))
        return {"seen": self._seen, "n": len(self._bits), "bits": b64encode(packed.tobytes()).decode()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self._seen = state["seen"]
        packed = np.frombuffer(b64decode(state["bits"]), np.uint8)
        self._see_again(np.unpackbits(packed, count=state["n"]).tobytes())
