"""What every test shares: Hypothesis draws the same examples on every run, and no test is timed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
# New examples on each run, to look for what the fixed ones miss: pytest --hypothesis-profile=explore
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")
