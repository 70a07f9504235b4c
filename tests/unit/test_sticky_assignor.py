from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.adapters.kafka.sticky_assignor import share

PARTITIONS = st.integers(1, 40).map(range)
MEMBERS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2), st.lists(st.integers(0, 39), unique=True), min_size=1
)


@given(PARTITIONS, MEMBERS)
def test_each_partition_goes_to_one_member_and_shares_differ_by_one_at_the_most(
    partitions: range, owned: dict[str, list[int]]
) -> None:
    shares = share(partitions, owned)
    assert shares.keys() == owned.keys()
    assert sorted(partition for mine in shares.values() for partition in mine) == list(partitions)
    sizes = [len(mine) for mine in shares.values()]
    assert max(sizes) - min(sizes) <= 1


@given(PARTITIONS, MEMBERS)
def test_a_fair_share_stays_as_it_is(partitions: range, owned: dict[str, list[int]]) -> None:
    shares = share(partitions, owned)
    assert share(partitions, shares) == shares


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_member_that_joins_is_given_its_share_and_nothing_else_moves(count: int, members: int) -> None:
    before = share(range(count), {f"m{number}": [] for number in range(members)})
    after = share(range(count), before | {"new": []})
    moved = sum(len(set(mine) - set(after[member])) for member, mine in before.items())
    assert moved == len(after["new"])
    assert all(set(after[member]) <= set(mine) for member, mine in before.items())


@given(st.integers(1, 40), st.integers(2, 8))
def test_a_member_that_leaves_has_its_partitions_spread_and_nothing_else_moves(count: int, members: int) -> None:
    before = share(range(count), {f"m{number}": [] for number in range(members)})
    gone = before.pop("m0")
    after = share(range(count), before)
    for member, mine in before.items():
        assert set(after[member]) - set(mine) <= set(gone)


def test_partition_k_of_every_topic_goes_to_the_same_member_by_hand() -> None:
    assert share(range(4), {"b": [1, 2, 3], "a": []}) == {"a": [0, 3], "b": [1, 2]}
    # Both claim 0 (one of them was away): the first by name keeps it.
    assert share(range(2), {"a": [0], "b": [0, 1]}) == {"a": [0], "b": [1]}
