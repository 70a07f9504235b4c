"""How versions stand does not depend on which of the two topics is read first, and champion is what a worker took."""

from __future__ import annotations

from itertools import permutations

import pytest
from msgspec.structs import replace

from models.versions.standing import Standings
from schemas.wire import ModelStatus, ModelUpdate


def update(version: str, at_ms: int, role: str = "champion", sha256: str = "a" * 64) -> ModelUpdate:
    return ModelUpdate("m", version, role, f"file:///{version}", sha256, "f", at_ms)  # type: ignore[arg-type]


def status(version: str, word: str, at_ms: int, worker: str = "w1", sha256: str = "a" * 64) -> ModelStatus:
    return ModelStatus(worker, "m", version, word, at_ms, f"{word} by {worker}", sha256=sha256)  # type: ignore[arg-type]


def stand(updates: list[ModelUpdate], statuses: list[ModelStatus], *, statuses_first: bool = False) -> Standings:
    standings = Standings()
    feeds = [lambda: [*map(standings.observe_update, updates)], lambda: [*map(standings.observe_status, statuses)]]
    for feed in reversed(feeds) if statuses_first else feeds:
        feed()
    return standings


def roles(standings: Standings) -> dict[str, str]:
    return {each.update.version: each.role for each in standings.all()}


def test_without_a_word_of_workers_the_newest_promotion_is_champion() -> None:
    standings = stand([update("1.0.0", 1), update("2.0.0", 2), update("3.0.0", 3, "shadow")], [])
    assert roles(standings) == {"1.0.0": "retired", "2.0.0": "champion", "3.0.0": "shadow"}
    retired = next(iter(standings.all()))
    assert (retired.why, retired.at_ms) == ("superseded by 2.0.0", 2)
    assert standings.refused() == {}


def test_what_every_worker_refused_is_no_champion_and_the_one_before_it_is_again() -> None:
    updates = [update("1.0.0", 1), update("2.0.0", 2)]
    said = [status("1.0.0", "loaded", 1), status("2.0.0", "refused", 5), status("2.0.0", "refused", 6, "w2")]
    for order in permutations(said):
        for first in (False, True):
            standings = stand(updates, list(order), statuses_first=first)
            assert roles(standings) == {"1.0.0": "champion", "2.0.0": "refused"}
            assert standings.refused() == {"2.0.0": "refused by w2"}
            assert {each.update.version: each.at_ms for each in standings.all()} == {"1.0.0": 6, "2.0.0": 6}


def test_one_worker_that_took_it_is_enough_and_so_is_one_that_takes_it_later() -> None:
    updates = [update("1.0.0", 1), update("2.0.0", 2)]
    refused = status("2.0.0", "refused", 5)
    assert roles(stand(updates, [refused, status("2.0.0", "loaded", 4, "w2")]))["2.0.0"] == "champion"
    standings = stand(updates, [refused, status("2.0.0", "loaded", 9)])
    assert roles(standings) == {"1.0.0": "retired", "2.0.0": "champion"}


def test_what_was_asked_before_does_not_change_what_is_said_after() -> None:
    updates = [update("1.0.0", 1), update("2.0.0", 2), update("2.0.0", 7), update("1.0.0", 8, "retired")]
    said = [status("2.0.0", "refused", 5), status("2.0.0", "loaded", 6, "w2")]
    for order in permutations([*updates, *said]):
        asked, seen = Standings(), Standings()
        for record in order:
            for standings in (asked, seen):
                standings.observe_update(record) if isinstance(record, ModelUpdate) else standings.observe_status(
                    record
                )
            asked.champion()
        assert (asked.champion(), asked.refused()) == (seen.champion(), seen.refused())


def test_a_refusal_is_of_one_artifact() -> None:
    """A forged announcement of other bytes spoils nothing for the right one."""
    updates = [update("1.0.0", 1), update("2.0.0", 2, sha256="f" * 64), update("2.0.0", 3)]
    standings = stand(updates, [status("2.0.0", "refused", 4, sha256="f" * 64)])
    assert roles(standings)["2.0.0"] == "champion"
    assert standings.champion() is updates[2]


def test_with_nothing_but_refused_versions_there_is_no_champion() -> None:
    standings = stand([update("1.0.0", 1)], [status("1.0.0", "refused", 2)])
    assert standings.champion() is None
    assert roles(standings) == {"1.0.0": "refused"}


def test_a_retired_version_stays_retired_whatever_workers_say() -> None:
    standings = stand([update("1.0.0", 1), update("1.0.0", 2, "retired")], [status("1.0.0", "refused", 3)])
    assert roles(standings) == {"1.0.0": "retired"}
    assert standings.refused() == {}


def test_what_was_rolled_back_is_no_champion_though_nobody_else_is() -> None:
    updates = [announce("1.0.0", 1), announce("2.0.0", 2), announce("1.0.0", 3, is_rollback=True)]
    standings = stand(updates, [status("1.0.0", "refused", 7)])
    assert standings.champion() is None
    assert told(standings) == {
        "2.0.0": ("retired", "rolled back to 1.0.0", "by 1.0.0", 3),
        "1.0.0": ("refused", "refused by w1", "by 1.0.0", 7),
    }
    standings = stand([*updates, announce("1.0.0", 4, "retired")], [])
    assert standings.champion() is None
    assert told(standings)["2.0.0"] == ("retired", "rolled back", "", 2)


def told(standings: Standings) -> dict[str, tuple[str, str, str, int]]:
    return {each.update.version: (each.role, each.why, each.by, each.at_ms) for each in standings.all()}


def announce(version: str, at_ms: int, role: str = "champion", **more: object) -> ModelUpdate:
    return replace(update(version, at_ms, role), why=f"why {version}", by=f"by {version}", **more)  # type: ignore[arg-type]


def test_each_version_stands_as_it_does_since_the_last_thing_that_made_it_so() -> None:
    updates = [announce("1.0.0", 1), announce("2.0.0", 5), announce("3.0.0", 6, "shadow")]
    shadow = {"3.0.0": ("shadow", "why 3.0.0", "by 3.0.0", 6)}
    loaded = [status("2.0.0", "loaded", 9)]
    for said, since_ms in (
        ([], 5),
        (loaded, 5),  # nobody had refused it
        ([status("2.0.0", "refused", 7, "w2"), *loaded], 9),
        ([status("2.0.0", "refused", 7), *loaded], 5),  # a compacted topic has only the last word of each worker
        ([status("1.0.0", "refused", 7), status("3.0.0", "refused", 8)], 7),
        ([status("2.0.0", "refused", 7, sha256="b" * 64), status("2.0.0", "loaded", 9, sha256="b" * 64)], 5),
    ):
        standings = told(stand(updates, said))
        assert standings["2.0.0"] == ("champion", "why 2.0.0", "by 2.0.0", since_ms)
        assert {version: standings[version] for version in shadow} == shadow
        if not any(each.version == "1.0.0" for each in said):
            assert standings["1.0.0"] == ("retired", "superseded by 2.0.0", "by 2.0.0", since_ms)


def test_a_roll_back_says_who_rolled_back_to_what() -> None:
    updates = [announce("1.0.0", 1), announce("2.0.0", 2), announce("1.0.0", 3, is_rollback=True)]
    assert told(stand(updates, [])) == {
        "2.0.0": ("retired", "rolled back to 1.0.0", "by 1.0.0", 3),
        "1.0.0": ("champion", "why 1.0.0", "by 1.0.0", 3),
    }
    assert list(told(stand(updates, []))) == ["2.0.0", "1.0.0"]  # as they were announced last
    # What is refused supersedes nothing.
    three = stand([announce("1.0.0", 0), announce("2.0.0", 0), announce("3.0.0", 0)], [status("3.0.0", "refused", 0)])
    assert told(three) == {
        "1.0.0": ("retired", "superseded by 2.0.0", "by 2.0.0", 0),
        "2.0.0": ("champion", "why 2.0.0", "by 2.0.0", 0),
        "3.0.0": ("refused", "refused by w1", "by 3.0.0", 0),
    }
    # Nothing is retired before it was announced, whatever the clocks of those who announce say.
    assert told(stand([announce("1.0.0", 12), announce("2.0.0", 10)], []))["1.0.0"][3] == 12


def test_a_refusal_without_a_digest_is_of_whatever_is_announced_and_one_without_a_version_of_nothing() -> None:
    updates = [announce("1.0.0", 1), announce("2.0.0", 10)]
    standings = stand(
        updates, [status("2.0.0", "refused", 4, sha256=""), replace(status("1.0.0", "refused", 9), version=None)]
    )
    assert told(standings) == {
        "1.0.0": ("champion", "why 1.0.0", "by 1.0.0", 4),
        "2.0.0": ("refused", "refused by w1", "by 2.0.0", 10),
    }
    assert standings.refused() == {"2.0.0": "refused by w1"}
    both = [status("2.0.0", "refused", 14, "w2", sha256=""), status("2.0.0", "refused", 13, "w3")]
    standings = stand(updates, both)
    assert told(standings)["2.0.0"] == ("refused", "refused by w2", "by 2.0.0", 14)
    assert standings.champion() == updates[0]
    assert stand(updates, [*both, status("2.0.0", "loaded", 3, "w4", sha256="")]).champion() == updates[1]


def test_how_long_it_takes_to_say_how_all_stand_grows_with_their_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can announce thousands, and the monitor says it again with each."""
    looks: list[str] = []
    look = Standings._refusal

    def count(self: Standings, of: ModelUpdate) -> str:
        looks.append(of.version)
        return look(self, of)

    monkeypatch.setattr(Standings, "_refusal", count)
    standings = stand([update(f"1.{number}.0", number) for number in range(500)], [])
    assert len(roles(standings)) == 500
    assert len(looks) < 5 * 500
    standings.refused()
    looks.clear()
    for _ in range(100):  # whoever opens a page asks for these
        standings.refused()
        standings.champion()
    assert not looks
