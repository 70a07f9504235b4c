"""The first partial window of a certain fault is enough to say so, and since when."""

from __future__ import annotations

import numpy as np
import pytest
from faulty_fields import DAY_MS, ORDINARY, START_MS, Change, Fields, constant, judge, missing, swap, times, unlisted

from app.core.counts.calendar import Calendar, Window
from app.core.counts.parts import WindowParts
from app.core.counts.sketches import ALL, pack
from app.core.faults.fault import Fault, FaultKind
from app.core.faults.since import Course, Part, find_since
from models.reference.reference import Counts

DIRECT = ("amount", "weight", "temp", "shop")
FUNCTIONS = ("log_amount", "log_weight", "level", "is_food", "is_large")
WINDOWS = ("amount_mean", "weight_mean", "amount_sum", "shop", "temp")
NOON, SIX, NINE = ("1970-01-22 12:00", "1970-01-22 18:00", "1970-01-22 21:00")

CHANGES: dict[str, tuple[Change, str]] = {
    "unit": (times("amount", 100), "`amount` looks as if in another unit: its values are about 100 times"),
    "swap": (swap("amount", "weight"), "`amount` and `weight` have changed places"),
    "constant": (constant("amount", 20.0), "`amount`"),
    "nulls": (missing("weight", 1.0), "`weight`"),
}


# -- through the monitor -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS, WINDOWS])
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize(("share", "since"), [(0.5, NOON), (0.35, SIX), (0.2, NINE)])
def test_a_fault_that_begins_within_a_window_is_named_with_the_first_part_that_is_all_of_it(
    names: tuple[str, ...], kind: str, share: float, since: str
) -> None:
    """Eight parts of three hours each; what begins within one is a mixture there."""
    change, words = CHANGES[kind]
    verdict = judge(names, 1, change, share=share)
    assert verdict.kind == "pipeline_fault"
    assert verdict.headline.startswith(f"Since about {since} UTC: {words}")


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS])
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize(
    ("share", "mended", "when"),
    [
        (1.0, 0.5, f"Until about {NOON} UTC"),
        (1.0, 0.25, f"Until about {SIX} UTC"),
        (1.0, 0.125, f"Until about {NINE} UTC"),
    ],
)
def test_a_fault_that_ends_within_a_window_is_named_with_the_last_part_that_is_all_of_it(
    names: tuple[str, ...], kind: str, share: float, mended: float, when: str
) -> None:
    change, words = CHANGES[kind]
    verdict = judge(names, 1, change, share=share, mended=mended)
    assert verdict.kind == "pipeline_fault"
    assert verdict.headline.startswith(f"{when}: {words}")


@pytest.mark.slow
@pytest.mark.parametrize("names", [DIRECT, FUNCTIONS])
def test_a_unit_that_changes_and_is_mended_within_a_window_is_named_with_both_times(names: tuple[str, ...]) -> None:
    verdict = judge(names, 1, times("amount", 100), share=0.5, mended=0.125)
    said = "`amount` looks as if in another unit: its values are about 100 times those of training"
    assert verdict.kind == "pipeline_fault"
    assert verdict.headline.startswith(f"From about {NOON} to {NINE} UTC: {said}")


def in_some(field: str, share: float, factor: float) -> Change:
    def change(fields: Fields, rng: np.random.Generator) -> Fields:
        values = fields[field]
        return {**fields, field: np.where(rng.random(values.shape) < share, values * factor, values)}

    return change


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_unit_in_a_share_of_the_events_is_said_with_the_share_of_the_time_when_it_was(seed: int) -> None:
    change = in_some("amount", 0.6, 1 / 100)
    for share, mended, when in (
        (0.5, 0.0, f"Since about {NOON} UTC: "),
        (1.0, 0.5, f"Until about {NOON} UTC: "),
        (1.0, 0.0, ""),
    ):
        verdict = judge(("log_amount", "shop"), seed, change, share=share, mended=mended)
        assert verdict.kind == "pipeline_fault"
        start, _, rest = verdict.headline.partition("`amount` looks as if in another unit in ")
        assert start == when
        percent, _, rest = rest.partition(" % of the payments: ")
        assert float(percent) == pytest.approx(60, abs=3)
        assert rest.startswith("1/100 of what it was")


def test_new_values_since_noon_are_said_to_be_in_all_events_since_then() -> None:
    said = judge(DIRECT, 1, unlisted("shop", 1.0), share=0.5).headline
    assert said.startswith(f"Since about {NOON} UTC: `shop` has values in all payments that are none of the model's")


def test_what_was_so_all_day_has_no_since() -> None:
    for change in (missing("amount", 0.3), unlisted("shop", 0.2), times("amount", 100), constant("weight", 1.5)):
        verdict = judge(DIRECT, 2, change)
        assert verdict.kind == "pipeline_fault"
        assert "Since" not in verdict.headline


@pytest.mark.slow
@pytest.mark.parametrize("usual", ORDINARY)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_what_is_usual_is_no_fault_when_it_begins_at_noon_either(usual: str, share: float) -> None:
    for names in (DIRECT, FUNCTIONS):
        assert judge(names, 3, ORDINARY[usual], share=share).kind in {"none", "feature_drift"}


def at_night(fields: Fields, rng: np.random.Generator) -> Fields:
    """In the evening shops that sell one thing are open, and nothing is weighed."""
    return {**fields, "shop": np.zeros_like(fields["shop"]), "weight": np.full_like(fields["weight"], 1.0)}


def test_what_each_evening_is_like_begins_nothing() -> None:
    assert judge(DIRECT, 4, at_night, share=0.125).headline.startswith(f"Since about {NINE}")
    assert "Since" not in judge(DIRECT, 4, at_night, share=0.125, is_usual=True).headline


@pytest.mark.slow
@pytest.mark.parametrize("restarts_at", [0, 5, 8, 12, 15])
def test_since_when_is_known_after_a_restart(restarts_at: int) -> None:
    change, _ = CHANGES["unit"]
    straight = judge(DIRECT, 5, change, share=0.5)
    assert judge(DIRECT, 5, change, share=0.5, restarts_at=restarts_at) == straight


def test_the_window_before_is_known_though_no_closed_window_is_kept() -> None:
    change, _ = CHANGES["unit"]
    assert judge(DIRECT, 5, change, share=0.5, keep=0) == judge(DIRECT, 5, change, share=0.5)


# -- by hand -----------------------------------------------------------------------------------------------------------


def part(start_ms: int, n: int, level: int = 0) -> Part:
    """``level``: what is wrong in it, told by the number of labels."""
    counts = Counts.zeros(3, 2, 1)
    counts.n, counts.n_correct = n, level * n
    counts.counts[0] = n * (100 - level), n * level
    return Part(start_ms, counts)


def find(counts: Counts) -> list[Fault]:
    """A fault as strong as the mean level of all events in percent."""
    strength = counts.n_correct / max(counts.n, 1) / 100
    return [fault("missing_values", strength)] if strength >= 0.05 else []


def fault(kind: FaultKind, strength: float, metric: str = "x") -> Fault:
    return Fault(kind, (metric,), f"`{metric}` is odd.", strength, fields=(metric,))


def since(levels: list[int], whole: list[Fault], before: list[int] | None = None, n: int = 1_000) -> list[Fault]:
    course = Course(
        [part(at * DAY_MS // 8, n, level) for at, level in enumerate(levels)],
        [part(at * DAY_MS // 8 - DAY_MS, n, level) for at, level in enumerate(before or [0] * 8)],
        DAY_MS,
    )
    return list(find_since(course, [0], whole, find))


def test_the_longest_stretch_that_is_as_clear_as_any_says_since_when() -> None:
    (dated,) = since([0, 0, 0, 50, 99, 100, 100, 100], [])
    assert dated.sentence == "Since about 1970-01-01 12:00 UTC: `x` is odd."
    assert dated.strength == pytest.approx(0.9975 / 2)
    (dated,) = since([0, 0, 0, 0, 0, 0, 0, 100], [])
    assert dated.sentence.startswith("Since about 1970-01-01 21:00")
    assert since([0] * 8, []) == []
    assert since([100], []) == []


def test_the_longest_beginning_or_middle_that_is_as_clear_as_any_says_until_when() -> None:
    (dated,) = since([100, 100, 100, 50, 0, 0, 0, 0], [fault("missing_values", 3.5 / 8)])
    assert dated.sentence == "Until about 1970-01-01 09:00 UTC: `x` is odd."
    assert dated.strength == pytest.approx(3.5 / 8)  # that of all events
    (dated,) = since([0, 0, 100, 100, 100, 0, 0, 0], [fault("missing_values", 3 / 8)])
    assert dated.sentence == "From about 1970-01-01 06:00 to 1970-01-01 15:00 UTC: `x` is odd."
    assert dated.strength == pytest.approx(3 / 8)


def test_of_what_only_shows_unmixed_the_beginning_and_the_end_of_a_window_are_looked_at() -> None:
    def find_pure(counts: Counts) -> list[Fault]:
        return [each for each in find(counts) if each.strength > 0.9]

    for levels, said in (
        ([100, 100, 100, 50, 0, 0, 0, 0], ["Until about 1970-01-01 09:00 UTC: `x` is odd."]),
        ([0, 0, 0, 50, 100, 100, 100, 100], ["Since about 1970-01-01 12:00 UTC: `x` is odd."]),
        ([0, 0, 100, 100, 100, 0, 0, 0], []),
    ):
        course = Course([part(at * DAY_MS // 8, 1_000, level) for at, level in enumerate(levels)], [], DAY_MS)
        assert [each.sentence for each in find_since(course, [0], [], find_pure)] == said


def test_a_fault_that_has_lasted_since_the_window_before_ends_all_the_same() -> None:
    before = [0, 0, 100, 100, 100, 100, 100, 100]
    (dated,) = since([100, 100, 100, 0, 0, 0, 0, 0], [fault("missing_values", 3 / 8)], before=before)
    assert dated.sentence.startswith("Until about 1970-01-01 09:00 UTC")


def test_a_share_of_the_events_that_varies_by_chance_begins_nothing() -> None:
    levels = [60, 62, 58, 61, 30, 57, 63, 60]
    assert [each.sentence for each in since(levels, [fault("missing_values", 0.56)], n=250)] == ["`x` is odd."]


def test_where_the_end_is_like_the_beginning_nothing_is_looked_for() -> None:
    assert since([30, 0, 0, 0, 30, 30, 30, 54], []) == []
    assert len(since([30, 0, 0, 0, 30, 30, 30, 56], [])) == 1


def test_a_stretch_of_fewer_than_two_hundred_events_is_not_looked_at() -> None:
    for n, time in ((199, "18:00"), (200, "21:00")):
        (dated,) = since([0] * 7 + [100], [], n=n)
        assert dated.sentence.startswith(f"Since about 1970-01-01 {time} UTC")


def test_what_the_whole_window_says_stays_unless_a_part_says_it_more_clearly_or_surely() -> None:
    levels = [0, 0, 0, 0, 100, 100, 100, 100]
    other = fault("missing_values", 0.5, "y")
    missing_in_half, missing_in_all = fault("missing_values", 0.5), fault("missing_values", 0.95)
    guess, certain = fault("stand_in_value", 0.5), fault("constant", 0.7)
    traffic = Fault("traffic_missing", (), "Few.", 0.9)

    def kinds(whole: list[Fault]) -> list[tuple[str, bool]]:
        return [(each.kind, each.sentence.startswith("Since")) for each in since(levels, whole)]

    assert kinds([missing_in_half]) == [("missing_values", True)]
    assert kinds([missing_in_all]) == [("missing_values", False)]
    assert kinds([guess]) == [("missing_values", True)]
    assert kinds([certain]) == [("constant", False), ("missing_values", True)]
    assert kinds([other]) == [("missing_values", False), ("missing_values", True)]
    assert kinds([traffic]) == [("traffic_missing", False), ("missing_values", True)]


def test_what_was_in_the_same_stretch_of_the_window_before_begins_nothing() -> None:
    levels = [0, 0, 0, 0, 0, 0, 100, 100]
    assert since(levels, [], before=levels) == []
    assert len(since(levels, [], before=[100, 100, 0, 0, 0, 0, 0, 0])) == 1


def test_parts_are_eighths_of_whole_slices_and_add_up_to_their_window() -> None:
    for slices, starts in ((8, range(0, 80, 10)), (4, range(0, 40, 10)), (20, (0, 30, 50, 80, 100, 130, 150, 180))):
        parts = WindowParts(Calendar(slices * 10), 10)
        for number in range(2 * slices):
            counts = part(0, 7, 1).counts
            parts.add(pack("m", "1", ALL, number * 10, counts))
            parts.add(pack("m", "1", "shop=a", number * 10, counts))
            parts.add(pack("m", "2", ALL, number * 10, part(0, 1).counts))
        window = Window(0, slices * 10)
        in_parts = parts.of(window, "1")
        assert [start_ms for start_ms, _ in in_parts] == list(starts)
        assert sum(sketch.n for _, sketch in in_parts) == 7 * slices
        assert parts.numbers(window) == {"1": 7 * slices, "2": slices}
        parts.prune(slices * 10)
        assert parts.of(window, "1") == []
        assert parts.numbers(Window(slices * 10, 2 * slices * 10)) == {"1": 7 * slices, "2": slices}
        again = WindowParts(Calendar(slices * 10), 10)
        assert again.take_deltas([*parts.to_deltas(), pack("m", "3", ALL, 0, part(0, 9).counts)])[0].version == "3"
        assert list(again.to_deltas()) == list(parts.to_deltas())


def test_of_windows_that_overlap_the_parts_lie_between_their_ends() -> None:
    parts = WindowParts(Calendar(30, 10), 5)
    for start_ms in range(0, 60, 5):
        parts.add(pack("m", "1", ALL, start_ms, part(0, 2).counts))
    assert [(start_ms, sketch.n) for start_ms, sketch in parts.of(Window(10, 40), "1")] == [(10, 4), (20, 4), (30, 4)]
    assert not list(WindowParts(Calendar(30), None).to_deltas())


def test_the_window_before_is_as_long_and_ends_where_one_begins() -> None:
    assert Calendar(30, 10).preceding(Window(50, 80)) == Window(20, 50)
    months = Calendar(None)
    march = months.window_at(START_MS + 60 * DAY_MS)
    assert months.preceding(march).end_ms == march.start_ms
    assert months.preceding(march) == months.window_at(march.start_ms - 1)
