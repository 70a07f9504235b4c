"""Hooks without their edges: records in; out comes what is told to whom, in which order, when again, and when no more.

Knows the records, the pipeline file, and times that it is given. It knows no network, no Kafka and no clock.
"""
