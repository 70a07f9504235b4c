"""ClickHouse: one warehouse, be it a server by HTTP or the engine in this process.

In go rows as columns and questions as SQL; out come rows and, where something is wrong, one sentence. All that writes
does so from one thread. May not know of HTTP, of Kafka, or of what the rows mean.
"""
