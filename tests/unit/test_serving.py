"""What the scoring hook answers, and to whom it passes a question on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from core_setting import START_MS, Setting, batch, build
from hook_without_kafka import NOW_MS, World, code_of

from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ChampionTimeline, ModelSelector
from app.flow.preview import Preview
from app.serving.desk import PreviewDesk
from app.serving.places import Elsewhere
from app.step_size import ASKED_STEP_S
from schemas.pipeline.file import load
from schemas.serving import (
    MOST_EVENTS,
    PROBLEMS,
    Asked,
    Problem,
    ProblemFoundError,
    RankAnswer,
    RankRequest,
    ScoreAnswer,
    problem,
)

PLAIN = Asked()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(build(tmp_path))


def stream_score(world: World, event: bytes, partition: int) -> float:
    """What the stream gives for an event that comes next."""
    flow = world.flows[partition]
    flow.receive_events(batch("cards.events", [event], [NOW_MS], first=4), NOW_MS)
    flow.merge.let_go(flow.merge.events_received)
    step = flow.step(world.models, 1, NOW_MS)
    assert step is not None
    return float(step.scores[0])


async def test_an_answer_has_the_score_of_the_stream_and_says_what_it_was_made_of(world: World) -> None:
    event = world.event(90, 1)
    (answer,) = await world.hook.score([event], Asked(with_features=True))
    assert isinstance(answer, ScoreAnswer)
    assert (answer.event_id, answer.entity, answer.event_time_ms) == ("e90", "c1", START_MS + 90_000)
    assert (answer.model, answer.version, answer.feature_set) == ("fraud", "1.0.0", world.setting.pipeline.feature_set)
    assert (answer.partition, answer.offset, answer.labels_offset) == (1, 4, 0)
    assert (answer.stale, answer.committed, answer.served_at_ms) == (False, False, NOW_MS)
    assert answer.features is not None
    assert answer.features["count_1h"] == 4
    assert answer.features["fraud_2h"] is None
    assert answer.score == stream_score(world, event, 1)
    assert answer.decision == (answer.score >= 0.5)


async def test_answers_come_in_the_order_of_the_events_whatever_is_wrong_with_some(world: World) -> None:
    events = [world.event(number, number % 2) for number in range(20, 30)]
    events[3] = b"{}"
    events[5] = world.event(25, 1, amount="7")
    events[6] = world.event(26, 0, at=1)
    answers = await world.hook.score(events, PLAIN)
    assert [code_of(answer) for answer in answers] == ["", "", "", "refused", "", "refused", "refused", "", "", ""]
    assert [answer.event_id for answer in answers if isinstance(answer, ScoreAnswer)] == [
        f"e{number}" for number in (20, 21, 22, 24, 27, 28, 29)
    ]
    reasons = [answer.reason for answer in answers if isinstance(answer, Problem)]
    assert reasons == ["missing_field", "wrong_type", "time_too_early"]


async def test_what_is_asked_in_one_turn_is_scored_at_once_and_each_gets_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    preview = world.flows[0].preview

    def count(records: RecordBatch, models: ModelSelector, clock_ms: int) -> Preview:
        sizes.append(len(records))
        return preview(records, models, clock_ms)

    monkeypatch.setattr(world.flows[0], "preview", count)
    events = [world.event(number, 0) for number in range(20, 40)]
    together = await asyncio.gather(*(world.hook.score([event], PLAIN) for event in events))
    assert sizes == [20]
    alone = [await world.hook.score([event], PLAIN) for event in events]
    assert together == alone
    assert sizes == [20] + [1] * 20


async def test_a_defect_is_told_to_those_who_asked_and_to_nobody_after_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(world.flows[0], "preview", fail)
        with pytest.raises(RuntimeError, match="a defect"):
            await world.hook.score([world.event(20, 0)], PLAIN)
    (answer,) = await world.hook.score([world.event(20, 0)], PLAIN)
    assert code_of(answer) == ""


async def test_who_has_gone_is_not_scored_for(world: World) -> None:
    asking = asyncio.create_task(world.hook.score([world.event(20, 0)], PLAIN))
    await asyncio.sleep(0)
    asking.cancel()
    (answer,) = await world.hook.score([world.event(21, 0)], PLAIN)
    assert code_of(answer) == ""


async def test_partitions_that_others_have_are_asked_there_once(world: World) -> None:
    world.places.places[1] = Elsewhere("http://other")
    said = problem("partition-moving", "It moves.")
    world.forward.answer = lambda events: [said] * len(events)
    events = [world.event(number, number % 2) for number in range(20, 25)]
    answers = await world.hook.score(events, PLAIN)
    assert [code_of(answer) for answer in answers] == ["", "partition-moving", "", "partition-moving", ""]
    assert world.forward.calls == [("http://other", 1, 2)]
    answers = await world.hook.score(events, Asked(is_forwarded=True))
    assert [code_of(answer) for answer in answers] == ["", "not-the-owner", "", "not-the-owner", ""]
    assert [answer.owner for answer in answers if isinstance(answer, Problem)] == ["http://other"] * 2
    assert len(world.forward.calls) == 1


async def test_a_partition_without_an_owner_leaves_the_others_alone(world: World) -> None:
    del world.places.places[0]
    answers = await world.hook.score([world.event(number, number % 2) for number in range(20, 24)], PLAIN)
    assert [code_of(answer) for answer in answers] == ["no-owner", "", "no-owner", ""]


async def test_without_a_model_or_a_version_for_its_time_an_event_has_a_problem(world: World) -> None:
    world.models = ChampionTimeline()
    (answer,) = await world.hook.score([world.event(20, 0)], PLAIN)
    assert code_of(answer) == "model-not-ready"
    world.models = ChampionTimeline([world.setting.version(1, START_MS + 60_000)])
    answers = await world.hook.score([world.event(20, 0), world.event(70, 0)], PLAIN)
    assert [code_of(answer) for answer in answers] == ["no-version", ""]


async def test_an_answer_from_a_partition_that_is_behind_says_that_it_is_stale(world: World) -> None:
    world.is_behind = True
    (answer,) = await world.hook.score([world.event(20, 0)], PLAIN)
    assert isinstance(answer, ScoreAnswer)
    assert answer.stale


async def test_an_id_twice_in_a_list_is_a_problem_of_the_list(world: World) -> None:
    with pytest.raises(ProblemFoundError, match="e20 is the id of two events") as error:
        await world.hook.score([world.event(20, 0), world.event(21, 0), world.event(20, 1)], PLAIN)
    assert error.value.problem.code == "duplicate-id"


async def test_an_event_of_another_pipeline_hears_which_fields_this_one_has(world: World) -> None:
    (answer,) = await world.hook.score([b'{"user": "u1", "clicked": true}'], PLAIN)
    assert isinstance(answer, Problem)
    assert answer.detail.endswith("Events of cards have the fields id, card, at, amount.")


@pytest.mark.parametrize("body", [b"", b"null", b"7", b'"x"', b"\xff", b"{", b"{" * 5000, b'{"id": "a", "card": ""}'])
async def test_what_is_no_event_is_refused(world: World, body: bytes) -> None:
    events, is_list = world.hook.split(body)
    (answer,) = await world.hook.score(events, PLAIN)
    assert (code_of(answer), is_list) == ("refused", False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[", "bad-request"),
        (b"[]", "bad-request"),
        (b"[1,", "bad-request"),
        (b"[" * 5000, "bad-request"),
        (json.dumps([{}] * (MOST_EVENTS + 1)).encode(), "too-large"),
    ],
)
def test_a_list_that_cannot_be_read_is_a_problem(world: World, body: bytes, code: str) -> None:
    with pytest.raises(ProblemFoundError) as error:
        world.hook.split(body)
    assert error.value.problem.code == code


def test_a_list_has_its_events_as_they_were_sent(world: World) -> None:
    events = [world.event(20, 0), b"  7", world.event(21, 1)]
    assert world.hook.split(b" [" + b" , ".join(events) + b"]") == ([event.strip() for event in events], True)


def test_each_problem_says_when_to_ask_again_exactly_if_that_can_help() -> None:
    assert {code for code, kind in PROBLEMS.items() if kind.retry_after_s is not None} == {
        code for code, kind in PROBLEMS.items() if kind.status == 503
    }


async def test_many_questions_are_answered_in_steps(world: World) -> None:
    desk = world.places.places[0]
    assert isinstance(desk, PreviewDesk)
    desk._size.adapt(50, 50 * ASKED_STEP_S / 60, ASKED_STEP_S)  # a step has 45 events, and one question has 50
    answers = await world.hook.score([world.event(number, 0) for number in range(20, 40)], PLAIN)
    assert [answer.event_id for answer in answers if isinstance(answer, ScoreAnswer)] == [
        f"e{n}" for n in range(20, 40)
    ]


async def test_candidates_are_ranked_by_what_they_would_score(world: World) -> None:
    event = {"card": "c1", "at": START_MS + 90_000, "amount": 0.0}
    amounts = [3.0, -8.0, 40.0, 3.0, 1.0]
    request = RankRequest(event, [{"amount": amount} for amount in amounts] + [{"amount": "x"}], 4)
    answer = await world.hook.rank(request, is_forwarded=False)
    assert isinstance(answer, RankAnswer)
    assert [ranked.candidate for ranked in answer.ranked] == [2, 0, 3, 4]
    assert {place: found.reason for place, found in answer.refused.items()} == {5: "wrong_type"}
    assert (answer.entity, answer.partition, answer.offset, answer.version) == ("c1", 1, 4, "1.0.0")
    for ranked in answer.ranked:
        alone = world.event(90, 1, amount=amounts[ranked.candidate])
        (said,) = await world.hook.score([alone], PLAIN)
        assert isinstance(said, ScoreAnswer)
        assert (ranked.score, ranked.decision) == (said.score, said.decision)


async def test_candidates_are_for_one_entity_and_asked_for_where_it_is(world: World) -> None:
    event = {"card": "c1", "at": START_MS + 90_000, "amount": 1.0}
    for request in (RankRequest({"amount": 1.0}, [{}]), RankRequest(event, [{}, {"card": "c2"}])):
        assert code_of(await world.hook.rank(request, is_forwarded=False)) == "refused"
    world.places.places[1] = Elsewhere("http://other")
    assert code_of(await world.hook.rank(RankRequest(event, [{}]), is_forwarded=False)) == "partition-moving"
    assert code_of(await world.hook.rank(RankRequest(event, [{}]), is_forwarded=True)) == "not-the-owner"
    assert world.forward.calls == [("http://other", 1, 1)]
    del world.places.places[1]
    assert code_of(await world.hook.rank(RankRequest(event, [{}]), is_forwarded=False)) == "no-owner"


async def test_an_id_that_is_the_entity_is_one_field(tmp_path: Path) -> None:
    setting = build(tmp_path)
    path = tmp_path / "one.toml"
    path.write_text(setting.pipeline.path.read_text().replace('id = "id"', 'id = "card"'))
    pipeline = load(path)
    world = World(Setting(pipeline, FeaturePlan.compile(pipeline, {}, {})))
    (answer,) = await world.hook.score([world.event(20, 1)], PLAIN)
    assert isinstance(answer, ScoreAnswer)
    assert (answer.event_id, answer.entity) == ("c1", "c1")
