"""Which features explain that the scores have moved: what each one's own change would have done to the mean score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Floats, Ints

#: The name of what single features leave unexplained.
JOINT = "joint"


class Share(NamedTuple):
    """``shift``: change of the mean score that goes with a feature's; ``share`` of the explanation, in [0, 1]."""

    metric: str
    shift: float
    share: float


def attribute(  # noqa: PLR0917  # before and now, side by side
    names: Sequence[str],
    training: Ints,
    window: Ints,
    profiles: Floats,
    mean_before: float,
    mean_now: float,
) -> tuple[Share, ...]:
    """Split the change of the mean score over features by what their marginals say.

    Of feature j: shift_j = sum over cells c of (q_c - p_c) (profile_c - mean_before), where p and q are the shares of
    events per cell ("missing" is one) and profile_c is training's mean score of the events in c; a cell without any
    counts as the overall mean. It is the change of the mean score if j's distribution had moved and all else had
    followed j as in training.

    The shares are |shift_j| over the sum of all |shift| and, last, `JOINT`: what of the change is left when the shifts
    do not add up to it in its own direction. They add up to 1, or are all 0 when nothing moved.

    What it cannot see: the effect of several features moving together other than in training (an interaction, a new
    correlation; `JOINT` is its size, net of what cancels); which of two features that move together is the cause (both
    get the shift, and their shares are each about half); values where training had none (a new category, beyond the
    range); and it knows associations with the score, not the model's own use of a feature.

    Parameters
    ----------
    names
        Of the features.
    training, window
        Features x cells, "missing" included.
    profiles
        Features x cells; NaN for an empty one.
    mean_before, mean_now
        Mean score in training and in the window.

    Returns
    -------
    The largest share first; without drift all shifts are near 0 and the shares mean nothing.

    Examples
    --------
    Scores are 0.2 in the first cell and 0.6 in the second; half of the events have moved there:

    >>> profiles = np.array([[0.2, 0.6, np.nan]])
    >>> shares = attribute(["x"], np.array([[8, 2, 0]]), np.array([[3, 7, 0]]), profiles, 0.28, 0.48)
    >>> [(share.metric, round(share.shift, 6), round(share.share, 6)) for share in shares]
    [('x', 0.2, 1.0), ('joint', 0.0, 0.0)]

    References
    ----------
    R. Oaxaca, "Male-female wage differentials in urban labor markets", Int. Econ. Rev. 14, 1973: the "explained"
    part of a difference of means, feature by feature.
    """
    n_then, n_now = training.sum(axis=1), window.sum(axis=1)
    with np.errstate(invalid="ignore"):
        apart = window / n_now[:, None] - training / n_then[:, None]
    around = np.where(np.isnan(profiles), 0.0, profiles - mean_before)
    is_known = (n_then > 0) & (n_now > 0)
    shifts = [float(apart[row] @ around[row]) if known else 0.0 for row, known in enumerate(is_known.tolist())]
    change = mean_now - mean_before
    if not math.isfinite(change):
        return ()
    left = change - sum(shifts)
    joint = left if left * change > 0 else 0.0
    total = sum(map(abs, shifts)) + abs(joint)
    moved = [*zip(names, shifts, strict=True), (JOINT, joint)]
    shares = [Share(name, shift, abs(shift) / total if total else 0.0) for name, shift in moved]
    return tuple(sorted(shares, key=lambda share: -share.share))
