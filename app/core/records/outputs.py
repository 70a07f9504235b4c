"""Scores and dead letters, as a monitor and the commands read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.refusal import UNREADABLE, need_value, refuse_unreadable
from schemas.wire import DeadLetter, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Header
    from app.core.records.rules import RecordRules

_SCORE = msgspec.json.Decoder(Score).decode


class OutputReader:
    """Reads what workers put out for one pipeline."""

    def __init__(self, rules: RecordRules) -> None:
        self._rules = rules
        topics = rules.topics
        self._scored, self._rejected = (topics.events,), (topics.events, topics.labels)

    def score(self, partition: int, value: bytes | None) -> Score:
        """The score of a record in this partition."""
        try:
            score = _SCORE(need_value(value))
        except UNREADABLE as error:
            raise refuse_unreadable(error) from None
        source = score.source
        self._rules.check_source(source.topic, source.partition, partition, self._scored)
        self._rules.check_event_time(score.event_time_ms, "event_time_ms")
        return score

    def letter(self, partition: int, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> DeadLetter:
        """The dead letter of a record in this partition."""
        letter = DeadLetter.from_record(key, value, headers)
        self._rules.check_source(letter.source.topic, letter.source.partition, partition, self._rejected)
        return letter
