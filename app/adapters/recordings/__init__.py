"""Recordings: what a pipeline's topics held, in one file; made from topics, and read back as the topics are.

May not know of scoring: here (`part`) is said which warm-up a part needs; `app.replay` runs it.
"""
