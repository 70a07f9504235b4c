"""What the commands on past events compare: bounds, scores bit for bit, versions, features against SQL.

In come what was served and what was computed anew; out come differences, as values. May not know where either is from.
"""
