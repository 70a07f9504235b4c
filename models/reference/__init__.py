"""What a version's training looked like, as counts in cells, and how its events depend on each other.

In come the matrix, scores and labels of a training (`fit`) or of a window (`counting`); out come integer counts. May
not know of versions or estimators.
"""
