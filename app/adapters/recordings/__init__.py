"""Recordings: what a pipeline's topics held, in one file; made from topics, and read back as if it were the topics.

May not know of scoring: which part needs which warm-up is said here (`part`), and run in `app.replay`.
"""
