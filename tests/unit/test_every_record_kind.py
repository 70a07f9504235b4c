"""Laws of every kind of record that is read from a topic: a value in range or a refusal, and its reader goes on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as kinds_of
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_attacks import Raw, attack
from record_kinds import KINDS, Kind, decode, run, take

from schemas import refusal, wire
from schemas.topics import Topics
from schemas.wire import encode_json, encode_packed

#: Structs of the contract that no reader of a topic ever makes, and why.
NEVER_READ = {
    "DriftReport": "the monitor writes it, for others",
    "WindowVerdict": "the monitor writes it, for others; hooks tell it as it is (test_hook_selection)",
    "Explained": "in a WindowVerdict alone",
    "VerdictSegment": "in a WindowVerdict alone",
    "VerdictExample": "in a WindowVerdict alone",
    "Alert": "the monitor writes it, for others; what it reads are rows of its table (test_takeover), and hooks"
    " tell it as it is (test_hook_selection)",
}
NO_KIND = {
    "events": "fields are the pipeline file's: test_decode, and tests/chaos/test_core_poison",
    "events_by_entity": "as events; headers of copies: test_forged_records",
    "labels_by_entity": "as labels; headers of copies: test_forged_records",
    "drift": "the monitor writes it, for others",
    "verdicts": "the monitor writes it, for others",
    "alerts": "the monitor writes it, for others",
}

TIMES = (-2_208_988_800_000, 10_413_791_999_999)
COME_TO = (-(2**62), 2**62)
INT64 = (-(2**63), 2**63 - 1)
PARTITIONS = (0, 1023)
OFFSETS = (0, 2**63 - 1)
COUNTS = (0, 2**53)
#: What each whole number of the contract may be, by the name of its field.
RANGES = {
    **dict.fromkeys(("partition", "source", "key"), PARTITIONS),
    **dict.fromkeys(("offset", "label_offset", "next_offset", "term", "sequence"), OFFSETS),
    **dict.fromkeys(("watermark_ms", "label_watermark_ms", "added_ms", "scored_ms"), COME_TO),
    **dict.fromkeys(("n", "n_correct", "unscored", "too_late", "unknown", "cut_bytes"), COUNTS),
    "record_time_ms": INT64,
    "log_loss_sum": (0, 2**62),
    **dict.fromkeys(
        ("event_time_ms", "scored_at_ms", "rejected_at_ms", "at_ms", "announced_at_ms", "valid_from_ms"), TIMES
    ),
    **dict.fromkeys(("slice_start_ms", "unscored_since_ms"), TIMES),
    **dict.fromkeys(("time_ms", "parked_at_ms", "given_up_at_ms", "disabled_at_ms"), TIMES),
    "label": (0, 1),
    "newest_ms": TIMES,
}
ANY_KIND = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
REASONS = set(inspect.getdoc(refusal.RefusedRecordError).split("``")[3::2])  # type: ignore[union-attr]  # it has one


def contract() -> dict[str, type[msgspec.Struct]]:
    found = inspect.getmembers(wire, lambda each: inspect.isclass(each) and issubclass(each, msgspec.Struct))
    return {name: each for name, each in found if each.__module__ == wire.__name__}


def registered() -> set[type[msgspec.Struct]]:
    return {struct for kind in KINDS for struct in kind.structs}


def check_ranges(value: Any, name: str = "") -> None:
    """Whatever was decoded can be held by every column, sum and clock."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            check_ranges(getattr(value, field), field)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_ranges(each, name)
    elif isinstance(value, dict):
        for key, each in value.items():
            check_ranges(key)
            check_ranges(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        low, high = RANGES[name]
        assert low <= value <= high, name
    elif isinstance(value, float):
        assert math.isfinite(value), name
    elif isinstance(value, str):
        value.encode()


# -- what is registered ------------------------------------------------------------------------------------------------


def test_each_struct_of_the_contract_has_a_kind_or_a_reason_to_have_none() -> None:
    of_kinds = {struct.__name__ for struct in registered()}
    assert of_kinds | NEVER_READ.keys() == contract().keys()
    assert not of_kinds & NEVER_READ.keys()


def test_each_topic_has_a_kind_or_a_reason_to_have_none() -> None:
    topics = Topics("p", 1, by_entity=True, with_hooks=True)
    names = {topic.name.removeprefix("p.").replace("-", "_") for topic in topics.all()}
    of_kinds = {kind.topic for kind in KINDS}
    assert of_kinds | NO_KIND.keys() == names
    assert not of_kinds & NO_KIND.keys()


def numbers_of(shape: Any) -> Iterator[kinds_of.IntType]:
    if isinstance(shape, kinds_of.IntType):
        yield shape
    for part in (*getattr(shape, "types", ()), *getattr(shape, "item_types", ())):
        yield from numbers_of(part)
    for name in ("item_type", "key_type", "value_type"):
        if hasattr(shape, name):
            yield from numbers_of(getattr(shape, name))


@pytest.mark.parametrize("struct", sorted(registered() - {wire.Label}, key=str))
def test_each_whole_number_of_the_contract_is_refused_beyond_what_is_said_here(struct: type[msgspec.Struct]) -> None:
    """But those of a label, which are looked at where a bad one becomes a dead letter."""
    shape = kinds_of.type_info(struct)
    assert isinstance(shape, kinds_of.StructType)
    for field in shape.fields:
        for number in numbers_of(field.type):
            assert (number.ge, number.le) == RANGES[field.name], field.name


# -- what is good ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@ANY_KIND
def test_what_we_write_is_taken_by_who_reads_it(kind: Kind) -> None:
    goods = kind.goods()
    assert goods
    assert run(kind, goods, 10) == {"": len(goods)}


def values_of(shape: Any) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911, PLR0912  # a shape a line
    """Values that fit a shape of the contract."""
    match shape:
        case kinds_of.StructType():
            fields = {
                field.name: values_of(field.type) if field.required else st.just(field.default) | values_of(field.type)
                for field in shape.fields
                if field.required or field.default is not msgspec.NODEFAULT
            }
            return st.fixed_dictionaries(fields).map(lambda given: shape.cls(**given))
        case kinds_of.IntType():
            low, high = shape.ge or 0, shape.le or 2**62
            return st.sampled_from((low, high)) | st.integers(low, high)
        case kinds_of.FloatType():
            return st.floats(shape.ge, shape.le, allow_nan=False, allow_infinity=False)
        case kinds_of.StrType() if shape.pattern:
            least, most = shape.min_length or 0, shape.max_length or 200
            texts = st.from_regex(shape.pattern, alphabet=st.characters(codec="ascii"))
            return texts.filter(lambda text: least <= len(text) <= most)
        case kinds_of.StrType():
            return st.text(min_size=shape.min_length or 0, max_size=20)
        case kinds_of.BytesType():
            return st.binary(max_size=40)
        case kinds_of.BoolType():
            return st.booleans()
        case kinds_of.RawType():
            return st.sampled_from((msgspec.Raw(b"null"), msgspec.Raw(b'{"a":[1]}')))
        case kinds_of.NoneType():
            return st.none()
        case kinds_of.LiteralType():
            return st.sampled_from(shape.values)
        case kinds_of.ListType():
            return st.lists(values_of(shape.item_type), max_size=3)
        case kinds_of.DictType():
            return st.dictionaries(values_of(shape.key_type), values_of(shape.value_type), max_size=3)
        case kinds_of.UnionType():
            return st.one_of(*map(values_of, shape.types))
        case kinds_of.TupleType():
            return st.tuples(*map(values_of, shape.item_types))
        case kinds_of.VarTupleType():
            return st.lists(values_of(shape.item_type), max_size=2).map(tuple)
    raise AssertionError(shape)


#: Those whose value is one record of the contract, as it is.
WHOLE = tuple(kind for kind in KINDS if kind.codec != "bytes" and kind.structs and kind.structs[0] is not wire.Label)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE, ids=[kind.name for kind in WHOLE])
@settings(max_examples=20)
@given(data=st.data())
def test_any_value_in_range_comes_back_as_it_was_and_its_reader_goes_on(kind: Kind, data: st.DataObject) -> None:
    values = data.draw(st.lists(values_of(kinds_of.type_info(kind.structs[0])), min_size=1, max_size=3))
    encode = encode_json if kind.codec == "json" else encode_packed
    key = kind.goods()[0].key
    raws = [Raw(key, encode(value)) for value in values]
    assert [kind.decode(raw) for raw in raws] == values
    run(kind, raws, 1)


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@ANY_KIND
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_is_on_a_topic_is_a_value_in_range_or_a_refusal_and_its_reader_goes_on(kind: Kind, seed: int) -> None:
    goods = kind.goods()
    reader = kind.reader()
    for number in range(30):
        raw = attack(goods, kind.codec, seed + number)
        value, reason = decode(kind, raw)
        if value is not None:
            check_ranges(value)
        refused = take(kind, reader, raw)
        assert {reason, refused} <= REASONS | {""}
        # No reader takes what cannot be decoded, but a tombstone; what a key says is of other features is passed over.
        assert refused or reason in {"", "tombstone"} or kind.topic == "shared"
    reader.settle()
    assert take(kind, reader, goods[0]) == ""
    reader.settle()


@pytest.mark.slow
def test_the_attacks_reach_what_is_behind_decoding() -> None:
    """Otherwise they would test the decoder alone."""
    for kind in KINDS:
        counts = run(kind, [attack(kind.goods(), kind.codec, seed) for seed in range(200)], 50)
        assert counts.get("", 0) >= 20, (kind.name, counts)
        assert kind.name == "label" or len(counts) >= 3, (kind.name, counts)
