"""The embedded stack: Kafka on a Java of its own, child processes that end with their parent, and the folder of both.

May not know of pipelines: it starts, watches and ends what its callers name.
"""
