"""Events that the hook sends: each counts once, and who waits has the score that was published."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from core_setting import build
from hook_without_kafka import World, code_of

from app.serving import commits
from app.serving.commits import Answer
from schemas.serving import Asked, Problem, RankRequest, ScoreAnswer
from schemas.wire import Source

WAIT, ASYNC = Asked("wait"), Asked("async")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(build(tmp_path))


async def ask(world: World, event: bytes, asked: Asked) -> asyncio.Task[list[Answer]]:
    """Ask, and let it come as far as it can by itself."""
    asking = asyncio.create_task(world.hook.score([event], asked))
    for _ in range(20):
        await asyncio.sleep(0)
    return asking


async def answer_of(asking: asyncio.Task[list[Answer]]) -> Answer:
    (answer,) = await asking
    return answer


async def test_who_waits_has_the_score_once_it_is_committed_and_not_before(world: World) -> None:
    asking = await ask(world, world.event(20, 0), WAIT)
    world.process(0, commit=False)
    await asyncio.sleep(0.01)
    assert not asking.done()
    world.process(0)
    answer = await answer_of(asking)
    assert isinstance(answer, ScoreAnswer)
    assert answer.committed
    assert answer.source == Source("cards.events", 0, 4)
    assert answer.labels_offset is None
    (preview,) = await world.hook.score([world.event(20, 0)], Asked())
    assert isinstance(preview, ScoreAnswer)
    assert not preview.committed
    assert world.counts.sent == 1


async def test_an_event_is_sent_and_its_preview_is_the_answer_when_nobody_waits(world: World) -> None:
    (preview,) = await world.hook.score([world.event(20, 0)], Asked())
    answer = await answer_of(await ask(world, world.event(20, 0), ASYNC))
    assert isinstance(answer, ScoreAnswer)
    assert isinstance(preview, ScoreAnswer)
    assert (answer.score, answer.committed, answer.source) == (preview.score, True, None)
    assert world.logs == [[(b"c0", world.event(20, 0))], []]
    world.process(0)
    assert (world.counts.sent, world.counts.differing) == (1, 0)


@pytest.mark.parametrize("again", [WAIT, ASYNC])
@pytest.mark.parametrize("when", ["under way", "scored", "committed", "taken over"])
async def test_an_event_that_is_asked_for_again_is_not_sent_again(world: World, when: str, again: Asked) -> None:
    event = world.event(20, 0)
    first = await ask(world, event, WAIT)
    if when != "under way":
        world.process(0, commit=when != "scored")
    if when == "taken over":
        world.take_over(0)
    second = await ask(world, event, again)
    world.process(0)
    answer = await answer_of(second)
    assert isinstance(answer, ScoreAnswer)
    assert answer.committed
    published = await answer_of(first)
    assert isinstance(published, ScoreAnswer)
    assert answer.score == published.score
    assert len(world.logs[0]) == 1


async def test_an_event_that_was_sent_by_a_worker_that_died_is_scored_once(world: World) -> None:
    """The log has it twice: the second worker could not know."""
    event = world.event(20, 0)
    asking = await ask(world, event, WAIT)
    world.take_over(0)
    assert code_of(await answer_of(asking)) == "partition-moving"
    again = await ask(world, event, WAIT)
    assert len(world.logs[0]) == 2
    world.process(0)
    answer = await answer_of(again)
    assert isinstance(answer, ScoreAnswer)
    assert answer.source == Source("cards.events", 0, 4)
    assert [letter.reason for letter in world.letters] == ["duplicate"]


@pytest.mark.parametrize("when", ["under way", "committed", "taken over"])
async def test_an_id_that_was_used_for_another_event_is_a_problem(world: World, when: str) -> None:
    asking = await ask(world, world.event(20, 0), ASYNC)
    if when != "under way":
        world.process(0)
    if when == "taken over":
        world.take_over(0)
    answer = await answer_of(await ask(world, world.event(20, 0, amount=7.5), WAIT))
    assert code_of(answer) == "other-body"
    assert len(world.logs[0]) == 1
    await asking


async def test_what_cannot_be_scored_is_not_sent(world: World) -> None:
    answer = await answer_of(await ask(world, world.event(20, 0, amount="7"), WAIT))
    assert code_of(answer) == "refused"
    assert world.logs == [[], []]


async def test_when_kafka_does_not_acknowledge_the_caller_is_told_and_may_ask_again(world: World) -> None:
    world.is_kafka_away = True
    for asked in (WAIT, ASYNC):
        assert code_of(await answer_of(await ask(world, world.event(20, 0), asked))) == "kafka-away"
    world.is_kafka_away = False
    asking = await ask(world, world.event(20, 0), WAIT)
    world.process(0)
    assert code_of(await answer_of(asking)) == ""


async def test_who_waits_in_vain_is_told_that_it_was_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "WAIT_S", 0.01)
    answer = await answer_of(await ask(world, world.event(20, 0), WAIT))
    assert isinstance(answer, Problem)
    assert (answer.code, answer.event_id) == ("not-yet", "e20")
    again = await ask(world, world.event(20, 0), WAIT)
    world.process(0)
    assert code_of(await answer_of(again)) == ""
    assert len(world.logs[0]) == 1


async def test_a_score_that_others_of_the_entity_have_changed_is_counted(world: World) -> None:
    first, second = [await ask(world, world.event(number, 0), WAIT) for number in (20, 21)]
    world.process(0)
    await asyncio.gather(first, second)
    assert (world.counts.sent, world.counts.differing) == (2, 1)


async def test_where_only_the_stream_knows_the_features_its_score_is_waited_for(tmp_path: Path) -> None:
    world = World(build(tmp_path), can_preview=False)
    for asked in (ASYNC, Asked()):
        assert code_of(await answer_of(await ask(world, world.event(20, 0), asked))) == "no-preview"
    ranking = RankRequest({"card": "c0", "at": 1_600_000_000_000, "amount": 1.0}, [{}])
    assert code_of(await world.hook.rank(ranking, is_forwarded=False)) == "no-preview"
    assert code_of(await answer_of(await ask(world, world.event(20, 0, amount="7"), WAIT))) == "refused"
    asking = await ask(world, world.event(20, 0), WAIT)
    world.process(0)
    assert code_of(await answer_of(asking)) == ""


async def test_who_goes_away_while_the_event_is_sent_leaves_it_sent_once(world: World) -> None:
    acknowledged = asyncio.Event()
    world.before_sending = acknowledged.wait
    first = await ask(world, world.event(20, 0), WAIT)
    first.cancel()
    second = await ask(world, world.event(20, 0), WAIT)
    acknowledged.set()
    await asyncio.sleep(0.01)
    world.process(0)
    assert code_of(await answer_of(second)) == ""
    assert len(world.logs[0]) == 1


async def test_no_more_are_under_way_than_memory_allows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "MOST_UNDER_WAY", 1)
    first = await ask(world, world.event(20, 0), WAIT)
    assert code_of(await answer_of(await ask(world, world.event(21, 0), WAIT))) == "busy"
    world.process(0)
    await first


async def test_a_list_is_sent_whole(world: World) -> None:
    events = [world.event(number, number % 2) for number in range(20, 26)]
    asking = asyncio.create_task(world.hook.score(events, WAIT))
    await asyncio.sleep(0.01)
    for partition in (0, 1):
        world.process(partition)
    answers = await asking
    assert [answer.event_id for answer in answers if isinstance(answer, ScoreAnswer)] == [
        f"e{n}" for n in range(20, 26)
    ]
