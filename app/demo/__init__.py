"""The demo: the whole job on a year of real events, by the same processes and commands that a user runs.

`run` is its course, `stream` sends the events and has retrained what needs it, `training` runs the training commands,
`memory` watches the process tree, `summary` counts.
"""

from __future__ import annotations

from app.demo.run import Demo as Demo
from app.demo.run import DemoOptions as DemoOptions
from app.demo.stream import DemoError as DemoError
from app.demo.stream import Progress as Progress
