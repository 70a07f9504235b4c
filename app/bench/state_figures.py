"""Figures of the state's own benchmark, scripts/bench/state.py: memory per entity and speed, without Kafka."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from app.bench.lane import BenchError
from app.bench.peer_tools import program
from app.bench.run import BenchRun

_DEADLINE_S = 600.0


async def measure_state(run: BenchRun) -> None:
    """Run the program and take over what it prints: a JSON list of {name, value, unit}."""
    script = program("state.py")
    run.say("state: scripts/bench/state.py")
    command = [sys.executable, str(script), "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    if done.returncode:
        raise BenchError(f"{script} failed: {' / '.join(done.stderr.strip().splitlines()[-3:])}")
    for row in json.loads(done.stdout):
        run.figures.add(f"state.{row['name']}", float(row["value"]), row["unit"], f"State: {row['name']}")
