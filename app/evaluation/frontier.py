"""The frontier of detectors on streams of errors: how long until a change is noticed, and how often nothing is one.

Independent errors of rate .2; each run has a reference of its own, which is what a detector knows beforehand, and the
change comes after 10 000 events of the stream. An alarm counts when the rate rises or, for a detector that does not
tell, whatever it found. A run with an alarm before the change says nothing of the delay and is left out of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from app.adapters.river_detectors import make_detector
from app.core.errors.detectors import Detection, TrainingErrors
from schemas.pipeline.detectors import default_detector
from schemas.pipeline.spec import ErrorDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.errors.detectors import Bits, Detector

#: Of each contestant: kind, settings other than the defaults, and for the CUSUM its budget in events.
CONTESTANTS: tuple[tuple[str, dict[str, Any], float], ...] = (
    *(("cusum", {}, arl) for arl in (25_000.0, 80_000.0, 500_000.0, 1_200_000.0, 20_000_000.0)),
    *(("adwin", {"delta": delta}, math.nan) for delta in (0.1, 0.02, 0.002)),
    *(("hddm_a", {"drift_confidence": confidence}, math.nan) for confidence in (0.005, 0.001)),
    ("hddm_w", {}, math.nan),
    *(("page_hinkley", {"mode": "up", "threshold": threshold}, math.nan) for threshold in (50.0, 80.0)),
    ("ddm", {}, math.nan),
    ("eddm", {}, math.nan),
)
#: 0.2 ms an event: measured over fewer events than the others.
SLOW: tuple[str, dict[str, Any], float] = ("kswin", {}, math.nan)


class AlwaysFire:
    """Alarms at every event: what any figure must be better than."""

    def __init__(self) -> None:
        self._seen = 0

    def observe(self, wrong: Bits, hours: Bits | None = None) -> list[Detection]:  # noqa: ARG002  # as all detectors
        start, self._seen = self._seen, self._seen + len(wrong)
        return [
            Detection(start + place, start + place, 1, bit, 0, 0.0, rose=True)
            for place, bit in enumerate(wrong.tolist())
        ]

    def snapshot(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        self._seen = state["seen"]


@dataclass(frozen=True)
class Size:
    """How much is run; the defaults take some minutes.

    Parameters
    ----------
    null_events, null_length
        Events without a change in all, and of each stream among them; a tenth of them for river's slow ones.
    runs
        Streams with a change, per change.
    patience
        Events after the change; not noticed by then is missed.
    """

    null_events: int = 10_000_000
    null_length: int = 1_000_000
    runs: int = 200
    patience: int = 20_000
    before: int = 10_000
    reference: int = 2_000
    rate: float = 0.2
    changed: tuple[float, ...] = (0.3, 0.25)


class Row(NamedTuple):
    """What one detector reached.

    Parameters
    ----------
    promised
        Mean events between false alarms that were declared; NaN: the detector has no such setting.
    between_alarms
        As measured; infinite without an alarm.
    false_alarms, null_events
        What it was measured from.
    changed, delay, missed, early
        Per change: the rate after it, the mean delay of the runs in which it was noticed, the share in which it was
        not, and the share with an alarm before it (of the latter nothing else is counted).
    """

    detector: str
    settings: str
    promised: float
    between_alarms: float
    false_alarms: int
    null_events: int
    changed: tuple[float, ...]
    delay: tuple[float, ...]
    missed: tuple[float, ...]
    early: tuple[float, ...]


@dataclass(frozen=True)
class Contestant:
    """A detector to be measured."""

    name: str
    make: Callable[[int, int], Detector]
    promised: float = math.nan
    settings: str = ""
    effort: float = 1.0

    @classmethod
    def of(cls, kind: str, settings: dict[str, Any], arl: float) -> Contestant:
        """One that a pipeline file may name."""
        wanted = default_detector(kind)
        wanted = ErrorDetector(wanted.detector, {**wanted.settings, **settings})

        def make(n: int, wrong: int) -> Detector:
            return make_detector(wanted, TrainingErrors(n, wrong, arl))

        words = ", ".join(f"{key} = {value}" for key, value in settings.items())
        return cls(kind, make, arl, words, _EFFORT.get(kind, 1.0))


_EFFORT = {"hddm_a": 0.1, "hddm_w": 0.1, "page_hinkley": 0.2, "ddm": 0.2, "eddm": 0.2, "kswin": 0.004}


def always_fire() -> Contestant:
    return Contestant("always fire", lambda _n, _wrong: AlwaysFire(), 1.0, effort=0.01)


@dataclass
class _Streams:
    """Draws of references and streams, the same for every contestant."""

    size: Size
    seed: int
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def reference(self) -> tuple[int, int]:
        return self.size.reference, int(self.generator.binomial(self.size.reference, self.size.rate))

    def errors(self, n: int, rate: float) -> Bits:
        return (self.generator.random(n) < rate).astype(np.uint8)


def frontier(size: Size = Size(), seed: int = 1, *, with_slow: bool = True) -> list[Row]:  # frozen
    """Measure every contestant; ``with_slow``: KSWIN too."""
    asked = [*CONTESTANTS, *([SLOW] if with_slow else [])]
    contestants = [*(Contestant.of(*description) for description in asked), always_fire()]
    return [measure(contestant, size, seed) for contestant in contestants]


def measure(contestant: Contestant, size: Size, seed: int) -> Row:
    """Measure one contestant."""
    alarms, events = _false_alarms(contestant, size, seed)
    delays = [_delays(contestant, size, rate, seed + number) for number, rate in enumerate(size.changed, start=1)]
    return Row(
        contestant.name,
        contestant.settings,
        contestant.promised,
        events / alarms if alarms else math.inf,
        alarms,
        events,
        size.changed,
        *(tuple(column) for column in zip(*delays, strict=True)),
    )


def _false_alarms(contestant: Contestant, size: Size, seed: int) -> tuple[int, int]:
    streams = _Streams(size, seed)
    wanted = max(int(size.null_events * contestant.effort), 10_000)
    length = min(size.null_length, wanted)
    alarms = events = 0
    while events < wanted:
        detector = contestant.make(*streams.reference())
        alarms += sum(detection.rose for detection in detector.observe(streams.errors(length, size.rate)))
        events += length
    return alarms, events


def _delays(contestant: Contestant, size: Size, changed: float, seed: int) -> tuple[float, float, float]:
    """Mean delay, share missed, share with an alarm before the change."""
    streams = _Streams(size, seed)
    runs = max(int(size.runs * (0.1 if contestant.effort < 0.01 else 1)), 2)
    early, delays = 0, []
    for _ in range(runs):
        detector = contestant.make(*streams.reference())
        before, after = streams.errors(size.before, size.rate), streams.errors(size.patience, changed)
        if any(detection.rose for detection in detector.observe(before)):
            early += 1
            continue
        delays.append(_first(detector.observe, after, size.before))
    noticed = [delay for delay in delays if delay is not None]
    missed = 1 - len(noticed) / len(delays) if delays else math.nan
    return float(np.mean(noticed)) if noticed else math.nan, missed, early / runs


def _first(observe: Callable[[Bits], list[Detection]], wrong: Bits, before: int) -> int | None:
    """Events until the first alarm."""
    for part in np.split(wrong, range(500, len(wrong), 500)):
        for detection in observe(part):
            if detection.rose:
                return detection.position - before + 1
    return None
