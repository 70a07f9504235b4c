"""A Bernoulli CUSUM of errors whose false alarms are as rare as the budget says, although p0 is an estimate.

Several alternatives run side by side, each a rise of the odds of an error by a factor, and share the budget:
S_t = max(0, S_{t-1} + up) at an error, max(0, S_{t-1} - down) at a right decision, alarm at S_t >= h. Steps and
thresholds are integers in units of 2**-20 nats, so that any cut of the batches gives the recursion exactly.

The rate before the change
--------------------------
A p0 of 2 000 events has a deviation of .009, which would ruin the false alarms of a CUSUM that takes it for the truth.
So each threshold is where the *rate* of false alarms, averaged over what p0 may be, is that share of the budget
(`app.core.errors.run_length`), the steps are those of a p0 half a deviation above the estimate, and p0 goes on being
learned. What counts for it is only what came before the smallest alternative was last at 0, its estimate of where a
change would have begun: a change under way is not swallowed, nor is a slow one (the mean of all the past lags behind
it). When p0 rests on a seventh more events than before, steps and thresholds are made anew.

After an alarm, p0 is learned anew from the next ``learn`` events, in which there is no alarm: the same change is
reported once, a further rise again. Falls are followed, not alarmed: somebody on call need not get up for them. But
the rate to compare with is then the new one, or a return to the old would go unseen: when ``learn`` events in a row
are 4.5 deviations below p0, p0 is learned anew from them.

By the hour
-----------
Where errors are more frequent at some hours of the week, p0 has log odds of its own at each: those of training
(`models.reference.error_hours`), and one level, which is what is learned. All counts are by hour, so that 2 000 events
of a night are compared with nights. An alternative is the same factor of the odds at each hour. So an error adds the
logarithm of that factor at any hour, and what every event takes away is more at night than by day. Hours of the same
log odds are one *kind* of events, and without hours all are of one kind.

Measured
--------
By `app.evaluation.frontier`, p0 = .2 from a reference of 2 000 events, changing after 10 000: declared 1.2 M events
between false alarms, the mean delay to .3 is 333 and to .25 it is 1 152 (2 500 runs); river's ADWIN with one alarm in
40 M events needs 444 and 1 685, and with 656 000 between alarms 329 and 1 165. Three alternatives (1.3, 1.5, 2) took
344 and 1 221 at 1.06 M; learning at a quarter more events only 343 and 1 222 at 1.25 M.

By the hour, with a wave of the log odds over the day and what 7 or 20 days of 2 000 or 10 000 events show of it:
declared 50 000 to 1.2 M events, there were 0.5 to 0.96 times as many false alarms as declared (rates .001 to .3, the
highest of the day up to ten times the lowest; without a wave 0.7 to 0.95). With shapes that are not waves (opening
hours, two hours of the night, few events at night, weekends seen for six weeks) 0.55 to 0.95; where the wave's height
differs from day to day, or errors come in bursts beside it, 1.3. A factor of 1.5 of the odds, from midnight on, is
noticed after 418 events instead of 524 (rate .2, ten times) and 940 instead of 1 386 (rate .05): at night errors say
more. An event costs 0.03 microseconds, by the hour 0.045.

The alternatives alarm together at times, so that all may have `_SHARED` times their share. Declared 50 000, measured
for rates .02, .2, .4 and references of 500 to 20 000: 56 000 to 58 000, 51 000 to 52 000, 63 000 to 64 000.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from app.core.errors.detectors import Detection, TrainingErrors
from app.core.errors.kinds import Kinds, Tally
from app.core.errors.run_length import Rate, log_likelihood_steps, thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Ints
    from app.core.errors.detectors import Bits

#: Units of a nat.
UNITS = 2**20
ODDS_RATIOS = (1.33, 1.7)
LEARN = 2_000

_SHARED = 1.2
_CAUTION = 0.5  # deviations
_FALL = 4.5  # deviations: 3e-6 by chance
_GROWTH = 1.15
_STEPS = ("slope", "jump", "reach")


class Cusum:
    """A `app.core.errors.detectors.Detector` of rises of the error rate.

    Parameters
    ----------
    training
        p0 in training, and the average number of events between false alarms. With fewer than ``learn`` events of
        training, the first of the stream are added to them.
    odds_ratios
        The alternatives, ascending: p1 / (1 - p1) is this many times p0 / (1 - p0).
    learn
        The fewest events that p0 rests on.

    Examples
    --------
    One decision in five was wrong; then two of five are.

    >>> stream = np.tile(np.array([1, 0, 1, 0, 0], np.uint8), 100)
    >>> (detection,) = Cusum(TrainingErrors(10_000, 2_000, arl_events=100_000)).observe(stream)
    >>> detection.change, detection.rate_before, round(detection.rate_since, 1)
    (0, 0.2, 0.4)

    References
    ----------
    E. Page, "Continuous inspection schemes", Biometrika 41, 1954.
    D. Hawkins, "Self-starting CUSUM charts for location and scale", The Statistician 36, 1987.
    """

    def __init__(
        self, training: TrainingErrors, *, odds_ratios: Sequence[float] = ODDS_RATIOS, learn: int = LEARN
    ) -> None:
        self._odds_ratios = np.array(odds_ratios)
        self._design_effect = training.design_effect
        self._false_alarms = np.full(len(odds_ratios), _SHARED / len(odds_ratios) / training.arl_events)
        self._learn = learn
        self._pause = max(learn // 2, 1)
        self._seen = 0
        self._kinds = Kinds(training)
        #: The rates of training, where they differ by the hour.
        self._rates = self._kinds.rates(self._kinds.training) if self._kinds.are_by_hour else None
        # What p0 is learned from, and how many are still wanted before watching begins.
        self._learned = self._kinds.training
        self._wanted = max(learn - training.n, 0)
        if not self._wanted:
            self._watch(self._learned)

    # -- watching ----------------------------------------------------------------------------------------------------

    def _watch(self, known: Tally) -> None:
        """Start from 0 with what is ``known`` of p0."""
        self._past = known
        self._scores = np.zeros((len(self._odds_ratios), 1), np.int64)
        # Per alternative, what has come since it was last at 0.
        self._since = [self._kinds.nothing()] * len(self._odds_ratios)
        self._block = self._kinds.nothing()
        self._calibrate()

    def _calibrate(self) -> None:
        """Make steps and thresholds of what p0 rests on."""
        kinds, known = self._kinds, self._past - self._since[0]
        rate = Rate.of_kinds(known.events, known.wrong, kinds.log_odds, self._design_effect)
        p0 = expit(logit(rate.above(_CAUTION)) + kinds.log_odds)
        steps = log_likelihood_steps(p0, self._odds_ratios[:, None])
        limits = thresholds(
            steps, rate, self._false_alarms, self._design_effect, log_odds=kinds.log_odds, shares=kinds.shares
        )
        slope = np.rint(steps.down * UNITS).astype(np.int64)
        jump = np.rint(np.log(self._odds_ratios) * UNITS).astype(np.int64)[:, None]
        reach = np.maximum(np.ceil(limits * UNITS).astype(np.int64)[:, None] - (jump - slope), 0)
        self._walk = _Walk(known.n, slope, jump, reach)

    def observe(self, wrong: Bits, hours: Bits | None = None) -> list[Detection]:
        """Take the next events; see `app.core.errors.detectors.Detector`."""
        kinds = self._kinds.of(hours)
        detections: list[Detection] = []
        start = 0
        while start < len(wrong):
            if self._wanted:
                stop = min(start + self._wanted, len(wrong))
                rows = slice(start, stop)
                self._take_in(wrong[rows], None if kinds is None else kinds[rows])
            else:
                stop = min(start + self._pause - self._block.n % self._pause, len(wrong))
                rows = slice(start, stop)
                stop, detection = self._step(wrong[rows], None if kinds is None else kinds[rows], start)
                if detection is not None:
                    detections.append(detection)
            start = stop
        return detections

    def _take_in(self, wrong: Bits, kinds: Ints | None) -> None:
        """Learn p0 from the next events."""
        self._learned += self._kinds.count(int(np.count_nonzero(wrong)), kinds, 0, len(wrong))
        self._wanted -= len(wrong)
        self._seen += len(wrong)
        if not self._wanted:
            self._watch(self._learned)

    def _step(self, wrong: Bits, kinds: Ints | None, start: int) -> tuple[int, Detection | None]:
        """Watch the next events, up to the next pause at most; return where to go on, and what was noticed."""
        _, slope, jump, reach = self._walk
        n = len(wrong)
        (errors,) = wrong.view(np.bool_).nonzero()
        n_errors = len(errors)
        places = np.empty(n_errors + 1, np.int64)
        places[:n_errors], places[n_errors] = errors, n
        # What the statistics would be if they could go below 0, less what they are now: before each error, and at the
        # end. In between they only fall, so that their lowest and highest values are here and one step further.
        path = jump * np.arange(n_errors + 1)
        if kinds is None:
            path -= slope * places
        else:
            fallen = np.zeros((len(path), n + 1), np.int64)
            slope.take(kinds, axis=1).cumsum(axis=1, out=fallen[:, 1:])
            path -= fallen.take(places, axis=1)
            reach = reach.take(kinds.take(errors), axis=1)
        lowest = np.minimum.accumulate(path, axis=1)
        np.minimum(lowest, -self._scores, out=lowest)
        height = path - lowest
        highest = np.maximum.reduce(height[:, :-1] - reach, axis=1, initial=-1)
        if (highest >= 0).any():
            is_over = height[:, :-1] >= reach
            error = int(is_over.any(axis=0).argmax())
            which = int(is_over[:, error].argmax())
            before = self._note_zeros(places[: error + 1], path[:, : error + 1], height[:, : error + 1], kinds)
            return start + before.n + 1, self._alarm(which, before, kinds, int(height[which, error]))
        whole = self._note_zeros(places, path, height, kinds)
        self._scores = height[:, -1:]
        self._seen += n
        self._past += whole
        self._block += whole
        return start + n, None if self._block.n % self._pause else self._reconsider()

    def _note_zeros(self, places: Ints, path: Ints, height: Ints, kinds: Ints | None) -> Tally:
        """Note when each alternative was last at 0, from where it is at each of the ``places``; count to the last."""
        n, last = int(places[-1]), len(places) - 1
        whole = self._kinds.count(last, kinds, 0, n)
        errors_since = path[:, ::-1].argmin(axis=1).tolist()
        for row, (n_errors, since) in enumerate(zip(errors_since, self._since, strict=True)):
            place = last - n_errors
            is_new = not height[row, place]
            self._since[row] = self._kinds.count(n_errors, kinds, int(places[place]), n) if is_new else since + whole
        return whole

    def _alarm(self, which: int, before: Tally, kinds: Ints | None, height: int) -> Detection:
        """Report the rise that an error shows, and learn p0 anew.

        Parameters
        ----------
        which
            The alternative that alarms.
        before
            The events before the error.
        kinds
            Of the events.
        height
            Of the statistic before the error.
        """
        error = self._kinds.count(1, kinds, before.n, before.n + 1)
        since = self._since[which] + error
        past = self._past + before + error - since
        self._seen += before.n + 1
        self._learned, self._wanted = self._kinds.nothing(), self._learn
        kind = 0 if kinds is None else int(kinds[before.n])
        _, slope, jump, reach = self._walk
        up = int(jump[which, 0] - slope[which, kind])
        return Detection(
            position=self._seen - 1,
            change=self._seen - since.n,
            n_since=since.n,
            wrong_since=since.wrong,
            n_before=past.n,
            rate_before=self._kinds.expect(past, since),
            statistic=(height + up) / UNITS,
            threshold=(int(reach[which, kind]) + up) / UNITS,
        )

    def _reconsider(self) -> Detection | None:
        """Follow a fall, or take over what has been learned of p0."""
        fall = self._find_fall() if self._block.n >= self._learn else None
        if fall is None and self._past.n - self._since[0].n >= _GROWTH * self._walk.calibrated_n:
            self._calibrate()
        return fall

    def _find_fall(self) -> Detection | None:
        block, before = self._block, self._past - self._block
        self._block = self._kinds.nothing()
        if self._rates is not None:
            # Nearly always the errors are far from a fall. The rates of training, times one factor, show that fast.
            factor = before.wrong / float(before.events @ self._rates)
            expected, variance = (
                float(block.events @ of_kinds) for of_kinds in (self._rates, self._rates * (1 - self._rates))
            )
            if factor * expected - block.wrong < _FALL / 2 * math.sqrt(min(factor, 1.0) * variance):
                return None
        rates = self._kinds.rates(self._past)
        here, there = (float(tally.events @ (rates * (1 - rates))) for tally in (block, before))
        deviation = math.sqrt(here * (1 + here / there) * self._design_effect) / block.n if there else 0.0
        rate_before = self._kinds.expect(before, block)
        fall = rate_before - block.wrong / block.n
        if fall > _FALL * deviation:
            self._watch(block)
            return Detection(
                position=self._seen - 1,
                change=self._seen - block.n,
                n_since=block.n,
                wrong_since=block.wrong,
                n_before=before.n,
                rate_before=rate_before,
                statistic=fall / deviation,
                threshold=_FALL,
                rose=False,
            )
        return None

    # -- state -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as integers."""
        state: dict[str, Any] = {"seen": self._seen, "learned": self._learned.to_state(), "wanted": self._wanted}
        if not self._wanted:
            state |= {"past": self._past.to_state(), "block": self._block.to_state()}
            state |= {"calibrated_n": self._walk.calibrated_n, "since": [since.to_state() for since in self._since]}
            arrays = {"scores": self._scores} | {name: getattr(self._walk, name) for name in _STEPS}
            state |= {name: array.ravel().tolist() for name, array in arrays.items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self._seen, self._wanted = state["seen"], state["wanted"]
        self._learned = Tally.from_state(state["learned"])
        if not self._wanted:
            self._past, self._block = Tally.from_state(state["past"]), Tally.from_state(state["block"])
            self._since = [Tally.from_state(since) for since in state["since"]]
            self._scores, *steps = (
                np.array(state[name], np.int64).reshape(len(self._odds_ratios), -1) for name in ("scores", *_STEPS)
            )
            self._walk = _Walk(state["calibrated_n"], *steps)


class _Walk(NamedTuple):
    """How the statistics move, in units: alternatives x kinds.

    A statistic falls by the slope at each event, and jumps at an error; from its reach on, that is an alarm.
    ``calibrated_n``: of how many events all of it was made.
    """

    calibrated_n: int
    slope: Ints
    jump: Ints
    reach: Ints
