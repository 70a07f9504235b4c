"""State per key: partial aggregates of event time, in memory or in rows on disk.

In come keys, times and values; out come aggregates of windows, and cells as bytes for a changelog. Sums are of
integers, so that any order of adding gives the same bits. May not know of events, features or partitions.
"""
