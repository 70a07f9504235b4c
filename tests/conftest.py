"""What every test shares: Hypothesis draws the same examples on every run, and no test is timed."""

from __future__ import annotations

import os

from hypothesis import settings

# OpenMP's threads wait for each other by spinning: on a busy machine fits of a few rows took twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
# New examples on each run, to look for what the fixed ones miss: pytest --hypothesis-profile=explore
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")
