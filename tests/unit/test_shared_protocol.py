"""What workers tell each other of shared windows: what may be forgotten, and who may say so (docs/adr/0023)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from shared_logs import MINUTE_MS, START_MS, Logs, Setting, Window, bits, event, naive
from shared_machine import SharedMachine
from shared_search import Search
from shared_world import World

from app.core.intake.merge import BEGINNING_MS
from app.core.shared.answerer import Answerer
from app.core.shared.answers import ComingAnswers
from app.core.shared.board import SharedBoard
from app.core.shared.totals import Amounts, sum_amounts
from schemas.wire import AnswersRecord, KeyAnswers, RepartitionRecord

SUM = Window("events", ("shop",), 2, 1, 0, "sum", "amount")
#: How far behind an event its window reaches, as the product reckons.
REACH = 3
DIVIDED = Window("events", ("shop",), 2, 1, 0, "sum", "amount", is_divided=True)

TestWhateverHappens = SharedMachine.TestCase
TestWhateverHappens.settings = settings(max_examples=60, stateful_step_count=40)


def logs_of(*minutes: list[int]) -> Logs:
    """Events of one shop at these minutes, per partition; each has an amount that tells who is in a sum."""
    logs = Logs.empty(len(minutes))
    number = 0
    for partition, of in enumerate(minutes):
        for minute in of:
            logs.events[partition].append(event(f"e{number}", minute, "a", float(2**number)))
            number += 1
    return logs


def ms(minute: int) -> int:
    return START_MS + minute * MINUTE_MS


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting.of(tmp_path, [SUM], 2, with_labels=False)


@pytest.fixture
def divided(tmp_path: Path) -> Setting:
    return Setting.of(tmp_path, [DIVIDED], 2, with_labels=False)


@pytest.mark.slow
def test_no_order_of_reading_telling_scoring_committing_and_dying_makes_a_window_wrong(setting: Setting) -> None:
    search = Search(setting, logs_of([0, 1], [0, 6]), (0, 1), mortals=(0,))
    assert search.run()
    assert search.states > 5_000


@pytest.mark.slow
def test_no_order_makes_an_answer_wrong(divided: Setting) -> None:
    search = Search(divided, logs_of([0], [6]), (0, 1), mortals=(0,), most_states=3_000)
    search.run()
    assert search.states >= 3_000


# -- who may say what is forgotten -------------------------------------------------------------------------------------


def all_scored(setting: Setting, *minutes: list[int], owners: list[int]) -> World:
    """All that was read is scored, and nothing of it committed yet but what was added."""
    world = World(setting, logs_of(*minutes), owners)
    for partition in range(len(minutes)):
        world.read(partition, 99)
        world.commit(partition)
    for name in set(owners):
        world.hear(name)
    for partition in range(len(minutes)):
        while world.step(partition, 9):
            pass
    return world


def test_what_others_added_is_not_forgotten_for_events_that_will_be_read_again(setting: Setting) -> None:
    """A worker that dies has added what it had not scored; the next one must not say that it is scored."""
    logs = logs_of([0, 1, 9, 15], [0, 1, 9, 15])
    world = World(setting, logs, [0, 1])
    world.read(0, 3)
    world.step(0, 1)
    world.commit(0)
    world.read(1, 4)
    world.commit(1)
    world.crash(0, 0)
    world.commit(0)
    for _ in range(3):
        world.hear(1)
        while world.step(1, 1):
            pass
        world.commit(1)
    world.finish()
    assert bits(world.values()) == bits(naive(logs, setting.windows))


def test_what_is_scored_frees_tiles_when_it_is_committed_and_not_before(setting: Setting) -> None:
    world = all_scored(setting, [0, 9], [0, 9], owners=[0, 0])
    board = world.workers[0].board
    for partition in (0, 1):  # two transactions are under way, as when a partition is taken away amid a commit
        world.drain(partition)
        world.drain(partition)
    assert set(board.scored_ms.values()) == {BEGINNING_MS}
    assert not any(
        value is None for worker in world.workers.values() for t in worker.outbox[1] for _, value in t.shared
    )
    world.commit(0)
    world.commit(1)
    assert set(board.scored_ms.values()) == {ms(9)}


def test_what_was_said_of_scoring_never_goes_back_and_an_event_before_it_says_so(setting: Setting) -> None:
    """A silent partition lets the others forget; an event that comes after all is scored with what is left."""
    logs = logs_of([0], [0, 20])
    world = World(setting, logs, [0, 1])
    for partition in (0, 1):
        world.read(partition, 9)
        world.commit(partition)
    world.hear(0)
    while world.step(0, 9):
        pass
    assert world.idle(0) == ms(20)
    world.step(0, 9)  # it goes in its turn, after what is held
    world.commit(0)
    for minute in (5, 7, 30):
        logs.events[0].append(event(f"late{minute}", minute, "a", 1.0))
    world.read(0, 1)  # one that is late by itself; it is not committed
    assert [row.is_stale for row in world.step(0, 1)] == [True]
    world.crash(0, 0)
    world.hear(0)
    world.read(0, 3)  # together with one that is not, and waits
    assert [row.is_stale for row in world.step(0, 1)] == [True]
    world.commit(0)
    world.crash(0, 0)
    world.hear(0)
    assert world.owner(0).board.scored_ms[0] == ms(20)
    logs.events[1].append(event("next", 31, "a", 1.0))
    world.finish()
    assert {place for place, row in world.rows.items() if row.is_stale} == {(0, 2), (0, 4)}
    assert len(world.rows) == 7


def test_a_silent_partition_is_moved_to_the_others_time_less_the_delay(tmp_path: Path) -> None:
    delayed = Window("events", ("shop",), 4, 2, 3, "sum", "amount")
    further = Window("events", ("shop",), 4, 2, 7, "sum", "amount")
    setting = Setting.of(tmp_path, [further, delayed], 2, with_labels=False)
    world = World(setting, logs_of([0], [0, 20]), [0, 0])
    world.read(0, 9)
    world.read(1, 9)
    assert world.idle(0) == ms(20 - 3)
    assert world.idle(0) is None  # nobody waits for more


def test_there_is_news_as_soon_as_one_window_waits_for_the_next_tile(tmp_path: Path) -> None:
    """A window of minutes does not wait until one of half hours comes into another tile as well."""
    coarse = Window("events", ("town",), 60, 30, 0, "sum", "amount")
    setting = Setting.of(tmp_path, [SUM, coarse], 2, with_labels=False)
    world = World(setting, logs_of([1, 1, 2, 31], [0]), [0, 1])
    shared = world.flow(0).shared
    assert shared is not None
    news = []
    for _ in range(4):
        world.read(0, 1)
        news.append(shared.has_news)
        world.commit(0)
        assert not shared.has_news  # the others have been told
    assert news == [True, False, True, True]


# -- what a worker hears -----------------------------------------------------------------------------------------------


def amounts(value: int) -> Amounts:
    return Amounts(np.array([0]), np.array([[1], [value]]))


def test_nothing_adds_nothing_to_amounts() -> None:
    some = Amounts(np.array([2, 5]), np.array([[1, 2], [30, 40]]))
    for parts in ([some], [some, Amounts.none()], [Amounts.none(), some]):
        found = sum_amounts(parts)
        assert (found.codes.tolist(), found.values.tolist()) == (some.codes.tolist(), some.values.tolist())
        assert (found.codes.dtype, found.values.dtype) == (np.int64, np.int64)
    none = sum_amounts([])
    assert (none.codes.tolist(), none.values.tolist()) == ([], [[], []])


def test_a_window_that_held_a_forgotten_tile_begins_anew(setting: Setting) -> None:
    board = SharedBoard(setting.plan.shared, [0])
    (column,) = setting.plan.shared.columns
    code = np.array([board.indexes["shop",].add("a")])
    cursor, first = board.new_cursor(column), START_MS // MINUTE_MS
    for tile, value in ((0, 10), (8, 5)):
        board.add(0, first + tile, 0, amounts(value))
    assert cursor.read(code, np.array([ms(1)]))[1].tolist() == [10]
    board.score_to(0, ms(8))  # the partition was silent, and nothing was read meanwhile
    board.sweep()
    assert cursor.read(code, np.array([ms(2)]))[1].tolist() == [0]
    assert cursor.read(code, np.array([ms(9)]))[1].tolist() == [5]


@pytest.mark.parametrize("tile", [0, 1])
def test_a_late_contribution_counts_in_a_window_that_was_read_before(setting: Setting, tile: int) -> None:
    """To the newest tile of the window, and to its oldest."""
    board = SharedBoard(setting.plan.shared, [0])
    (column,) = setting.plan.shared.columns
    code = np.array([board.indexes["shop",].add("a")])
    cursor, first = board.new_cursor(column), START_MS // MINUTE_MS
    board.add(0, first + 1, 0, amounts(3))
    assert cursor.read(code, np.array([ms(2)]))[1].tolist() == [3]
    board.add(0, first + tile, 0, amounts(4))
    assert cursor.read(code, np.array([ms(2)]))[1].tolist() == [7]


def test_nobody_goes_by_a_partition_that_is_heard_anew_before_all_of_it_is_heard(setting: Setting) -> None:
    world = all_scored(setting, [0, 9], [0, 9], owners=[0, 1])
    board = world.workers[0].board
    assert board.low_ms == ms(9)
    board.hear_anew(1)
    assert (board.low_ms, board.high_ms, board.floor_ms) == (BEGINNING_MS, ms(9), BEGINNING_MS - REACH * MINUTE_MS)
    for _, key, value in world.topics.shared[1]:
        board.hear(1, key, value)
    assert board.low_ms == BEGINNING_MS
    board.caught_up(1)
    assert board.low_ms == ms(9)


def test_records_of_a_transaction_count_together(setting: Setting) -> None:
    """A tile that is told again, in other pieces, must never be seen with one of the former."""
    world = all_scored(setting, [0, 9], [0, 9], owners=[0, 1])
    board = SharedBoard(setting.plan.shared, [0, 1])
    *tiles, times = world.topics.shared[1]
    for _, key, value in tiles:
        board.hear(1, key, value)
    assert board.pieces(1) == {}
    board.hear(1, *times[1:])
    assert board.pieces(1) == {(0, START_MS // MINUTE_MS): {0}}


def test_nobody_goes_by_how_far_a_partition_had_come_with_other_features(tmp_path: Path) -> None:
    before = Setting.of(tmp_path, [SUM], 2, with_labels=False)
    after = Setting.of(tmp_path, [SUM, DIVIDED], 2, with_labels=False)
    world = all_scored(before, [0, 9], [0, 9], owners=[0, 1])
    board = SharedBoard(after.plan.shared, [0, 1])
    for _, key, value in world.topics.shared[1]:
        board.hear(1, key, value)
    assert board.added_ms[1] == board.scored_ms[1] == BEGINNING_MS


@pytest.mark.parametrize("window", [SUM, DIVIDED], ids=["all keys in each worker", "keys divided"])
def test_a_partition_whose_state_was_lost_adds_nothing_twice(tmp_path: Path, window: Window) -> None:
    logs = logs_of([0, 1, 2, 9], [0, 1, 2, 9])
    setting = Setting.of(tmp_path, [window], 2, with_labels=False)
    world = World(setting, logs, [0, 1])
    for partition in (0, 1):
        world.read(partition, 3)
        world.commit(partition)
    world.topics = world.topics.forget_state(0)
    world.crash(0, 0)
    world.finish()
    assert bits(world.values()) == bits(naive(logs, setting.windows))


# -- what is deleted ---------------------------------------------------------------------------------------------------


def test_the_question_of_the_first_event_that_is_not_scored_is_kept(divided: Setting) -> None:
    world = World(divided, logs_of([0, 1, 2], [0, 1, 2]), [0, 0])
    plan = divided.plan.shared.repartitioned()
    answerer = Answerer(plan, divided.pipeline.feature_set, [0], group=1)
    asker = world.flow(0).shared
    assert asker is not None
    assert asker.repartition is not None
    place = 0
    for count in range(3):
        world.read(0, 1)
        world.drain(0)
        for _, value in world.owner(0).outbox[0][-1].asked:
            record = msgspec.msgpack.decode(value, type=RepartitionRecord)
            if record.questions:
                # Offsets are 0, 2 and 4; the event of 2 is the next to be scored, and time has gone by far.
                said = msgspec.structs.replace(record, next_offset=2 if count == 2 else 0, scored_ms=ms(99))
                answerer.hear(place, msgspec.msgpack.encode(said))
                place += 1
    assert place == 3
    assert answerer.needed_place() == 1


def answer_to(offset: int, term: int = 7) -> bytes:
    offsets = np.array([offset], dtype="<i8").tobytes()
    nothing = np.zeros(2, dtype="<i8").tobytes()
    return msgspec.msgpack.encode(AnswersRecord("set", term, [KeyAnswers(0, offsets, nothing)]))


def test_answers_are_needed_until_the_events_that_they_are_for_are_committed(divided: Setting) -> None:
    answers = ComingAnswers(divided.plan.shared.repartitioned(), "set")
    for place in range(3):
        answers.hear(place, answer_to(place), 7)
    assert answers.position(2) == 2  # as a commit under way would have it
    assert answers.position(1) == 1  # as it stands if that fails
    answers.forget(2)
    assert answers.position(2) == 2
    assert answers.position(9) == 3


def test_an_owner_that_was_replaced_deletes_no_answer_that_is_for_its_successor(divided: Setting) -> None:
    answers = ComingAnswers(divided.plan.shared.repartitioned(), "set")
    answers.hear(0, answer_to(0), 7)
    answers.hear(1, answer_to(0, term=8), 7)
    answers.hear(2, answer_to(5), 7)
    assert answers.position(99) == 1
