"""Drift tests of one closed window, and the budget of false alarms that they spend.

In come the counts of a window, those of its reference and the deciles of past windows; out comes what each test says
(`judge`). The statistics stand in `statistics`, one a file. May not know of labels, alerts or verdicts.
"""
