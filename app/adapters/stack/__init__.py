"""The embedded stack: Kafka on a Java of its own, child processes that do not outlive their parent, the folder of both.

May not know of pipelines: it starts, watches and ends what it is told to.
"""
