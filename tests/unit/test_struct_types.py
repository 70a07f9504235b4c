"""No thread is the first to decode a type."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Which types msgspec still looks at when they are decoded, of all that a worker and a monitor have.
LOOKED_AT = """
import sys, msgspec
import app.monitor.start, app.worker.start
from schemas.struct_types import _subclasses, build_struct_types

if sys.argv[1] == "built":
    build_struct_types()
late = 0
def look(frame, event, _):
    global late
    late += event == "call" and frame.f_code.co_name == "get_class_annotations"
sys.setprofile(look)
kinds = list(_subclasses(msgspec.Struct))
for kind in kinds:
    try:
        msgspec.json.decode(b"0", type=kind)
    except msgspec.ValidationError:
        pass
sys.setprofile(None)
print(len(kinds), late)
"""


def looked_at(when: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-P", "-c", LOOKED_AT, when], capture_output=True, text=True, check=True)
    kinds, late = map(int, done.stdout.split())
    return kinds, late


@pytest.mark.slow
def test_all_types_of_workers_and_monitors_are_known_before_their_threads_begin() -> None:
    kinds, late = looked_at("built")
    assert kinds > 40
    assert late == 0
    assert looked_at("not built")[1] > 40  # that is where msgspec looks
