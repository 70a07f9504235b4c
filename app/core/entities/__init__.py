"""Each entity in one partition: what partitions tell of the entities they see, and the way of records that are copied.

In come the entities of decoded events; out come records of ``<p>.entities``, which events are of an entity that belongs
elsewhere, and where a record goes (`routing`). May not know of features or scores.
"""
