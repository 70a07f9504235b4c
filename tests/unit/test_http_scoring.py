"""The scoring hook over HTTP: statuses, problems, headers, limits."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from core_setting import build
from hook_without_kafka import World

from app.adapters.http import scoring
from app.adapters.http.worker import Health, WorkerHttp
from app.core.scoring import ChampionTimeline
from app.serving.places import Elsewhere
from schemas.serving import MOST_BODY_BYTES, PARTITIONS_HEADER, PROBLEMS, Problem, RankAnswer, ScoreAnswer, ScoreResults

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(build(tmp_path))


@asynccontextmanager
async def served(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, world.hook)
    address = await http.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(address, headers=JSON) as session:
            yield session
    finally:
        await http.stop()


async def problem_of(response: aiohttp.ClientResponse) -> Problem:
    """The problem that a response has, as RFC 9457 wants it."""
    assert response.content_type == "application/problem+json"
    found = msgspec.json.decode(await response.read(), type=Problem)
    kind = PROBLEMS[found.code]
    assert (found.status, response.status, found.title) == (kind.status, kind.status, kind.title)
    assert ("Retry-After" in response.headers) == (kind.retry_after_s is not None)
    assert len(found.detail) > 20
    return found


async def test_an_event_has_its_score_and_a_list_its_results(world: World) -> None:
    world.places.places[1] = Elsewhere("http://other")
    async with served(world) as http:
        async with http.post("/v1/score", data=world.event(20, 0)) as response:
            assert response.status == 200
            alone = msgspec.json.decode(await response.read(), type=ScoreAnswer)
            assert json.loads(response.headers[PARTITIONS_HEADER]) == {"1": "http://other"}
        body = b"[" + world.event(20, 0) + b"," + world.event(21, 1) + b",{}]"
        async with http.post("/v1/score", data=body) as response:
            assert response.status == 200
            results = msgspec.json.decode(await response.read(), type=ScoreResults).results
    assert results[0].answer == alone
    assert [result.problem.code if result.problem else "" for result in results] == ["", "partition-moving", "refused"]


async def test_features_are_told_when_they_are_asked_for(world: World) -> None:
    async with served(world) as http:
        async with http.post("/v1/score?features=true", data=world.event(20, 0)) as response:
            features = (await response.json())["features"]
        async with http.post("/v1/score", data=world.event(20, 0)) as response:
            assert "features" not in await response.json()
    assert list(features) == list(world.setting.pipeline.feature_names)


@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        ("", b"{}", "refused"),
        ("", b"rubbish", "refused"),
        ("", b"", "refused"),
        ("", b"[]", "bad-request"),
        ("", b"[" + b"{}," * 1000 + b"{}]", "too-large"),
        ("", b" " * (MOST_BODY_BYTES + 1), "too-large"),
        ("", World.event(20, 0, at=10**15), "refused"),
        ("", World.event(20, 0, at=10**12), "refused"),
        ("", b"[" + World.event(20, 0) + b"," + World.event(20, 1) + b"]", "duplicate-id"),
        ("?commit=maybe", World.event(20, 0), "bad-request"),
        ("?features=yes", World.event(20, 0), "bad-request"),
        ("?feature=true", World.event(20, 0), "bad-request"),
    ],
)
async def test_bad_input_has_a_problem_with_its_fix(world: World, query: str, body: bytes, code: str) -> None:
    async with served(world) as http, http.post(f"/v1/score{query}", data=io.BytesIO(body)) as response:
        assert (await problem_of(response)).code == code


@pytest.mark.parametrize("declared", ["application/x-json", "application/octet-stream"])
async def test_a_body_that_is_not_declared_as_json_is_not_read(world: World, declared: str) -> None:
    headers = {"Content-Type": declared}
    async with served(world) as http, http.post("/v1/score", data=b"{}", headers=headers) as response:
        assert (await problem_of(response)).code == "not-json"


async def test_candidates_are_ranked(world: World) -> None:
    event = {"card": "c0", "at": 1_600_000_000_000, "amount": 1.0}
    body = {"event": event, "candidates": [{"amount": amount} for amount in (1, 9, 5)], "top": 2}
    async with served(world) as http:
        async with http.post("/v1/rank", json=body) as response:
            answer = msgspec.json.decode(await response.read(), type=RankAnswer)
        assert [ranked.candidate for ranked in answer.ranked] == [1, 2]
        for wrong in ({}, {"event": event, "candidates": []}, {**body, "top": 0}, {**body, "more": 1}, [body]):
            async with http.post("/v1/rank", json=wrong) as response:
                assert (await problem_of(response)).code == "bad-request"
        async with http.post("/v1/rank?top=3", json=body) as response:
            assert (await problem_of(response)).code == "bad-request"
        async with http.post("/v1/rank", json={**body, "event": {"amount": 1.0}}) as response:
            assert (await problem_of(response)).code == "refused"


@pytest.mark.parametrize(("sent", "code"), [({}, ""), ({"id": "key"}, ""), ({"id": "e20"}, "other-body")])
async def test_the_idempotency_key_is_the_id_of_the_event(world: World, sent: dict[str, str], code: str) -> None:
    event = world.event(20, 0, **{"id": ...} | sent)
    async with served(world) as http:
        async with http.post("/v1/score", data=event, headers={"Idempotency-Key": "key"}) as response:
            if code:
                assert (await problem_of(response)).code == code
            else:
                assert (await response.json())["event_id"] == "key"
        async with http.post("/v1/score", data=b"[" + event + b"]", headers={"Idempotency-Key": "key"}) as response:
            assert (await problem_of(response)).code == "bad-request"


async def test_without_model_or_owner_it_says_when_to_ask_again(world: World) -> None:
    async with served(world) as http:
        world.models = ChampionTimeline()
        async with http.post("/v1/score", data=world.event(20, 0)) as response:
            assert (await problem_of(response)).code == "model-not-ready"
        world.places.places.clear()
        async with http.post("/v1/score", data=world.event(20, 0)) as response:
            assert (await problem_of(response)).code == "no-owner"


async def test_a_question_that_was_passed_on_to_the_wrong_worker_is_not_passed_on_again(world: World) -> None:
    world.places.places[0] = Elsewhere("http://other")
    async with served(world) as http:
        forwarded = {"Streamgauge-Forwarded": "1"}
        async with http.post("/v1/score", data=world.event(20, 0), headers=forwarded) as response:
            found = await problem_of(response)
    assert (found.code, found.owner, found.partition) == ("not-the-owner", "http://other", 0)
    assert world.forward.calls == []


async def test_more_events_than_may_be_at_work_are_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MOST_AT_WORK", 2)
    async with served(world) as http:
        body = b"[" + b",".join(world.event(number, 0) for number in (20, 21, 22)) + b"]"
        async with http.post("/v1/score", data=body) as response:
            assert (await problem_of(response)).code == "busy"
        async with http.post("/v1/score", data=world.event(20, 0)) as response:
            assert response.status == 200


async def test_what_takes_too_long_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ANSWER_S", 0.05)
    world.places.places[0] = Elsewhere("http://other")

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.hook, "_forward", hang)
    async with served(world) as http, http.post("/v1/score", data=world.event(20, 0)) as response:
        assert (await problem_of(response)).code == "busy"


async def test_the_adapter_of_the_page_gives_a_tensor_of_scores(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hook.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    named: dict[str, Any] = {}
    exec(compile(code, "docs/hook.md", "exec"), named)  # noqa: S102  # our own page
    http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, world.hook)
    named["HOOK"] = f"{await http.start('127.0.0.1', 0)}/v1/score"
    runner = web.AppRunner(named["adapter"]())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    columns = {"id": ["e20", "e21"], "card": ["c0", "c1"], "at": [1_600_000_020_000] * 2, "amount": [2.5, 3.5]}
    inputs = [{"name": name, "data": data} for name, data in columns.items()]
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/models/fraud/infer"
            async with session.post(url, json={"inputs": inputs}) as response:
                said = await response.json(content_type="application/json")
    finally:
        await runner.cleanup()
        await http.stop()
    (output,) = said["outputs"]
    assert (said["model_name"], output["shape"]) == ("fraud", [2])
    assert all(0 < score < 1 for score in output["data"])


async def test_the_openapi_document_names_all_that_is_answered(world: World) -> None:
    async with served(world) as http, http.get("/openapi.json") as response:
        document = await response.json()
    assert document["openapi"] == "3.1.0"
    assert document["x-streamgauge"] == {"entity": "card", "event_id": "id", "partitions": 1}
    schemas, post = document["components"]["schemas"], document["paths"]["/v1/score"]["post"]
    assert schemas["Event"]["required"] == ["id", "card", "at", "amount"]
    assert schemas["Event"]["properties"]["shop"] == {"type": ["string", "null"]}
    assert list(schemas["ScoreAnswer"]["properties"]) == list(ScoreAnswer.__struct_fields__)
    assert post["responses"].keys() == {"200", *(str(kind.status) for kind in PROBLEMS.values())}
    assert schemas["Problem"]["properties"]["code"]["enum"] == list(PROBLEMS)
    references = [word.partition('"')[0] for word in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert set(references) <= schemas.keys()
