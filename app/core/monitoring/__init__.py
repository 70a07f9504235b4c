"""The monitor without its edges: sketch records in; drift reports, verdicts, performance and alerts out.

`core` is its state, `facts` what is known of a window, `judging` what is said of it, `versions` what is known of a
model version. May not know of Kafka, tables or a clock.
"""
