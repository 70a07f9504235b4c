"""What docs/hook-client.md tells people to run runs, against a real hook."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path

import msgspec
import pytest
from core_setting import build
from hook_without_kafka import World

from app.adapters.http.worker import Health, WorkerHttp
from app.core.scoring import ChampionTimeline
from schemas.serving import Asked, ScoreAnswer
from streamgauge.client import Client

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hook-client.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"
CURL, CURL_LIST = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
PYTHON, PYTHON_ASYNC = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(NODE,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
#: The event of the examples.
EVENT = {"id": "e20", "card": "c0", "at": 1600000020000, "amount": 2.5}
NEEDS = {
    program: pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("curl", "node")
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(build(tmp_path))


@asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, world.hook)
    try:
        yield await http.start("127.0.0.1", 0)
    finally:
        await http.stop()


async def run(world: World, text: str, *command: str) -> tuple[int | None, str]:
    """Exit code and output of a program of the page."""
    assert ADDRESS in text
    async with served(world) as address:
        process = await asyncio.create_subprocess_exec(
            *command,
            text.replace(ADDRESS, address),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    return process.returncode, output.decode()


async def expected(world: World) -> ScoreAnswer:
    (answer,) = await world.hook.score([json.dumps(EVENT).encode()], Asked(with_features=True))
    assert isinstance(answer, ScoreAnswer)
    return answer


@NEEDS["curl"]
async def test_curl_gets_the_score_of_an_event(world: World) -> None:
    code, output = await run(world, CURL, "sh", "-c")
    assert code == 0, output
    assert msgspec.json.decode(output, type=ScoreAnswer) == await expected(world)


@NEEDS["curl"]
async def test_curl_says_what_is_wrong_and_fails(world: World) -> None:
    code, output = await run(world, CURL.replace("e20", ""), "sh", "-c")
    assert code == 22
    found, _ = json.JSONDecoder().raw_decode(output, output.index("{"))  # beside what curl says
    assert found["code"] == "refused"


@NEEDS["curl"]
async def test_curl_gets_a_result_for_each_event_of_a_list(world: World) -> None:
    code, output = await run(world, CURL_LIST, "sh", "-c")
    assert code == 0, output
    first, second = json.loads(output)["results"]
    assert (first["answer"]["event_id"], second["problem"]["code"]) == ("e21", "refused")


async def test_python_prints_the_score(world: World) -> None:
    answer = await expected(world)
    assert await run(world, PYTHON, sys.executable, "-c") == (0, f"{answer.score} {answer.decision} {answer.version}\n")


async def test_python_prints_why_there_is_no_score(world: World) -> None:
    world.models = ChampionTimeline()
    code, output = await run(world, PYTHON, sys.executable, "-c")
    assert code == 0, output
    assert output.startswith("no score: model-not-ready No version is loaded")


async def test_python_on_a_loop_prints_all_scores_in_order(world: World) -> None:
    answer = await expected(world)
    code, output = await run(world, PYTHON_ASYNC, sys.executable, "-c")
    assert code == 0, output
    assert output.splitlines() == [f"e{number} {answer.score}" for number in range(20, 1520)]


@NEEDS["node"]
async def test_node_prints_the_score(world: World) -> None:
    answer = await expected(world)
    said = f"{answer.score} {str(answer.decision).lower()} {answer.version}\n"
    assert await run(world, NODE, "node", "--eval") == (0, said)


@NEEDS["node"]
async def test_node_prints_why_there_is_no_score(world: World) -> None:
    world.models = ChampionTimeline()
    code, output = await run(world, NODE, "node", "--eval")
    assert code == 0, output
    assert output.startswith("no score: model-not-ready No version is loaded")


def test_the_page_names_each_method_with_its_parameters() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE))
    methods = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert rows.keys() == methods | {"Client"}
    assert rows.pop("score_many") == "events, …"
    for name, written in rows.items():
        found = signature(Client if name == "Client" else getattr(Client, name)).parameters.values()
        bare = [part.replace(annotation=Parameter.empty) for part in found if part.name != "self"]
        assert f"({written.replace(chr(34), chr(39))})" == str(Signature(bare))
