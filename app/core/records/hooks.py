"""Records that senders of hooks keep: deliveries that are parked or dead, and hooks that are disabled."""

from __future__ import annotations

from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import HookDelivery, HookState, decode_json


def read_delivery(topics: Topics, partition: int, key: bytes | None, value: bytes | None) -> HookDelivery:
    """The delivery of a record in this partition of the topic of parked or of dead ones."""
    record = decode_json(value, HookDelivery)
    source = record.source
    if source.partition != partition or source.topic not in (
        topics.scores,
        topics.alerts,
        topics.verdicts,
        topics.model_status,
    ):
        raise RefusedRecordError(
            "foreign", f"It tells of {source.topic!r:.200}, partition {source.partition}, and lies in {partition}."
        )
    if key != record.id.encode():
        raise RefusedRecordError("bad_key", f"Its key {key!r:.200} is not {record.id!r:.200}.")
    return record


def read_state(key: bytes | None, value: bytes | None) -> HookState:
    """The state of a hook."""
    state = decode_json(value, HookState)
    if key != state.hook.encode():
        raise RefusedRecordError("bad_key", f"Its key {key!r:.200} is not {state.hook!r:.200}.")
    return state
