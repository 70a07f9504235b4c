"""How good a version is on the newest rows, which it has not seen, compared with a model that knows nothing.

Such a model gives every event the rate of positives of the rows that were fitted on. Where positives are rare, its log
loss and accuracy are good already. And scores may order events well without being probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.core.labels.held import say_share
from app.core.performance.measures import auc, auc_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Ints
    from models.hold_out import HoldOut
    from models.versions.manifest import Metrics

_CHANCE = 0.5
#: A log loss this much larger than another is called worse, and not only no better.
_WORSE = 1.05


def describe_hold_out(judged: HoldOut, metrics: Metrics) -> str:
    """The measures, each beside that of a model that knows nothing."""
    positives, n = int(judged.labels.sum()), len(judged.labels)
    low, high = auc_range(_outcomes(judged))
    area = "unknown (one class)" if metrics.auc is None else f"{metrics.auc:.4f} ({low:.2f} to {high:.2f})"
    return (
        f"On the newest {n:,} (unseen, {positives:,} positive): AUC {area}, log loss {metrics.log_loss:.4f}"
        f" ({judged.constant_log_loss:.4f} if all had the training's rate), accuracy {metrics.accuracy:.4f}"
        f" ({1 - positives / n:.4f} if none were decided positive)."
    )


def say_of_hold_out(judged: HoldOut, families: Sequence[str]) -> str:
    """Say of a version that it may know nothing, or that its scores are no probabilities; of a good one, nothing.

    Parameters
    ----------
    families
        The other kinds of models that could be trained.
    """
    positives, n = int(judged.labels.sum()), len(judged.labels)
    if positives in {0, n}:
        return (
            f"None of the newest {n:,} labelled events, which judge this version, is"
            f" {'negative' if positives else 'positive'}: nothing says how well it orders events; train on a longer"
            " range."
        )
    outcomes = _outcomes(judged)
    area, (low, high) = auc(outcomes), auc_range(outcomes)
    if high < _CHANCE:
        return (
            f"Its scores order the newest events the wrong way round: the AUC is {area:.2f}, surely below 0.5. What was"
            " learnt from earlier events does not hold for these: find out what has changed, or train on newer events"
            " alone."
        )
    is_better = judged.log_loss < judged.constant_log_loss
    much = "worse" if judged.log_loss > _WORSE * judged.constant_log_loss else "no better"
    loss = (
        f"log loss of {judged.log_loss:.4f} is {much} than the {judged.constant_log_loss:.4f} of giving every event the"
        f" training's rate of positives ({say_share(judged.rate)})"
    )
    if low <= _CHANCE:
        others = "".join(f" (--family {name})" for name in families)
        return (
            f"Nobody can say yet that this version knows anything: on the newest {n:,} labelled events, {positives:,}"
            f" of them positive, its AUC is {area:.2f} and may be anything from {low:.2f} to {high:.2f}, where 0.5 is"
            f" chance{'' if is_better else f', and its {loss}'}. Do not promote it: train on a longer time with"
            f" more positives, or try another family{others}, or features that tell more."
        )
    if not is_better:
        return (
            f"Its scores order events well (AUC {area:.2f}, surely above 0.5), but they are no probabilities: their"
            f" {loss}. Use them for their order, with a model.threshold chosen from them; or calibrate the model, or"
            " train on a longer time with more positives."
        )
    return ""


def _outcomes(judged: HoldOut) -> Ints:
    """Counts, label x distinct score."""
    _, places = np.unique(judged.scores, return_inverse=True)
    width = int(places.max(initial=-1)) + 1
    return np.stack([np.bincount(places[judged.labels == label], minlength=width) for label in (0, 1)])
