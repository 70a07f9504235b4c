"""What was counted: integer counts by slice of event time on the worker's side, windows of them on the monitor's.

In come scored and labelled events (`buffer`) or deltas of them (`sketches`); out come counts by window, version and
segment. Adding up in any order gives the same. May not know what is tested on them.
"""
