"""Comparisons for the commands on past events: scores bit for bit, two versions, features against SQL.

What was served and what was computed anew come in; differences go out, as values. May not know where either is from.
"""
