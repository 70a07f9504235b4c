"""Bytes to one order: decode, reject, merge events and labels by time, join labels to the events they belong to.

In come record batches of one partition; out come typed columns and rejections, the same however batches are cut. May
not know of features, but holds the events that wait for their labels.
"""
