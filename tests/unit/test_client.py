"""Clients of the scoring hook, over real connections: what is asked again, whom they ask, when they give up.

Over 350 lines: each law holds for both clients, and needs its own servers.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from client_servers import answer_to, asking, cut, event, hang, refuse, respond, say, serving
from core_setting import build
from hook_without_kafka import World

from app.adapters.http.worker import Health, WorkerHttp
from app.serving.places import Elsewhere
from schemas.partitioning import partition_of
from schemas.serving import MOST_BODY_BYTES, MOST_EVENTS, Problem, RankAnswer, Ranked, ScoreAnswer, problem
from streamgauge import blocking, course
from streamgauge.client import NO_ANSWER, AsyncClient, Client, ScoringError

BOTH = pytest.mark.parametrize("kind", [Client, AsyncClient])
Kind = type[Client | AsyncClient]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@BOTH
async def test_an_event_has_its_score_over_a_connection_that_is_kept(kind: Kind) -> None:
    async with serving() as server, asking(kind, server.address + "/") as client:
        for number in range(5):
            assert await client.score(event(number)) == answer_to(event(number))
        await client.score(b' {"id": "e7", "card": "c1", "at": 3} ', commit="wait", features=True)
        assert len(server.connections) == 1
    assert [query for query, _ in server.asked] == [*["commit=no&features=false"] * 5, "commit=wait&features=true"]
    assert server.asked[-1][1] == {"id": "e7", "card": "c1", "at": 3}


@BOTH
async def test_a_503_is_asked_again_not_before_its_time(kind: Kind) -> None:
    async with (
        serving(refuse("partition-moving"), refuse("busy", "0")) as server,
        asking(kind, server.address) as client,
    ):
        started = time.monotonic()
        assert await client.score(event(3)) == answer_to(event(3))
        assert 1 <= time.monotonic() - started < 3
    assert len(server.asked) == 3


@BOTH
async def test_what_may_not_be_asked_again_in_time_is_given_up_at_once(kind: Kind) -> None:
    async with serving(*[refuse("model-not-ready")] * 9) as server, asking(kind, server.address, timeout_s=1) as client:
        started = time.monotonic()
        with pytest.raises(ScoringError, match="model-not-ready: Because") as caught:
            await client.score(event(3))
        assert time.monotonic() - started < 0.9
    assert (caught.value.code, caught.value.problem.status) == ("model-not-ready", 503)
    assert len(server.asked) == 1


@BOTH
@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("not-the-owner", {"owner": "http://127.0.0.1:9", "partition": 1}),
        ("refused", {"reason": "not_json"}),
        ("duplicate-id", {"event_id": "e3"}),
        ("bad-request", {}),
    ],
)
async def test_what_cannot_be_mended_by_asking_is_asked_once(kind: Kind, code: str, fields: dict[str, Any]) -> None:
    async with serving(refuse(code, **fields)) as server, asking(kind, server.address, server.address) as client:
        with pytest.raises(ScoringError) as caught:
            await client.score(event(3))
    assert caught.value.problem == problem(code, "Because the test says so.", **fields)
    assert caught.value.reason == fields.get("reason", "")
    assert pickle.loads(pickle.dumps(caught.value)).problem == caught.value.problem  # noqa: S301  # our own bytes
    assert len(server.asked) == 1


@BOTH
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"title": "Not Found", "status": 404, "detail": "Not served here."}', "Not served here."),
        (500, b"oh", "The server answers with status 500: check that the address is that of a worker."),
        (302, b"", "The server answers with status 302: check that the address is that of a worker."),
    ],
)
async def test_a_refusal_that_is_not_of_the_hook_is_told_by_its_status(
    kind: Kind, status: int, body: bytes, said: str
) -> None:
    async with serving(say(status, body, Location="/elsewhere")) as server, asking(kind, server.address) as client:
        with pytest.raises(ScoringError) as caught:
            await client.score(event(3))
    assert (caught.value.code, caught.value.detail) == (f"http-{status}", said)
    assert len(server.asked) == 1


@BOTH
@pytest.mark.parametrize(
    "fault",
    [cut, say(503, b"Too many"), say(502), say(504), say(200, b"<html>"), say(200, b'{"results": []}')],
    ids=["cut", "503", "502", "504", "a page", "too few"],
)
async def test_a_fault_of_one_address_is_mended_by_another_one(kind: Kind, fault: Any) -> None:
    async with serving(fault) as one, serving() as other:
        async with asking(kind, one.address, other.address, timeout_s=3) as client:
            for number in range(2):
                assert await client.score(event(number)) == answer_to(event(number))
        assert (len(one.asked), len(other.asked)) == (1, 2)


@BOTH
async def test_a_connection_that_was_closed_while_idle_is_made_again(kind: Kind) -> None:
    async with serving() as server, asking(kind, server.address, timeout_s=0.3) as client:
        for number in range(3):
            await client.score(event(number))
            for transport in server.connections:
                transport.abort()
        assert len(server.connections) == 3
        assert len(server.asked) == 3


@BOTH
async def test_who_hangs_is_left_for_another_and_not_asked_first_again(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "ATTEMPT_S", 0.3)
    async with serving(*[hang] * 9) as one, serving() as other, asking(kind, one.address, other.address) as client:
        started = time.monotonic()
        for number in range(6):
            assert await client.score(event(number)) == answer_to(event(number))
        assert time.monotonic() - started < 1
    assert (len(one.asked), len(other.asked)) == (1, 6)


@BOTH
async def test_nobody_answers_and_the_caller_hears_of_it_by_the_deadline(kind: Kind, nobody: str) -> None:
    async with serving(*[hang] * 9) as server, asking(kind, nobody, server.address) as client:
        started = time.monotonic()
        with pytest.raises(ScoringError) as caught:
            await client.score(event(3), timeout_s=0.5)
        assert 0.4 < time.monotonic() - started < 1
    assert caught.value.code == NO_ANSWER
    assert server.address in caught.value.detail
    assert "no answer in time" in caught.value.detail


@BOTH
async def test_an_answer_that_comes_drop_by_drop_does_not_outlast_the_deadline(kind: Kind) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with serving(drip) as server, asking(kind, server.address) as client:
        started = time.monotonic()
        with pytest.raises(ScoringError, match=f"{NO_ANSWER}: .*no answer in time"):
            await client.score(event(3), timeout_s=0.5)
        assert 0.4 < time.monotonic() - started < 1


@BOTH
async def test_a_worker_that_starts_is_found_within_the_deadline(kind: Kind) -> None:
    async with serving(*[say(503)] * 6) as server, asking(kind, server.address, timeout_s=10) as client:
        assert await client.score(event(3)) == answer_to(event(3))
    assert len(server.asked) == 7


@BOTH
async def test_a_piece_of_an_answer_is_none(kind: Kind) -> None:
    async def break_off(request: Any) -> Any:
        response = respond(answer_to(event(3)))
        assert isinstance(response.body, bytes)
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + response.body)
        request.transport.close()
        return response

    async with serving(break_off) as one, serving() as other:
        async with asking(kind, one.address, other.address, timeout_s=3) as client:
            assert await client.score(event(3)) == answer_to(event(3))
        assert (len(one.asked), len(other.asked)) == (1, 1)


@BOTH
async def test_the_owner_is_asked_directly_once_it_is_known(kind: Kind) -> None:
    async with serving() as one, serving() as other:
        one.owners = other.owners = {0: one.address, 1: other.address}
        async with asking(kind, one.address, entity="card") as client:
            await client.score(event(0))  # of which the client learns who has what
            events = [event(number, f"card-{number}") for number in range(1, 41)]
            for each in events:
                await client.score(each)
            at_once = await client.score_many(events)
    assert at_once == [answer_to(each) for each in events]
    for server, partition in ((one, 0), (other, 1)):
        mine = [each for each in events if partition_of(each["card"].encode(), 2) == partition]
        alone = [asked for _, asked in server.asked if isinstance(asked, dict) and asked["id"] != "e0"]
        assert alone == mine
        assert [asked for _, asked in server.asked if isinstance(asked, list)] == [mine]


@BOTH
async def test_an_owner_that_does_not_answer_is_passed_by(kind: Kind, nobody: str) -> None:
    async with serving() as server:
        server.owners = {0: nobody}
        async with asking(kind, server.address, entity="card") as client:
            for number in range(4):
                assert await client.score(event(number)) == answer_to(event(number))
    assert len(server.asked) == 4


@BOTH
async def test_a_list_beyond_what_a_request_may_hold_goes_in_parts(kind: Kind) -> None:
    long = {"note": "x" * 8000}
    events = [event(number) | (long if number % 4 == 0 else {}) for number in range(2 * MOST_EVENTS + 1)]
    async with serving() as server, asking(kind, server.address) as client:
        assert await client.score_many(events) == [answer_to(each) for each in events]
        assert await client.score_many([]) == []
    asked = [each for _, body in server.asked for each in (body if isinstance(body, list) else [body])]
    assert asked == events
    assert len(server.asked) > 3  # by bytes, too


@BOTH
async def test_an_event_that_is_too_large_is_not_sent_and_holds_up_no_other(kind: Kind) -> None:
    events = [event(0), event(1) | {"note": "x" * MOST_BODY_BYTES}, event(2)]
    async with serving() as server, asking(kind, server.address) as client:
        first, large, last = await client.score_many(events)
    assert (first, last) == (answer_to(event(0)), answer_to(event(2)))
    assert isinstance(large, Problem)
    assert large.code == "too-large"


@BOTH
async def test_of_a_list_only_what_moves_is_asked_again(kind: Kind) -> None:
    async def move_odd_ones(request: Any) -> Any:
        results = []
        for each in await request.json():
            number = int(each["id"][1:])
            if number == 4:
                results.append({"problem": problem("refused", "No such shop.", reason="not_valid")})
            elif number % 2:
                results.append({"problem": problem("partition-moving", "It moves.")})
            else:
                results.append({"answer": answer_to(each)})
        return respond({"results": results})

    events = [event(number) for number in range(9)]
    async with serving(move_odd_ones) as server, asking(kind, server.address) as client:
        found = await client.score_many(events)
    expected: list[ScoreAnswer | Problem] = [answer_to(each) for each in events]
    expected[4] = problem("refused", "No such shop.", reason="not_valid")
    assert found == expected
    assert [each["id"] for each in server.asked[1][1]] == ["e1", "e3", "e5", "e7"]


@BOTH
async def test_a_part_that_waits_holds_up_no_other(kind: Kind) -> None:
    """The owner of one partition says 503 until the deadline; the other partition's events have their scores."""
    async with serving() as one, serving() as other:
        one.owners = other.owners = {0: one.address, 1: other.address}
        async with asking(kind, one.address, entity="card", timeout_s=1.5) as client:
            await client.score(event(0))
            one.to_come.extend([refuse("partition-moving")] * 9)
            events = [event(number, f"card-{number}") for number in range(1, 41)]
            found = await client.score_many(events)
    for each, answer in zip(events, found, strict=True):
        if partition_of(each["card"].encode(), 2) == 1:
            assert answer == answer_to(each)
        else:
            assert isinstance(answer, Problem)
            assert answer.code == "partition-moving"


@BOTH
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"rubbish", "The event is not JSON"),
        (b"{} {}", "The event is not JSON"),
        (b'{"id": "e1"}, {"id": "e2"}', "The event is not JSON"),
        ({"id": object()}, "The event is not JSON"),
        ({"id": "\ud800"}, "The event is not JSON"),
        ([event(1)], "One event is one JSON object"),
        (b"[]", "One event is one JSON object"),
    ],
)
async def test_what_is_no_event_is_not_sent(kind: Kind, wrong: Any, said: str) -> None:
    async with serving() as server, asking(kind, server.address, entity="card") as client:
        with pytest.raises(ValueError, match=said):
            await client.score(wrong)
        with pytest.raises(ValueError, match=f"Event 1 of the list: {said}"):
            await client.score_many([event(0), wrong])
        with pytest.raises(ValueError, match="commit is 'maybe'"):
            await client.score(event(0), commit="maybe")
        with pytest.raises(ValueError, match="timeout_s is -1"):
            await client.score(event(0), timeout_s=-1)
    assert server.asked == []


@BOTH
async def test_candidates_are_ranked_in_one_request_that_is_asked_again_like_any(kind: Kind) -> None:
    ranked, refused = [Ranked(1, 0.9, decision=True)], {0: problem("refused", "No.")}
    answer = RankAnswer("c0", ranked, refused, "m", "1.0.0", "f", 0, 7, None, stale=False, served_at_ms=1)

    async def rank(_: Any) -> Any:
        return respond(answer)

    async with serving(refuse("busy", "0"), rank) as server, asking(kind, server.address) as client:
        assert await client.rank({"card": "c0"}, [{"item": "a"}, b'{"item": "b"}'], top=1) == answer
        for candidates, top in [([], 5), ([{}] * (MOST_EVENTS + 1), 5), ([{}], 0), ([{}], MOST_EVENTS + 1)]:
            with pytest.raises(ValueError, match="give 1 to 1000 of each"):
                await client.rank({"card": "c0"}, candidates, top)
        with pytest.raises(ScoringError, match="too-large: A request may have 1048576 bytes"):
            await client.rank({"card": "c0"}, [{"note": "x" * MOST_BODY_BYTES}])
    body = {"event": {"card": "c0"}, "candidates": [{"item": "a"}, {"item": "b"}], "top": 1}
    assert server.asked == [("", body)] * 2


@BOTH
@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:80", "ftp://a", "http://", "http://a:99999", "http://a/?b", "http://me:secret@a"]
)
def test_an_address_that_is_none_is_refused(kind: Kind, address: str) -> None:
    with pytest.raises(ValueError, match="is no address of a worker: write it like"):
        kind(address)
    with pytest.raises(ValueError, match="Give the address of at least one worker"):
        kind()


async def test_threads_may_share_a_client() -> None:
    async with serving() as server:
        with Client(server.address) as client, ThreadPoolExecutor(8) as threads:
            loop = asyncio.get_running_loop()
            asked = [loop.run_in_executor(threads, client.score, event(number)) for number in range(200)]
            assert await asyncio.gather(*asked) == [answer_to(event(number)) for number in range(200)]
    assert len(server.connections) <= 8


async def test_of_idle_connections_few_are_kept_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_MOST_IDLE", 2)
    async with serving() as server:
        with Client(server.address) as client, ThreadPoolExecutor(8) as threads:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                asked = [loop.run_in_executor(threads, client.score, event(number)) for number in range(8)]
                await asyncio.gather(*asked)
                (idle,) = client._connections._idle.values()
                assert 1 <= len(idle) <= 2
            before = len(server.connections)
            monkeypatch.setattr(blocking, "_IDLE_S", 0)
            await asyncio.gather(*(asyncio.to_thread(client.score, event(number)) for number in range(3)))
            assert len(server.connections) == before + 3


async def test_many_calls_of_one_loop_go_side_by_side() -> None:
    async with serving() as server, AsyncClient(server.address) as client:
        found = await asyncio.gather(*(client.score(event(number)) for number in range(200)))
    assert found == [answer_to(event(number)) for number in range(200)]


@BOTH
async def test_the_hook_itself_is_understood(kind: Kind, tmp_path: Path) -> None:
    world = World(build(tmp_path))
    http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, world.hook)
    address = await http.start("127.0.0.1", 0)
    try:
        async with asking(kind, address, entity="card", timeout_s=0.9) as client:
            alone = await client.score(world.event(20, 0), features=True)
            assert alone.features is not None
            assert list(alone.features) == list(world.setting.pipeline.feature_names)
            world.places.places[1] = Elsewhere("http://127.0.0.1:9")
            events = [world.event(20, 0), world.event(21, 1), b"{}", world.event(22, 0)]
            found = await client.score_many(events, features=True)
            assert found[0] == alone
            assert isinstance(found[3], ScoreAnswer)
            codes = [found[place].code for place in (1, 2) if isinstance(found[place], Problem)]  # type: ignore[union-attr]
            assert codes == ["partition-moving", "refused"]
            with pytest.raises(ScoringError) as caught:
                await client.score(world.event(20, 0, amount=...))
            assert (caught.value.code, bool(caught.value.reason)) == ("refused", True)
            best = await client.rank({"card": "c0", "at": alone.event_time_ms}, [{"amount": n} for n in (3, 9, 1)], 2)
            scores = [(await client.score(world.event(20, 0, amount=n))).score for n in (3, 9, 1)]
            assert [(of.candidate, of.score) for of in best.ranked] == [(1, scores[1]), (0, scores[0])]
            twice = await client.score_many([world.event(20, 0), world.event(20, 0)])
            assert [answer.code for answer in twice if isinstance(answer, Problem)] == ["duplicate-id"] * 2
    finally:
        await http.stop()


@BOTH
async def test_an_event_whose_answer_was_lost_is_asked_again_and_sent_once(kind: Kind, tmp_path: Path) -> None:
    world = World(build(tmp_path))
    http = WorkerHttp(lambda: Health(live=True, ready=True, why=""), list, world.hook)
    address = await http.start("127.0.0.1", 0)

    async def lose_the_answer(request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession() as session:
            url = f"{address}{request.path_qs}"
            async with session.post(
                url, data=await request.read(), headers={"Content-Type": "application/json"}
            ) as got:
                assert got.status == 200
        return await cut(request)

    try:
        async with serving(lose_the_answer) as one, asking(kind, one.address, address) as client:
            answer = await client.score(world.event(20, 0), commit="async")
            assert len(one.asked) == 1
    finally:
        await http.stop()
    assert answer.committed
    assert world.logs == [[(b"c0", world.event(20, 0))], []]


def test_an_import_brings_nothing_heavy() -> None:
    heavy = ["aiohttp", "asyncio", "aiokafka", "faust", "numpy", "scipy", "sklearn", "pyarrow", "app", "models"]
    program = f"import sys, streamgauge.client; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
