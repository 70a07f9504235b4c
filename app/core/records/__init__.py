"""Reads the records of topics that are not events and labels: a value with every field in range, or a refusal.

In come a record's bytes and where they lay; out comes one of `schemas.wire`, or a `RefusedRecordError`. Decoding bounds
each field by itself (`schemas.ranges`); here is what fields must satisfy together, and what the pipeline makes of them:
its topics, its partitions, its times. Nothing is changed before a record is known to be sound. May not know of windows,
boards or flows: what depends on their state is theirs to refuse.
"""
