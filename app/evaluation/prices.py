"""Prices of used cars: the error of a regressor, estimated without its labels, beside what came true.

The data come with the predictions. In the second half of the stream other cars are sold, of which the model is less
wrong; nothing else changes, so that a loss estimated directly can know it.
"""

from __future__ import annotations

import numpy as np

from app.evaluation.datasets import Predicted, read_car_prices
from app.evaluation.direct_loss import estimate_loss
from app.evaluation.loss_cells import LossCells
from app.evaluation.run import EvaluationRun
from models.reference.reference import Floats

WINDOW = 5_000
_TABLE = f"Used cars: loss of windows of {WINDOW}, estimated without labels: off by, % of the reference's loss"
_LOSSES = {"absolute": np.abs, "squared": np.square}


def measure_prices(run: EvaluationRun) -> None:
    """How far estimated losses are from realised ones, and how often their band holds those."""
    run.say("prices: used cars, windows of 5 000")
    judge_losses(run, *read_car_prices(run.cache, run.say))


def judge_losses(run: EvaluationRun, then: Predicted, now: Predicted) -> None:
    """The same of any regressor: its reference, and its stream."""
    for name, loss in _LOSSES.items():
        before, after = np.asarray(loss(then.errors)), np.asarray(loss(now.errors))
        cells = LossCells.fit(then.matrix, then.predictions, before)
        usual = float(before.mean())
        losses = []
        for start in range(0, len(after), WINDOW):
            rows = slice(start, start + WINDOW)
            window = cells.count(now.matrix[rows], now.predictions[rows])
            estimate = estimate_loss(cells.loss_sums, cells.loss_squares, cells.counts, window)
            losses.append((float(after[rows].mean()), estimate.estimated, estimate.low, estimate.high))
        realised, estimated, low, high = np.array(losses).T
        previous = realised[:-1]
        for row, errors in (
            ("streamgauge", estimated - realised),
            ("as in the reference", usual - realised),
            ("as realised in the window before", previous - realised[1:]),
        ):
            figure = f"prices.{name}{'' if row == 'streamgauge' else '.' + row.replace(' ', '-')}"
            run.figures.add_cell(figure, _share(errors, usual), "%", (_TABLE, row, f"{name} error"))
        within = 100 * float(((low <= realised) & (realised <= high)).mean())
        run.figures.add(
            f"prices.{name}.within", within, "%", f"Used cars: windows whose {name} error is in its 95 % band"
        )


def _share(errors: Floats, usual: float) -> float:
    return 100 * float(np.abs(errors).mean()) / usual
