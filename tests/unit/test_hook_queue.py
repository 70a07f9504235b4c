"""Order, retries and offsets of hooks, in the pure core: whatever fails and whenever it crashes, nothing is lost."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.hooks.delivery import Delivery
from app.core.hooks.ledger import Ledger
from app.core.hooks.marks import Mark
from app.core.hooks.queue import HookQueue
from app.core.hooks.rest import Rest
from app.core.hooks.schedule import Schedule
from schemas.wire import HookDelivery, Source

TOPIC = "shop.scores"
#: All times in a test are multiples of a second.
SCHEDULE = Schedule(soon_ms=(1_000, 2_000), patience_ms=10_000, later_ms=(5_000, 60_000, 600_000), jitter=0)


def delivery(offset: int, entity: str = "ann", now_ms: int = 0, partition: int = 0) -> Delivery:
    record = HookDelivery(
        "crm", Source(TOPIC, partition, offset), entity, "score.published", 0, msgspec.Raw(b"{}"), now_ms
    )
    return Delivery(record, now_ms)


class Bench:
    """A queue and the ledger of one partition."""

    def __init__(self, schedule: Schedule = SCHEDULE, most_waiting: int = 1_000) -> None:
        self.ledger = Ledger({TOPIC: 0}, {}, {TOPIC})
        self.queue = HookQueue(schedule, lambda _: self.ledger, most_waiting)
        self.end = 0

    def read(self, entity: str, now_ms: int = 0) -> int:
        offset = self.end
        self.queue.add(delivery(offset, entity, now_ms), now_ms)
        self.end += 1
        self.ledger.read_to(TOPIC, self.end)
        return offset

    def take(self, now_ms: int) -> int | None:
        taken = self.queue.take(now_ms)
        self.under_way = taken
        return taken.place[1] if taken is not None else None

    def fail(self, now_ms: int, asked_ms: int = 0) -> None:
        assert self.under_way is not None
        self.queue.failed(self.under_way, now_ms, "It is down.", asked_ms)

    def arrive(self, now_ms: int) -> None:
        assert self.under_way is not None
        self.queue.arrived(self.under_way, now_ms)


def test_an_entity_is_told_of_one_thing_at_a_time_and_others_meanwhile() -> None:
    bench = Bench()
    for entity in ("ann", "ann", "bob"):
        bench.read(entity)

    first, second = bench.queue.take(0), bench.queue.take(0)

    assert first is not None
    assert second is not None
    assert [first.place[1], second.place[1]] == [0, 2]
    assert bench.queue.take(0) is None
    bench.queue.arrived(first, 0)
    assert bench.take(0) == 1


def test_after_three_tries_a_record_is_parked_with_those_behind_it_and_its_offset_is_free() -> None:
    bench = Bench()
    for entity in ("ann", "bob", "ann"):
        bench.read(entity)
    tried_at = []
    for now_ms in range(0, 5_000, 500):
        while (offset := bench.take(now_ms)) is not None:
            if offset == 1:
                bench.arrive(now_ms)
            else:
                tried_at.append(now_ms)
                bench.fail(now_ms)

    changes = bench.ledger.drain()

    assert tried_at == [0, 1_000, 3_000]
    assert [record.source.offset for record in changes.parked] == [0, 2]
    assert changes.offsets[TOPIC][0] == 3
    assert changes.dead == []


def test_what_is_parked_is_tried_at_the_times_of_the_schedule_and_then_given_up() -> None:
    bench = Bench()
    bench.read("ann")
    tried_at = []
    for now_ms in range(0, 700_000, 1_000):
        if bench.take(now_ms) is not None:
            tried_at.append(now_ms)
            bench.fail(now_ms)
            bench.queue.rest.arrived()  # another entity's arrives: the destination does not rest

    changes = bench.ledger.drain()

    assert tried_at == [0, 1_000, 3_000, 8_000, 68_000, 668_000]
    assert [(record.source.offset, record.why) for record in changes.dead] == [(0, "It is down.")]
    assert changes.settled == [record.id for record in changes.parked]
    assert changes.offsets[TOPIC][0] == 1
    assert len(bench.queue) == 0


def test_who_waited_behind_what_was_given_up_is_tried_once_and_does_not_begin_anew() -> None:
    bench = Bench()
    bench.read("ann")
    bench.read("ann")
    tried_at: dict[int, list[int]] = defaultdict(list)
    for now_ms in range(0, 800_000, 1_000):
        while (offset := bench.take(now_ms)) is not None:
            tried_at[offset].append(now_ms)
            bench.fail(now_ms)
            bench.queue.rest.arrived()

    assert tried_at[0][-1] == 668_000
    assert tried_at[1] == [668_000]
    assert [record.source.offset for record in bench.ledger.drain().dead] == [0, 1]


def test_what_comes_behind_something_parked_is_parked_at_once_and_told_after_it() -> None:
    bench = Bench()
    bench.read("ann")
    for now_ms in (0, 1_000, 3_000):
        assert bench.take(now_ms) == 0
        bench.fail(now_ms)
    bench.read("ann", 4_000)

    assert [record.source.offset for record in bench.ledger.drain().parked] == [0, 1]
    assert bench.take(7_999) is None
    assert bench.take(8_000) == 0
    bench.arrive(8_000)
    assert bench.take(8_000) == 1
    bench.arrive(8_000)
    assert len(bench.queue) == 0


def test_no_more_waits_in_memory_than_may_and_the_rest_is_parked() -> None:
    bench = Bench(most_waiting=2)
    for number in range(5):
        bench.read(f"entity-{number}")

    assert [record.source.offset for record in bench.ledger.drain().parked] == [2, 3, 4]
    assert [bench.take(0) for _ in range(6)] == [0, 1, 2, 3, 4, None]


def test_what_has_waited_for_too_long_is_parked_whatever_it_waits_for() -> None:
    bench = Bench()
    bench.read("ann")
    bench.read("ann")
    assert bench.take(0) == 0  # and it hangs

    bench.queue.tidy(9_999)
    assert bench.ledger.drain().parked == []
    bench.queue.tidy(10_000)
    assert [record.source.offset for record in bench.ledger.drain().parked] == [1]
    bench.fail(15_000)
    changes = bench.ledger.drain()
    assert [record.source.offset for record in changes.parked] == [0]
    assert changes.offsets[TOPIC][0] == 2


@pytest.mark.parametrize(("asked_ms", "rests_ms"), [(0, 0), (20_000, 20_000), (10**12, 3_600_000), (-5, 0)])
def test_a_destination_is_left_alone_for_as_long_as_it_asks_within_bounds(asked_ms: int, rests_ms: int) -> None:
    bench = Bench()
    bench.read("ann")
    bench.read("bob")
    assert bench.take(0) == 0
    bench.fail(0, asked_ms)

    if rests_ms:
        assert bench.take(rests_ms - 1) is None
        assert bench.queue.due_ms() == rests_ms
    assert bench.take(rests_ms) == 1


def test_a_destination_that_fails_ten_times_in_a_row_is_tried_once_at_a_time_until_it_is_back() -> None:
    rest = Rest(1_000, 60_000)
    pauses = []
    now_ms = 0
    for _ in range(18):
        rest.failed(now_ms, 0)
        pauses.append(rest.until_ms - now_ms if rest.rests_at(now_ms) else 0)
        now_ms = max(now_ms, rest.until_ms)
    assert pauses == [*[0] * 9, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]

    bench = Bench()
    bench.queue.rest.failures = 10
    bench.read("ann")
    bench.read("bob")
    assert bench.take(0) == 0
    assert bench.queue.take(0) is None
    bench.arrive(0)
    assert bench.take(0) == 1


def test_what_fails_together_counts_as_one_failure_of_the_destination() -> None:
    rest = Rest(1_000, 60_000)
    for _ in range(16):
        rest.failed(0, 0)

    assert rest.until_ms == 1_000


def test_while_a_destination_fails_what_is_older_than_the_schedule_is_given_up_untried() -> None:
    bench = Bench(most_waiting=0)
    bench.read("ann")
    bench.queue.rest.failures = 10
    bench.queue.tidy(SCHEDULE.longest_ms("id"))
    assert bench.ledger.drain().dead == []

    bench.queue.tidy(SCHEDULE.longest_ms("id") + 1)

    assert [record.why for record in bench.ledger.drain().dead] == ["The destination takes nothing."]
    assert len(bench.queue) == 0


def test_a_disabled_hook_gives_up_what_waits_what_comes_and_what_is_under_way_when_it_fails() -> None:
    bench = Bench()
    bench.read("ann")
    bench.read("ann")
    bench.read("bob")
    assert bench.take(0) == 0
    bench.queue.disable("It is gone.", 1)
    bench.read("carl", 2)
    assert sorted(record.source.offset for record in bench.ledger.drain().dead) == [1, 2, 3]

    bench.fail(3)

    changes = bench.ledger.drain()
    assert [(record.source.offset, record.why) for record in changes.dead] == [(0, "It is gone.")]
    assert changes.offsets[TOPIC][0] == 4
    bench.queue.enable()
    bench.read("ann", 4)
    assert bench.take(4) == 4


def test_what_lands_after_its_partition_has_gone_changes_nothing() -> None:
    bench = Bench()
    bench.read("ann")
    assert bench.take(0) == 0
    bench.queue.drop(0)
    bench.arrive(1)

    assert len(bench.queue) == 0
    assert bench.queue.n_under_way == 0
    assert bench.queue.size_bytes == 0
    assert bench.ledger.drain().offsets[TOPIC][0] == 0


def test_what_is_read_again_after_a_crash_and_is_parked_already_is_not_told_twice() -> None:
    bench = Bench()
    parked = delivery(0)
    parked.is_parked = True
    bench.queue.restore([parked], 0)
    bench.read("ann")

    assert bench.take(0) == 0
    assert bench.queue.take(0) is None
    bench.arrive(0)
    changes = bench.ledger.drain()
    assert (changes.settled, changes.parked, changes.offsets[TOPIC][0]) == ([parked.id], [], 1)


def test_of_two_parked_records_of_one_id_the_later_counts_though_it_names_another_entity() -> None:
    bench = Bench()
    both = [delivery(0, "ann"), delivery(0, "bob")]
    for each in both:
        each.is_parked = True
        each.record.parked_at_ms = 1
    bench.queue.restore(both[:1], 0)
    bench.queue.restore([*both], 0)
    assert len(bench.queue) == 1
    taken = bench.queue.take(60_000)
    assert taken is not None
    assert taken.record.entity == "bob"
    bench.queue.arrived(taken, 60_000)
    assert (len(bench.queue), bench.queue.take(10**9)) == (0, None)


def test_what_is_read_again_goes_before_what_is_parked_and_younger() -> None:
    bench = Bench()
    parked = delivery(1)
    parked.is_parked = True
    bench.queue.restore([parked], 0)
    bench.read("ann")

    assert bench.take(0) == 0


def test_who_waited_behind_another_begins_with_the_shortest_pause() -> None:
    bench = Bench(most_waiting=0)
    bench.read("ann")
    bench.read("ann")
    assert bench.take(300_000) == 0
    bench.arrive(300_000)
    tried_at = []
    for now_ms in range(300_000, 372_000, 1_000):
        if bench.take(now_ms) is not None:
            tried_at.append(now_ms - 300_000)
            bench.fail(now_ms)

    assert tried_at == [0, 5_000, 65_000]


@pytest.mark.parametrize("name", ["a", "b", "shop/scores/0/1/crm"])
def test_jitter_only_lengthens_and_is_the_same_each_time(name: str) -> None:
    plain, jittered = Schedule(jitter=0), Schedule(jitter=0.1)

    first = jittered.later(name, 1, 0)

    assert first is not None
    assert 5_000 <= first <= 5_500
    assert first == jittered.later(name, 1, 0)
    assert plain.longest_ms(name) == 124_505_000  # 34.6 hours


@given(st.integers(0, 2**40), st.dictionaries(st.text(max_size=9), st.frozensets(st.integers(0, 5_000)), max_size=4))
def test_a_mark_comes_back_or_settles_less(position: int, ahead: dict[str, frozenset[int]]) -> None:
    found = {hook: frozenset(position + each for each in offsets) for hook, offsets in ahead.items()}
    mark = Mark(position + 6_000, position + 5_500, found)

    text = mark.encode(position)
    again = Mark.decode(text, position)

    assert len(text) <= 3_500
    assert again.read_to == mark.read_to
    assert again.end == mark.end or max(map(len, ahead.values())) > 300
    for hook in ahead:
        for offset in range(position, again.end):
            assert again.settles(hook, offset) == mark.settles(hook, offset)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "eJw=", "no base64!", "é"])
def test_a_mark_of_a_stranger_settles_nothing(text: str) -> None:
    assert Mark.decode(text, 7) == Mark()


def test_too_many_open_offsets_shorten_a_mark_and_never_what_was_copied() -> None:
    found = frozenset(random.Random(1).sample(range(400_000), 10_000))  # noqa: S311  # offsets
    mark = Mark.decode(Mark(400_000, 400_000, {"crm": found}).encode(0), 0)

    assert mark.read_to == 400_000
    assert 0 < mark.end < 400_000
    assert not any(mark.settles("crm", offset) for offset in found)


def test_what_was_copied_to_kafka_is_not_copied_again_though_another_hook_holds_the_offset_back() -> None:
    ledger = Ledger({TOPIC: 0}, {}, {TOPIC})
    ledger.add(delivery(0))  # of a hook that hangs
    ledger.copy(delivery(1))
    ledger.read_to(TOPIC, 2)
    position, mark = ledger.drain().offsets[TOPIC]
    assert position == 0

    after = Ledger({TOPIC: position}, {TOPIC: Mark.decode(mark.encode(position), position)}, {TOPIC})
    after.copy(delivery(1))
    after.copy(delivery(2))

    assert [each.place[1] for each in after.drain().copies] == [2]


def test_what_was_settled_behind_an_offset_that_waits_is_not_told_again_even_over_two_crashes() -> None:
    bench = Bench()
    for entity in ("ann", "bob", "carl"):
        bench.read(entity)
    assert bench.take(0) == 0  # and it hangs
    assert bench.take(0) == 1
    bench.arrive(0)
    assert bench.take(0) == 2
    bench.arrive(0)
    position, mark = bench.ledger.drain().offsets[TOPIC]

    for _ in range(2):
        ledger = Ledger({TOPIC: position}, {TOPIC: Mark.decode(mark.encode(position), position)}, {TOPIC})
        queue = HookQueue(SCHEDULE, lambda _, ledger=ledger: ledger)  # type: ignore[misc]  # bound now
        queue.add(delivery(0, "ann"), 0)
        ledger.read_to(TOPIC, 1)
        position, mark = ledger.drain().offsets[TOPIC]
        queue.add(delivery(1, "bob"), 0)
        queue.add(delivery(2, "carl"), 0)
        assert len(queue) == 1
    assert position == 0


def test_what_a_former_owner_had_read_must_be_read_again_before_anything_is_told() -> None:
    """It may have parked what is younger than what it still had to tell."""
    bench = Bench(most_waiting=1)
    bench.read("ann")
    bench.read("ann")  # parked, with the one before it in memory
    changes = bench.ledger.drain()
    position, mark = changes.offsets[TOPIC]
    assert [record.source.offset for record in changes.parked] == [1]

    ledger = Ledger({TOPIC: position}, {TOPIC: Mark.decode(mark.encode(position), position)}, {TOPIC})

    ledger.read_to(TOPIC, 1)
    assert not ledger.has_caught_up
    ledger.read_to(TOPIC, 2)
    assert ledger.has_caught_up


class Kafka:
    """What survives a crash: what is committed, parked and dead."""

    def __init__(self) -> None:
        self.committed = 0
        self.metadata = ""
        self.retry: dict[str, HookDelivery] = {}
        self.dead: dict[str, HookDelivery] = {}

    def commit(self, ledger: Ledger) -> None:
        changes = ledger.drain()
        self.retry |= {record.id: record for record in changes.parked}
        for name in changes.settled:
            del self.retry[name]
        self.dead |= {record.id: record for record in changes.dead}
        if TOPIC in changes.offsets:
            self.committed, mark = changes.offsets[TOPIC]
            self.metadata = mark.encode(self.committed)

    def mark(self) -> Mark:
        return Mark.decode(self.metadata, self.committed)

    def parked(self) -> list[HookDelivery]:
        """What a new owner reads."""
        return msgspec.json.decode(msgspec.json.encode(list(self.retry.values())), type=list[HookDelivery])


LAW = Schedule(soon_ms=(1_000, 2_000), patience_ms=4_000, later_ms=(2_000, 8_000), jitter=0.1)


class Sending(RuleBasedStateMachine):
    """Whatever fails and whenever it crashes: each record is told or dead, in order, and twice only over a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.kafka = Kafka()
        self.now_ms = 0
        self.told: list[int] = []
        #: How many were told before each crash.
        self.crashes = [0]
        self.begin()

    def begin(self) -> None:
        self.under_way: list[Delivery] = []
        self.ledger = Ledger({TOPIC: self.kafka.committed}, {TOPIC: self.kafka.mark()}, {TOPIC})
        self.queue = HookQueue(LAW, lambda _: self.ledger, most_waiting=1)
        parked = [Delivery(record, self.now_ms, is_parked=True) for record in self.kafka.parked()]
        self.queue.restore(parked, self.now_ms)
        self.position = self.kafka.committed

    def hear(self) -> None:
        """Read the next record, if there is one."""
        if self.position < len(self.log):
            self.queue.add(delivery(self.position, self.log[self.position], self.now_ms), self.now_ms)
            self.position += 1
            self.ledger.read_to(TOPIC, self.position)

    @rule(entity=st.sampled_from(["ann", "bob", "carl"]))
    def write(self, entity: str) -> None:
        self.log.append(entity)

    @rule(n=st.integers(1, 4))
    def read(self, n: int) -> None:
        for _ in range(n):
            self.hear()

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.now_ms += seconds * 1_000

    @precondition(lambda self: self.ledger.has_caught_up)
    @rule()
    def take(self) -> None:
        taken = self.queue.take(self.now_ms)
        if taken is not None:
            assert all(each.record.entity != taken.record.entity for each in self.under_way)
            self.under_way.append(taken)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 9))
    def arrive(self, which: int) -> None:
        landed = self.under_way.pop(which % len(self.under_way))
        self.told.append(landed.place[1])
        self.queue.arrived(landed, self.now_ms)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 9))
    def fail(self, which: int) -> None:
        self.queue.failed(self.under_way.pop(which % len(self.under_way)), self.now_ms, "It is down.")

    @rule()
    def tidy(self) -> None:
        self.queue.tidy(self.now_ms)

    @rule()
    def commit(self) -> None:
        self.kafka.commit(self.ledger)

    @rule()
    def crash(self) -> None:
        self.crashes.append(len(self.told))
        self.begin()

    @invariant()
    def nothing_is_lost(self) -> None:
        """What would be found after a crash now, with what was told or is dead, is everything."""
        kafka = self.kafka
        kept = {record.source.offset for record in (*kafka.retry.values(), *kafka.dead.values())}
        mark = kafka.mark()
        again = {at for at in range(kafka.committed, len(self.log)) if not mark.settles("crm", at)}
        assert kept | set(self.told) | again == set(range(len(self.log)))

    def teardown(self) -> None:
        """At last the destination takes everything."""
        while self.position < len(self.log):
            self.hear()
        while self.under_way:
            self.arrive(0)
        for _ in range(len(self.log) + 2):
            while (taken := self.queue.take(self.now_ms)) is not None:
                self.told.append(taken.place[1])
                self.queue.arrived(taken, self.now_ms)
            self.now_ms += 20_000
        self.commit()
        dead = {record.source.offset for record in self.kafka.dead.values()}
        assert set(self.told) | dead == set(range(len(self.log)))
        assert self.kafka.committed == len(self.log)
        assert self.kafka.retry == {}
        queue = self.queue
        assert (len(queue), queue.n_under_way, queue.size_bytes, queue.n_parked) == (0, 0, 0, 0)
        for start, stop in pairwise([*self.crashes, len(self.told)]):
            for entity in set(self.log):
                own = [offset for offset in self.told[start:stop] if self.log[offset] == entity]
                assert own == sorted(set(own)), "out of order, or told twice without a crash"


TestSending = Sending.TestCase
TestSending.settings = settings(max_examples=200, stateful_step_count=60)
