"""A Bernoulli CUSUM of errors whose false alarms are as rare as the budget says, although p0 is an estimate.

Several alternatives run side by side, each a rise of the odds of an error by a factor, and share the budget:
S_t = max(0, S_{t-1} + up) at an error, max(0, S_{t-1} - down) at a right decision, alarm at S_t >= h. Steps and
thresholds are integers in units of 2**-20 nats, so that any cut of the batches gives the recursion exactly.

The rate before the change
--------------------------
A p0 of 2 000 events has a deviation of .009, which would ruin the false alarms of a CUSUM that takes it for the truth.
So each threshold is where the *rate* of false alarms, averaged over what p0 may be, is that share of the budget
(`app.core.drift.run_length`), the steps are those of a p0 half a deviation above the estimate, and p0 goes on being
learned. What counts for it is only what came before the smallest alternative was last at 0, its estimate of where a
change would have begun: a change under way is not swallowed, nor is a slow one (the mean of all the past lags behind
it). When p0 rests on a seventh more events than before, steps and thresholds are made anew.

After an alarm, p0 is learned anew from the next ``learn`` events, in which there is no alarm: the same change is
reported once, a further rise again. Falls are followed, not alarmed: somebody on call need not get up for them. But
the rate to compare with is then the new one, or a return to the old would go unseen: when ``learn`` events in a row
are 4.5 deviations below p0, p0 is learned anew from them.

Measured
--------
By `app.evaluation.frontier`, p0 = .2 from a reference of 2 000 events, changing after 10 000: declared 1.2 M events
between false alarms, the mean delay to .3 is 333 and to .25 it is 1 152 (2 500 runs); river's ADWIN with one alarm in
40 M events needs 444 and 1 685, and with 656 000 between alarms 329 and 1 165. Three alternatives (1.3, 1.5, 2) took
344 and 1 221 at 1.06 M; learning at a quarter more events only 343 and 1 222 at 1.25 M.

The alternatives alarm together at times, so that all may have `_SHARED` times their share. Declared 50 000, measured
for rates .02, .2, .4 and references of 500 to 20 000: 56 000 to 58 000, 51 000 to 52 000, 63 000 to 64 000.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.detectors import Baseline, Detection
from app.core.drift.run_length import Rate, log_likelihood_steps, thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Ints
    from app.core.detectors import Bits

#: Units of a nat.
UNITS = 2**20
ODDS_RATIOS = (1.33, 1.7)
LEARN = 2_000

_SHARED = 1.2
_CAUTION = 0.5  # deviations
_FALL = 4.5  # deviations: 3e-6 by chance
_GROWTH = 1.15
_ARRAYS = ("scores", "slope", "jump", "reach")


class Cusum:
    """A `app.core.detectors.Detector` of rises of the error rate.

    Parameters
    ----------
    baseline
        p0 in training, and the average number of events between false alarms. With fewer than ``learn`` events of
        training, the first of the stream are added to them.
    odds_ratios
        The alternatives, ascending: p1 / (1 - p1) is so many times p0 / (1 - p0).
    learn
        Events that p0 rests on at least.

    Examples
    --------
    One decision in five was wrong; then two of five are.

    >>> stream = np.tile(np.array([1, 0, 1, 0, 0], np.uint8), 100)
    >>> (found,) = Cusum(Baseline(10_000, 2_000, arl_events=100_000)).observe(stream)
    >>> found.change, found.rate_before, round(found.rate_since, 1)
    (0, 0.2, 0.4)

    References
    ----------
    E. Page, "Continuous inspection schemes", Biometrika 41, 1954.
    D. Hawkins, "Self-starting CUSUM charts for location and scale", The Statistician 36, 1987.
    """

    def __init__(self, baseline: Baseline, *, odds_ratios: Sequence[float] = ODDS_RATIOS, learn: int = LEARN) -> None:
        self._odds_ratios = np.array(odds_ratios)
        self._design_effect = baseline.design_effect
        self._false_alarms = np.full(len(odds_ratios), _SHARED / len(odds_ratios) / baseline.arl_events)
        self._learn = learn
        self._pause = max(learn // 2, 1)
        self._seen = 0
        # What p0 is learned from: events and errors, and how many are still wanted before watching begins.
        self._learned = baseline.n, baseline.wrong
        self._wanted = max(learn - baseline.n, 0)
        if not self._wanted:
            self._watch(baseline.n, baseline.wrong)

    # -- watching ----------------------------------------------------------------------------------------------------

    def _watch(self, n: int, wrong: int) -> None:
        """Start from 0 with a p0 of ``wrong`` errors in ``n`` events."""
        self._past = n, wrong
        self._scores = np.zeros((len(self._odds_ratios), 1), np.int64)
        # Per alternative, events and errors since it was last at 0.
        self._since = [(0, 0)] * len(self._odds_ratios)
        self._block = 0, 0
        self._calibrate()

    def _calibrate(self) -> None:
        self._calibrated_n = self._known[0]
        rate = Rate.of(*self._known, self._design_effect)
        steps = log_likelihood_steps(rate.above(_CAUTION), self._odds_ratios)
        limits = thresholds(steps, rate, self._false_alarms, self._design_effect)
        up, down = (np.rint(step * UNITS).astype(np.int64)[:, None] for step in steps)
        # The statistic falls by the slope at each event and jumps at an error, from where the next one is an alarm.
        self._slope, self._jump = down, up + down
        self._reach = np.maximum(np.ceil(limits * UNITS).astype(np.int64)[:, None] - up, 0)

    def observe(self, wrong: Bits) -> list[Detection]:
        """Take the next events; see `app.core.detectors.Detector`."""
        found: list[Detection] = []
        start = 0
        while start < len(wrong):
            if self._wanted:
                stop = min(start + self._wanted, len(wrong))
                self._take_in(wrong[start:stop])
            else:
                stop = min(start + self._pause - self._block[0] % self._pause, len(wrong))
                stop, detection = self._step(wrong[start:stop], start)
                if detection is not None:
                    found.append(detection)
            start = stop
        return found

    def _take_in(self, wrong: Bits) -> None:
        n, errors = self._learned
        self._learned = n + len(wrong), errors + int(np.count_nonzero(wrong))
        self._wanted -= len(wrong)
        self._seen += len(wrong)
        if not self._wanted:
            self._watch(*self._learned)

    def _step(self, wrong: Bits, start: int) -> tuple[int, Detection | None]:
        """Watch the next events, up to the next pause at most; where to go on, and what was noticed."""
        n = len(wrong)
        (found,) = wrong.view(np.bool_).nonzero()
        errors = len(found)
        places = np.empty(errors + 1, np.int64)
        places[:errors], places[errors] = found, n
        # What the statistics would be if they could go below 0, less what they are now: before each error, and at the
        # end. In between they only fall, so that their lowest and highest values are here and one step further.
        path = self._jump * np.arange(errors + 1)
        path -= self._slope * places
        lowest = np.minimum.accumulate(path, axis=1)
        np.minimum(lowest, -self._scores, out=lowest)
        height = path - lowest
        highest = np.maximum.reduce(height[:, :-1], axis=1, initial=-1)
        if (highest >= self._reach[:, 0]).any():
            return self._alarm(places, path, height, start)
        self._note_zeros(places, path, height)
        self._scores = height[:, -1:]
        self._seen += n
        self._past = self._past[0] + n, self._past[1] + errors
        self._block = self._block[0] + n, self._block[1] + errors
        return start + n, None if self._block[0] % self._pause else self._reconsider()

    def _note_zeros(self, places: Ints, path: Ints, height: Ints) -> None:
        """Note when each alternative was last at 0, from where it is at each of the ``places``."""
        n, last = int(places[-1]), len(places) - 1
        back = path[:, ::-1].argmin(axis=1).tolist()
        for row, (each, since) in enumerate(zip(back, self._since, strict=True)):
            at = last - each
            is_new = not height[row, at]
            self._since[row] = (n - int(places[at]), each) if is_new else (since[0] + n, since[1] + last)

    def _alarm(self, places: Ints, path: Ints, height: Ints, start: int) -> tuple[int, Detection]:
        is_over = height >= self._reach
        at = int(is_over[:, :-1].any(axis=0).argmax())
        which = int(is_over[:, at].argmax())
        n = int(places[at]) + 1
        self._note_zeros(places[: at + 1], path[:, : at + 1], height)
        n_since, wrong_since = (count + 1 for count in self._since[which])
        n_before, wrong_before = self._past[0] + n - n_since, self._past[1] + at + 1 - wrong_since
        self._seen += n
        self._learned, self._wanted = (0, 0), self._learn
        return start + n, Detection(
            position=self._seen - 1,
            change=self._seen - n_since,
            n_since=n_since,
            wrong_since=wrong_since,
            n_before=n_before,
            rate_before=wrong_before / n_before,
            statistic=int(height[which, at] + self._jump[which, 0] - self._slope[which, 0]) / UNITS,
            threshold=int(self._reach[which, 0] + self._jump[which, 0] - self._slope[which, 0]) / UNITS,
        )

    def _reconsider(self) -> Detection | None:
        """Follow a fall, or take over what has been learned of p0."""
        fall = self._find_fall() if self._block[0] >= self._learn else None
        if fall is None and self._known[0] >= _GROWTH * self._calibrated_n:
            self._calibrate()
        return fall

    def _find_fall(self) -> Detection | None:
        n, wrong = self._block
        n_before, wrong_before = self._past[0] - n, self._past[1] - wrong
        p = self._past[1] / self._past[0]
        deviation = math.sqrt(p * (1 - p) * (1 / n + 1 / n_before) * self._design_effect)
        fall = wrong_before / n_before - wrong / n
        self._block = 0, 0
        if fall > _FALL * deviation:
            self._watch(n, wrong)
            return Detection(
                position=self._seen - 1,
                change=self._seen - n,
                n_since=n,
                wrong_since=wrong,
                n_before=n_before,
                rate_before=wrong_before / n_before,
                statistic=fall / deviation,
                threshold=_FALL,
                rose=False,
            )
        return None

    @property
    def _known(self) -> tuple[int, int]:
        """Events and errors that p0 rests on."""
        return self._past[0] - self._since[0][0], self._past[1] - self._since[0][1]

    # -- state -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as integers."""
        state: dict[str, Any] = {"seen": self._seen, "learned": [*self._learned], "wanted": self._wanted}
        if not self._wanted:
            state |= {"past": [*self._past], "block": [*self._block], "calibrated_n": self._calibrated_n}
            state["since"] = [[*since] for since in self._since]
            state |= {name: getattr(self, f"_{name}").ravel().tolist() for name in _ARRAYS}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self._seen, self._wanted = state["seen"], state["wanted"]
        self._learned = tuple(state["learned"])
        if not self._wanted:
            self._past, self._block = tuple(state["past"]), tuple(state["block"])
            self._calibrated_n = state["calibrated_n"]
            self._since = [(n, wrong) for n, wrong in state["since"]]
            for name in _ARRAYS:
                setattr(self, f"_{name}", np.array(state[name], np.int64)[:, None])
