"""Answers for one event at a time, from the state and the model of the stream.

A request comes in as bytes, finds the worker that has its entity's partition, and is answered between two steps of that
partition's flow, where state is consistent without a lock. Nothing here knows HTTP: `app.adapters.http.scoring` does.
"""
