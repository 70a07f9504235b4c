"""Wrong decisions as one stream, and the detectors that watch it.

In come the errors of labelled events, from all partitions; out comes when a detector fired. The order is the same
however workers cut it (`stream`). May not know of windows.
"""
