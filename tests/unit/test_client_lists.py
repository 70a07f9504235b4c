"""A list that is cut, asked in parts and put together again, by workers that fail as they like."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest
from client_servers import answer_to, event
from hypothesis import given
from hypothesis import strategies as st

from schemas.serving import Problem, ScoreAnswer, ScoreResult, ScoreResults, problem
from streamgauge import course, events
from streamgauge.client import Client
from streamgauge.course import Reply, Silence

MOST_EVENTS, MOST_BYTES = 5, 400
#: A 503 of a later release: it may be asked again at once.
LATER = Problem("urn:streamgauge:problem:later", "Later", 503, "later", "Not now.")


class MemoryWorkers:
    """Workers that are asked without HTTP.

    Parameters
    ----------
    later
        How often an event is told to come again before it is scored, by its number.
    refused
        Numbers of events that are refused.
    silences
        For each request in turn, whether nothing comes back.
    """

    def __init__(self, later: dict[int, int], refused: set[int], silences: list[bool]) -> None:
        self.later = Counter(later)
        self.refused = refused
        self.silences = silences
        self.answered: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def ask(self, url: str, body: bytes, limit_s: float) -> Reply | Silence:
        assert url.startswith("http://")
        assert limit_s > 0
        assert len(body) <= MOST_BYTES
        asked = json.loads(body)
        if self.silences and self.silences.pop():
            return Silence("it is silent")
        owners = '{"0": "http://a", "1": "http://b", "2": "http://c"}'
        if isinstance(asked, list):
            assert 2 <= len(asked) <= MOST_EVENTS
            answers = map(self._answer, asked)
            results = [ScoreResult(of) if isinstance(of, ScoreAnswer) else ScoreResult(problem=of) for of in answers]
            return Reply(200, msgspec.json.encode(ScoreResults(results)), partitions=owners)
        answer = self._answer(asked)
        status = answer.status if isinstance(answer, Problem) else 200
        return Reply(status, msgspec.json.encode(answer), partitions=owners)

    def close(self) -> None:
        pass

    def _answer(self, asked: dict[str, str]) -> ScoreAnswer | Problem:
        number = int(asked["id"][1:])
        if self.later[number] > 0:
            self.later[number] -= 1
            return LATER
        if number in self.refused:
            self.refusals[asked["id"]] += 1
            return problem("refused", "No.", event_id=asked["id"])
        self.answered[asked["id"]] += 1
        return answer_to(asked)


@given(
    cards=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=40),
    later=st.dictionaries(st.integers(0, 39), st.integers(0, 3)),
    refused=st.sets(st.integers(0, 39)),
    silences=st.lists(st.booleans(), max_size=12),
    entity=st.sampled_from([None, "card"]),
)
def test_each_event_has_its_own_answer_in_order_and_is_scored_once(
    cards: list[tuple[int, int]], later: dict[int, int], refused: set[int], silences: list[bool], entity: str | None
) -> None:
    asked = [event(number, f"c{card}") | {"note": "x" * size} for number, (card, size) in enumerate(cards)]
    workers = MemoryWorkers(later, refused, silences)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in [
            (course, "_FIRST_PAUSE_S", 0.0),
            (course, "_MOST_PAUSE_S", 0.0),
            (events, "MOST_EVENTS", MOST_EVENTS),
            (events, "MOST_BODY_BYTES", MOST_BYTES),
        ]:
            patch.setattr(module, name, value)
        client = Client("http://a", "http://b", entity=entity, timeout_s=60)
        client._connections = workers  # type: ignore[assignment]
        first = client.score_many(asked)
        again = client.score_many(asked)  # with what the first has taught about owners
    expected = [
        problem("refused", "No.", event_id=each["id"]) if number in refused else answer_to(each)
        for number, each in enumerate(asked)
    ]
    assert first == expected
    assert again == expected
    assert workers.answered == {each["id"]: 2 for number, each in enumerate(asked) if number not in refused}
    assert workers.refusals == {each["id"]: 2 for number, each in enumerate(asked) if number in refused}


@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from(["", "a", "b"])), min_size=1, max_size=60))
def test_parts_hold_each_place_once_and_no_more_than_a_request_may(sizes: list[tuple[int, str]]) -> None:
    cut_from = [events.Encoded(b"x" * size, owner.encode()) for size, owner in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "MOST_EVENTS", MOST_EVENTS)
        patch.setattr(events, "MOST_BODY_BYTES", MOST_BYTES)
        parts = list(events.cut(cut_from, lambda entity: (entity or b"").decode()))
    assert sorted(place for part in parts for place in part) == list(range(len(sizes)))
    for part in parts:
        assert part == sorted(part)
        assert len({sizes[place][1] for place in part}) == 1
        assert len(part) <= MOST_EVENTS
        assert len(events.join([cut_from[place] for place in part])) <= MOST_BYTES
