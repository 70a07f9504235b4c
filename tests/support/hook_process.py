"""A sender as a process, with times in which a test can wait: what ``streamgauge hooks run`` does in its own.

Arguments: the pipeline file, and a name that the sender keeps over restarts.
"""

from __future__ import annotations

import sys

from hook_bench import EARLIEST, FAST

from app.adapters.http.place import HttpPlace
from app.hooks.start import run

if __name__ == "__main__":
    run(sys.argv[1], HttpPlace("127.0.0.1", 0), EARLIEST, sys.argv[2], pace=FAST)
