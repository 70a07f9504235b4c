"""What `make mutants` changes: one place at a time, into a program that still runs, and is known again."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = '''"""A module."""
LIMIT = 5

def clip(values: list[int], low: int = 0, *, strict: bool = False) -> list[int]:
    """Give what is above; 1 < 2 is no code."""
    assert low < LIMIT
    found = []
    for value in sorted(values[1:], key=abs):
        if not strict and value < low:
            continue
        found.append(max(value, low) + 1)
    if low > 9:
        raise ValueError(f"{low + 1} is above {LIMIT}")
    return found if found else values
'''


@pytest.fixture(scope="module")
def changes() -> Iterator[ModuleType]:
    folder = str(Path(__file__).resolve().parents[2] / "scripts" / "mutants")
    sys.path.insert(0, folder)
    import changes  # type: ignore[import-not-found]  # noqa: PLC0415  # a program's module, no package's

    yield changes
    sys.path.remove(folder)
    del sys.modules["changes"]


def test_each_change_is_another_program_that_runs_and_differs_in_one_place(changes: ModuleType) -> None:
    found = changes.find_changes("m.py", SOURCE)
    plain = ast.unparse(ast.parse(SOURCE)).splitlines()
    for change in found:
        text = changes.make_changed(SOURCE, change.place)
        compile(text, "m.py", "exec")
        lines = text.splitlines()
        assert sum(line != before for line, before in zip(lines, plain, strict=True)) == 1, change
    assert len({changes.make_changed(SOURCE, change.place) for change in found}) == len(found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value < low", "value <= low"),
        ("not strict and value < low", "value < low"),
        ("not strict", "strict"),
        ("continue", "pass"),
        ("max(value, low)", "min(value, low)"),
        ("max(value, low) + 1", "max(value, low)"),
        ("1:", ":"),
        ("sorted(values[1:], key=abs)", "sorted(values[1:])"),
        ("5", "6"),
        ("False", "True"),
        ("raise ValueError(f'{low + 1} is above {LIMIT}')", "pass"),
    ],
)
def test_likely_mistakes_are_among_them(changes: ModuleType, old: str, new: str) -> None:
    assert (old, new) in {(change.old, change.new) for change in changes.find_changes("m.py", SOURCE)}


def test_messages_asserts_and_texts_stay_as_they_are(changes: ModuleType) -> None:
    for change in changes.find_changes("m.py", SOURCE):
        text = changes.make_changed(SOURCE, change.place)
        assert "assert low < LIMIT" in text
        assert "1 < 2 is no code" in text
        assert "is above" in text or change.new == "pass"


def changed(changes: ModuleType, source: str) -> set[tuple[str, str]]:
    return {(change.old, change.new) for change in changes.find_changes("m.py", source)}


def test_that_two_sides_of_a_zip_are_as_long_is_an_assert(changes: ModuleType) -> None:
    assert changed(changes, "pairs = zip(a, b, strict=True)") == set()
    resolved = "path.resolve(strict=True)"
    assert {new for _, new in changed(changes, f"real = {resolved}")} == {"path.resolve()", "False"}


def test_the_rest_of_a_shape_is_a_rest_or_a_length(changes: ModuleType) -> None:
    assert changed(changes, "flat = a.reshape(-1)") == {("-1", "1")}
    assert ("1", "2") in changed(changes, "last = a[-1]")


def test_equal_arguments_do_not_change_places(changes: ModuleType) -> None:
    assert changed(changes, "piece = Piece([], [])") == set()
    assert changed(changes, "piece = Piece(a, [])") == {("Piece(a, [])", "Piece([], a)")}


@pytest.mark.parametrize("name", ["SIZE", "_SIZE", "SIZE: int"])
def test_a_size_is_halved_and_what_is_small_or_local_changes_by_one(changes: ModuleType, name: str) -> None:
    assert changed(changes, f"{name} = 256") == {("256", "128")}
    assert ("37", "18") in changed(changes, f"{name} = f(-4.5, 37)")
    assert changed(changes, f"{name} = 10") == {("10", "11"), ("10", "9")}
    assert changed(changes, "size = 256") == {("256", "257"), ("256", "255")}


def test_a_change_is_known_again_by_its_function_and_line(changes: ModuleType) -> None:
    before = {change.key for change in changes.find_changes("m.py", SOURCE)}
    after = {change.key for change in changes.find_changes("m.py", "import math\n\n" + SOURCE)}
    assert before == after
    assert ("m.py", "clip", "continue", "continue → pass") in before
