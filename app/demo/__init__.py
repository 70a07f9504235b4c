"""The demo: the whole job on a year of real events, by the same processes and commands that a user runs.

`run` is its order, `stream` sends the events of a `course`, `retrainer` has new versions trained by `training`'s
commands, `lag_watch` says how far workers are, `memory` watches the process tree, `summary` counts.
"""

from __future__ import annotations

from app.demo.course import DemoError as DemoError
from app.demo.course import Progress as Progress
from app.demo.run import Demo as Demo
from app.demo.run import DemoOptions as DemoOptions
