"""Files and Python functions that events, labels and batch data come from; files that scores are written to.

In come paths that a pipeline file or a command names; out come records in the order of their times, columns, functions.
Of topics it may know only the names.
"""
