"""P17: what happens when producers and the pipeline file change on different days. The table is docs/bad-input.md."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from core_setting import SPECIFICATION, START_MS, batch

from app.core.batches import EventBatch, Rejection
from app.core.intake.decode import EventDecoder
from schemas.pipeline.file import load

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"

OLD: dict[str, Any] = {"id": "e", "card": "c1", "at": START_MS, "amount": 2.5, "tries": 3, "shop": "s1"}
SAME = ""


class Change(NamedTuple):
    """``fields``: what differs in the pipeline file; ``event``: what the producer writes (... : not at all).

    ``reason``: of the dead letter, or "" when it is scored; ``column``, ``value``: what is then read.
    """

    fields: tuple[str, str]
    event: dict[str, Any]
    reason: str
    column: str = "amount"
    value: Any = 2.5


NO = ("", "")
SHOP, AMOUNT = 'shop = "string?"', 'amount = "float"'
CHANGES: dict[str, Change] = {
    "producer adds a field": Change(NO, {"channel": "web"}, SAME),
    "file adds a required field": Change((SHOP, SHOP + '\nchannel = "string"'), {}, "missing_field"),
    "file adds a nullable field": Change((SHOP, SHOP + '\nchannel = "string?"'), {}, SAME, "channel", None),
    "producer removes a required field": Change(NO, {"amount": ...}, "missing_field"),
    "producer removes a nullable field": Change(NO, {"shop": ...}, SAME, "shop", None),
    "file removes a field": Change((SHOP, ""), {}, SAME),
    "producer renames a required field": Change(NO, {"amount": ..., "amount_eur": 2.5}, "missing_field"),
    "producer renames a nullable field": Change(NO, {"tries": ..., "attempts": 3}, SAME, "tries", math.nan),
    "int becomes float": Change(NO, {"tries": 3.0}, "wrong_type"),
    "int widens beyond 64 bits": Change(NO, {"tries": 2**63}, "wrong_type"),
    "int widens beyond 2**53": Change(NO, {"tries": 2**53 + 1}, SAME, "tries", float(2**53)),
    "float becomes int": Change(NO, {"amount": 2}, SAME, "amount", 2.0),
    "number becomes string": Change(NO, {"amount": "2.5"}, "wrong_type"),
    "string becomes number": Change(NO, {"card": 1}, "wrong_type"),
    "bool becomes int": Change(('tries = "int?"', 'tries = "bool?"'), {"tries": 1}, "wrong_type"),
    "value becomes object or list": Change(NO, {"amount": {"value": 2.5, "currency": "EUR"}}, "wrong_type"),
    "required becomes nullable, null": Change(NO, {"amount": None}, "wrong_type"),
    "file allows null, null": Change((AMOUNT, 'amount = "float?"'), {"amount": None}, SAME, "amount", math.nan),
    "time in another unit": Change(NO, {"at": START_MS // 1000}, "time_too_early"),
    "unknown version in a field": Change(NO, {"schema_version": 99}, SAME),
}


def decode(change: Change, tmp_path: Path, *values: bytes) -> tuple[EventBatch, list[Rejection]]:
    path = tmp_path / "cards.toml"
    text = SPECIFICATION.replace(*change.fields) if change.fields[0] else SPECIFICATION
    if change.fields == (SHOP, ""):
        text = text.replace('["card", "shop"]', '["card"]')
    path.write_text(text)
    return EventDecoder(load(path).events).decode(batch("cards.events", list(values), [START_MS] * len(values)))


def encode(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**OLD, **changes}.items() if value is not ...}).encode()


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_schema_does_what_the_document_says(what: str, tmp_path: Path) -> None:
    change = CHANGES[what]
    events, rejections = decode(change, tmp_path, encode(**change.event))
    assert [rejection.reason for rejection in rejections] == ([change.reason] if change.reason else [])
    if not change.reason:
        found = events.columns[change.column][0]
        assert found is change.value or found == change.value or (math.isnan(found) and math.isnan(change.value))


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_old_and_new_producers_together_are_judged_record_by_record(what: str, tmp_path: Path) -> None:
    change = CHANGES[what]
    old, new = encode(), encode(**change.event)
    alone = [decode(change, tmp_path, value) for value in (old, new)]
    events, rejections = decode(change, tmp_path, old, new, old, new)
    expected = [(place, r.reason) for place in range(4) for r in alone[place % 2][1]]
    assert [(rejection.position, rejection.reason) for rejection in rejections] == expected
    assert len(events) == 2 * sum(len(found) for found, _ in alone)


def test_the_header_of_a_schema_registry_is_named(tmp_path: Path) -> None:
    _, (rejection,) = decode(CHANGES["producer adds a field"], tmp_path, b"\x00\x00\x00\x00\x07" + encode())
    assert rejection.reason == "not_json"
    assert "schema registry" in rejection.detail


def test_the_document_has_a_row_for_every_change() -> None:
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3:
            rows[cells[0]] = cells[1:]
    assert rows.keys() >= CHANGES.keys()
    for what, change in CHANGES.items():
        outcome, reason = rows[what]
        assert outcome.startswith("dead letter" if change.reason else "scored"), what
        assert (f"`{change.reason}`" if change.reason else "") in reason, what
