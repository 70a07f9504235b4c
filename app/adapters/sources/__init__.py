"""Files and Python functions that events, labels and batch data come from, and files that scores go to.

In come paths that a pipeline file or a command names; out come records in the order of their times, columns, functions.
May know topics by name alone.
"""
