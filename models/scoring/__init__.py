"""From matrix to score: estimators of every family behind one `Scorer`, folded into arrays where that is possible.

May not know where an estimator comes from, nor of versions.
"""
