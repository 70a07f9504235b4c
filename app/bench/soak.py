"""A long steady run: whether memory stays flat, files stay closed and the tail of the latencies does not grow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

import numpy as np
import psutil

from app.bench.contestants import OURS
from app.bench.lane import BenchError, Child
from app.bench.latency import WARM_UP_S, add_latencies, measure_at
from app.bench.run import BenchRun
from app.bench.workload import WINDOWS

RATE = 2_000
_SAMPLE_S = 1.0
#: Caches, the state of the cards and the allocator's pools fill in the first tenth.
_WARM_SHARE = 0.1


class SoakWatch:
    """Samples a worker once a second: seconds since the start, resident memory, open files."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []
        self._stop = threading.Event()

    def begin(self, children: Sequence[Child]) -> None:
        """Watch the first process until `end` or its own end."""
        threading.Thread(target=self._sample, args=(psutil.Process(children[0].process.pid),), daemon=True).start()

    def end(self) -> None:
        self._stop.set()

    def _sample(self, process: psutil.Process) -> None:
        start = time.monotonic()
        while not self._stop.wait(_SAMPLE_S):
            try:
                self.samples.append((time.monotonic() - start, process.memory_info().rss, process.num_fds()))
            except psutil.Error:
                return


def rss_change(rss: Sequence[float]) -> float:
    """Largest distance of a tenth's mean from the first tenth's, in percent.

    Examples
    --------
    >>> rss_change([100.0] * 10 + [103.0] * 10)
    3.0
    """
    means = [float(part.mean()) for part in np.array_split(np.asarray(rss, dtype=np.float64), min(10, len(rss)))]
    return max(abs(mean - means[0]) for mean in means) / means[0] * 100


async def measure_soak(run: BenchRun) -> None:
    """Windows over 5 000 cards a partition, exactly once, for as long as asked."""
    watch = SoakWatch()
    try:
        latency = await measure_at(run, OURS, WINDOWS, rate=RATE, seconds=run.sizes.minutes * 60, watch=watch.begin)
    finally:
        watch.end()
    seconds = WARM_UP_S + run.sizes.minutes * 60  # what was sampled later may be of a worker that is being stopped
    samples = [sample for sample in watch.samples if sample[0] < seconds and sample[1]]
    kept = samples[int(len(samples) * _WARM_SHARE) :]
    if len(kept) < 2:
        raise BenchError("the soak was too short to be sampled: give more by --minutes")
    minutes = f"{run.sizes.minutes:g} minutes at {RATE}/s"
    rss, files = [sample[1] / 1e6 for sample in kept], [sample[2] for sample in kept]
    run.figures.add("soak.minutes", run.sizes.minutes, "min", "Soak: length")
    run.figures.add("soak.rss_start", rss[0], "MB", "Soak: resident memory after warm-up")
    run.figures.add("soak.rss_end", rss[-1], "MB", "Soak: resident memory at the end")
    run.figures.add("soak.rss_change", rss_change(rss), "%", "Soak: largest change of resident memory")
    run.figures.add("soak.files_start", files[0], "files", "Soak: open files after warm-up")
    run.figures.add("soak.files_end", files[-1], "files", "Soak: open files at the end")
    run.figures.add("tail.growth", latency.tail_growth(), "×", f"p99 of the second half by the first's, {minutes}")
    add_latencies(run, "soak", ("Latency over the soak, ms", f"{OURS.title}, {minutes}"), latency)
    run.report.mkdir(parents=True, exist_ok=True)
    rows = [{"seconds": round(at, 1), "rss": rss, "files": files} for at, rss, files in samples]
    (run.report / "soak.json").write_text(json.dumps(rows) + "\n")
