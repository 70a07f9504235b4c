"""The commands of docs/recommendations.md run as they are printed, on fewer weeks, and print what stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from app.kafka_access import KafkaAccess

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "recommendations.md").read_text(encoding="utf-8")
#: What a whole stack does has tests of its own, and so have printed queries (test_documented_queries.py).
ELSEWHERE = ("streamgauge up", "streamgauge query")
#: Two mailers are learnt from, and one is ranked; without a worker there is nothing to check the scores with.
SHORTER = {"2017-04-10": "2017-01-09", "2017-10-01": "2017-01-30", "--check": "--models 1.0.0"}
UP_TO = "2017-02-06T05:00:00Z"
DEADLINE_S = 240.0


def read_blocks() -> Iterator[tuple[str, list[str]]]:
    """Each command of the guide and the lines that it prints there."""
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, [line for line in lines if line]


BLOCKS = [(command, lines) for command, lines in read_blocks() if not command.startswith(ELSEWHERE)]


def shape(line: str) -> str:
    """A line without its numbers, times and paths."""
    return re.sub(r"[\d.,:TZ-]*\d[\d.,:TZ-]*", "0", re.sub(r"(file://|…)?/[\w./-]+", "/", line)).strip()


def test_the_guide_has_the_commands_of_each_step() -> None:
    found = {" ".join(command.split()[:2]) for command, _ in BLOCKS}
    steps = ("check", "produce", "model", "replay")

    assert found >= {*(f"streamgauge {step}" for step in steps), "python scripts/ranking.py"}


@pytest.fixture(scope="module")
def printed(kafka: KafkaAccess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command of the guide prints on the shorter stretch, run one after the other in one folder."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    environment = {**os.environ, "STREAMGAUGE_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    reached = {**environment, "STREAMGAUGE_KAFKA": kafka.servers}
    run(("migrate", "--pipeline", "groceries"), folder, reached)  # as `up` does
    found = {}
    for command, _ in BLOCKS:
        program, *words = shlex.split(shorten(command))
        # The guide checks its file before anything runs.
        found[command] = run(words, folder, environment if words[0] == "check" else reached, program)
    return found


def run(words: Sequence[str], folder: Path, environment: dict[str, str], program: str = "streamgauge") -> str:
    """All that a program says; it must end well."""
    ours = [sys.executable] if program == "python" else [sys.executable, "-m", "app"]
    done = subprocess.run(
        [*ours, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, (words, done.stderr[-2000:], done.stdout[-2000:])
    return done.stdout + done.stderr


def shorten(command: str) -> str:
    """The command on fewer weeks."""
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    return command + (f" --to {UP_TO}" if command.startswith("streamgauge produce") else "")


@pytest.mark.parametrize("command", [command for command, _ in BLOCKS])
def test_a_command_prints_what_the_guide_shows(printed: dict[str, str], command: str) -> None:
    (lines,) = [lines for name, lines in BLOCKS if name == command]
    shapes = {shape(line) for line in printed[command].splitlines()}
    # Without a worker no score is compared; what else a line says must be printed, but for its numbers.
    missing = [line for line in lines if shape(line) not in shapes and "bit for bit" not in line]

    assert missing == [], printed[command]


def test_the_scores_rank_better_than_chance_and_than_what_is_popular(printed: dict[str, str]) -> None:
    (output,) = [text for command, text in printed.items() if "ranking.py" in command]
    rows = re.findall(r"^\| (\w+) \|.*\| ([\d.]+) \([^|]*\|$", output, re.MULTILINE)
    ndcg = {name: float(value) for name, value in rows}

    assert ndcg.keys() == {"score", "buyers", "popular", "random"}
    assert ndcg["score"] > ndcg["popular"] > 2 * ndcg["random"]
