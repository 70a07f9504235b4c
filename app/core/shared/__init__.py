"""Windows across partitions: all partitions in each worker (`part`), or keys divided among owners (`repartition`).

In come the events of one partition and what the others have added; out come window values once all have come as far as
a window reaches. May not know how records travel.
"""
