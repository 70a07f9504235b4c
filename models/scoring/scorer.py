"""From a fitted estimator to a `Scorer`: what the stream, the batch command and a replay call.

A score is a function of its own row alone: however rows are cut into batches, each gets the same bits. A replay with
other batch sizes is then the same run. `make_scorer` picks the fastest form that has this property:

- `FoldedLogistic`: imputer, scaler, one-hot and coefficients of a logistic pipeline folded into plain numpy, summed
  along each row (a matrix product would let BLAS choose its kernel, and with it the order of the sum, by the size of
  the batch).
- `DirectTrees`: the trees of a HistGradientBoostingClassifier called one by one, without the validation that costs
  more than the trees on small batches.
- `Probabilities`: any other classifier's ``predict_proba``, in chunks of at most 4 096 rows.

Threads: a stream worker scales by processes, so BLAS and OpenMP get one thread each. The process that scores says so
once, for all its libraries, with ``OMP_NUM_THREADS=1`` and ``OPENBLAS_NUM_THREADS=1`` in its environment before numpy
is imported. ``threadpoolctl.threadpool_limits(1)`` does the same later on, but libgomp keeps that limit per thread: a
thread pool that scores must call it in each of its threads. `DirectTrees` passes its own limit of one thread and needs
neither.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from models.scoring.categories import Vocabularies
from models.scoring.folding import CannotFoldError, Fold, fold

Floats = NDArray[np.float64]

#: Bounds the memory of estimators that build an intermediate matrix.
CHUNK_ROWS = 4096
#: By how much a folded or direct form may differ from ``predict_proba``, on probe rows, before it is set aside.
FOLD_TOLERANCE = 1e-12
#: A contribution is clipped here when a row's sum overflows, so that the score stays a number.
LARGEST_CONTRIBUTION = 1e300


class Scorer(Protocol):
    """Turns a feature matrix into scores.

    A caller may not assume that it is thread safe, nor that ±infinity is anything but missing.
    """

    @property
    def name(self) -> str:
        """How it computes: "folded", "trees" or "probabilities"."""
        ...

    def score(self, matrix: Floats) -> Floats:
        """Score each row, [n x features] to [n]: the probability of the positive class, in [0, 1]; n may be 0."""
        ...


class FoldedLogistic:
    """A logistic pipeline as one sum per row: sum of (value - centre) * weight, plus one table entry per category."""

    name = "folded"

    def __init__(self, folded: Fold) -> None:
        self._fold = folded
        self._n_numbers = len(folded.numbers)
        self._n_columns = self._n_numbers + len(folded.categories)
        self._all_numbers = not len(folded.categories) and bool(
            np.array_equal(folded.numbers, np.arange(folded.n_features))
        )

    def score(self, matrix: Floats) -> Floats:
        # An absurd value may overflow; it is dealt with below.
        with np.errstate(over="ignore", invalid="ignore"):
            contributions = self._weigh(matrix)
            # Along the contiguous axis numpy adds each row by itself, in an order that depends on its length alone.
            logits = contributions.sum(axis=1) + self._fold.intercept
        if not np.isfinite(logits).all():
            wild = ~np.isfinite(logits)
            clipped = np.clip(contributions[wild], -LARGEST_CONTRIBUTION, LARGEST_CONTRIBUTION)
            logits[wild] = clipped.sum(axis=1) + self._fold.intercept
        scores: Floats = expit(logits)
        return scores

    def _weigh(self, matrix: Floats) -> Floats:
        """Return what each column of numbers, then each category, adds to the logit of each row."""
        folded = self._fold
        contributions = np.empty((len(matrix), self._n_columns))
        if self._n_numbers:
            values = matrix if self._all_numbers else matrix[:, folded.numbers]
            present = np.isfinite(values)
            filled = values if present.all() else np.where(present, values, folded.fills)
            numbers = contributions[:, : self._n_numbers]
            np.subtract(filled, folded.centres, out=numbers)
            np.multiply(numbers, folded.weights, out=numbers)
        if len(folded.categories):
            codes = matrix[:, folded.categories]
            known = (codes >= 0) & (codes < folded.sizes) & (codes == np.floor(codes))
            entries = np.where(known, codes + folded.starts, 0.0).astype(np.intp)
            contributions[:, self._n_numbers :] = folded.table[entries]
        return contributions


class DirectTrees:
    """The trees of a fitted binary HistGradientBoostingClassifier, summed in their order.

    Uses attributes that scikit-learn keeps private; `make_scorer` checks the result against ``predict_proba`` and does
    without this class when they are missing or mean something else. A manifest binds a version to scikit-learn's
    major.minor.
    """

    name = "trees"

    def __init__(self, model: HistGradientBoostingClassifier) -> None:
        if model.n_trees_per_iteration_ != 1:
            raise CannotFoldError("more than two classes")
        self._trees = [tree for (tree,) in model._predictors]  # noqa: SLF001  # see the class's docstring
        self._known, self._positions = model._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001
        self._baseline = float(np.ravel(model._baseline_prediction)[0])  # noqa: SLF001
        self._order: NDArray[np.intp] | None = None
        self._categories: list[Floats] = []
        if model.is_categorical_ is not None:
            mask = np.asarray(model.is_categorical_, dtype=bool)
            encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
            # The library moves categories to the front and codes each by its position among those seen in training.
            self._order = np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])
            self._categories = [np.asarray(seen, dtype=np.float64) for seen in encoder.categories_]  # NaN may be last

    def score(self, matrix: Floats) -> Floats:
        finite = np.isfinite(matrix)
        values = matrix if finite.all() else np.where(finite, matrix, np.nan)
        if self._order is None:
            encoded = np.ascontiguousarray(values)
        else:
            encoded = values[:, self._order]
            for position, seen in enumerate(self._categories):
                encoded[:, position] = _position_among(seen, encoded[:, position])
        raw = np.full(len(encoded), self._baseline)
        for tree in self._trees:
            raw += tree.predict(encoded, self._known, self._positions, 1)
        scores: Floats = expit(raw)
        return scores


class Probabilities:
    """``predict_proba`` of any fitted binary classifier, in bounded chunks; infinities go in as missing."""

    name = "probabilities"

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        classes = [float(label) for label in estimator.classes_]
        if classes != [0.0, 1.0]:
            raise ValueError(f"The model's classes are {classes}; a scorer needs the two classes 0 and 1.")

    def score(self, matrix: Floats) -> Floats:
        scores = np.empty(len(matrix))
        for start in range(0, len(matrix), CHUNK_ROWS):
            rows = matrix[start : start + CHUNK_ROWS]
            rows = np.where(np.isfinite(rows), rows, np.nan)
            scores[start : start + len(rows)] = self._estimator.predict_proba(rows)[:, 1]
        return scores


class UnseenAsMissing:
    """Another scorer, to which a category that is in no vocabulary is missing."""

    def __init__(self, scorer: Scorer, vocabularies: Vocabularies) -> None:
        self._scorer = scorer
        self._vocabularies = vocabularies

    @property
    def name(self) -> str:
        return self._scorer.name

    def score(self, matrix: Floats) -> Floats:
        return self._scorer.score(self._vocabularies.unseen_as_missing(matrix))


def make_scorer(estimator: Any, vocabularies: Vocabularies | None = None) -> Scorer:
    """Build the fastest scorer of a fitted binary classifier (classes 0 and 1).

    A logistic pipeline is folded and boosted trees are called directly where the result agrees with ``predict_proba``
    to 1e-12 on probe rows; every other estimator is asked for ``predict_proba``. None of them is asked about a value
    that is not in the vocabulary of its category: it scores as a missing one does.
    """
    scorer = _choose(estimator)
    return UnseenAsMissing(scorer, vocabularies) if vocabularies else scorer


def _choose(estimator: Any) -> Scorer:
    plain = Probabilities(estimator)
    try:
        fast = _make_fast(estimator)
        probe = _probe_rows(int(estimator.n_features_in_))
        agrees = np.allclose(fast.score(probe), plain.score(probe), rtol=0.0, atol=FOLD_TOLERANCE)
    except (CannotFoldError, AttributeError, KeyError, TypeError, ValueError):
        # A private attribute that moved, or a pipeline that cannot take a probe: the public way still works.
        return plain
    return fast if agrees else plain


def _make_fast(estimator: Any) -> Scorer:
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if isinstance(last, LogisticRegression):
        return FoldedLogistic(fold(estimator))
    alone = not isinstance(estimator, Pipeline) or len(estimator.steps) == 1
    if isinstance(last, HistGradientBoostingClassifier) and alone:
        return DirectTrees(last)
    raise CannotFoldError("a kind of model without a faster form")


def _position_among(seen: Floats, values: Floats) -> Floats:
    """Give the position of each value in the ascending ``seen``; NaN for what is not in it."""
    if not len(seen):
        return np.full(len(values), np.nan)
    at = np.minimum(np.searchsorted(seen, values), len(seen) - 1)
    return np.where(seen[at] == values, at.astype(np.float64), np.nan)


def _probe_rows(n_features: int) -> Floats:
    """Return rows of whole and fractional, negative and large values; none missing, as not every model takes that."""
    same = np.repeat(np.arange(-1.0, 400.0)[:, None], n_features, axis=1)
    each_its_own = same + np.arange(n_features)
    return np.vstack([same, each_its_own, each_its_own * 0.37])
