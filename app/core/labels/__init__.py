"""Labels that mature: how long they take, whose they are, and which events a model may learn from.

In come counts of labels by age; out comes what of a window's labels is here, whether they are those of chosen events,
and which rows of a training are mature. May not know of alerts or verdicts.
"""
