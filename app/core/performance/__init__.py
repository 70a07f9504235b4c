"""How well a version predicts: from labels, from scores alone, and how sure that is.

In come counts by score cell and label; out come measures with ranges, and tests of the labels against the scores. May
not know of windows before this one.
"""
