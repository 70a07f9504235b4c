"""Records of ``<p>.repartition`` and ``<p>.answers``: questions about keys, what was added to them, and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.core.records.columns import most_tile, read_column
from schemas.ranges import BEGINNING_MS, END_MS
from schemas.refusal import RefusedRecordError
from schemas.wire import AnswersRecord, RepartitionRecord, decode_packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.wire import KeyQuestions, StoreParts


def read_repartition(
    value: bytes | None,
    partitions: int,
    n_keys: int,
    hops_ms: Mapping[bytes, int],
    *,
    latest_ms: int = END_MS,
    newest_term: int = END_MS,
) -> RepartitionRecord:
    """What an input partition has for an owner of keys; the keys themselves are any bytes.

    Parameters
    ----------
    partitions
        How many input partitions there are.
    n_keys
        How many tuples of fields there are keys over.
    hops_ms
        Of the stores that there are, by name.
    latest_ms
        How far a partition can have come.
    newest_term
        No term is later: it is named by the time at which it began.
    """
    record = decode_packed(value, RepartitionRecord)
    if record.source >= partitions:
        raise RefusedRecordError("foreign", f"Input partition {record.source} is none of the {partitions}.")
    check_term(record.term, newest_term)
    if max(record.added_ms, record.scored_ms) > latest_ms:
        raise RefusedRecordError(
            "out_of_range", f"It says to have come to {max(record.added_ms, record.scored_ms)}, and {latest_ms} can be."
        )
    for part in record.parts:
        if part.store in hops_ms:  # others are of other features
            _check_part(part, most_tile(hops_ms[part.store]))
    for questions in record.questions:
        _check_questions(questions, n_keys)
    return record


def check_term(term: int, newest: int) -> None:
    """Refuse the term of a state that is still to begin: nothing after it would count."""
    if term > newest:
        raise RefusedRecordError("out_of_range", f"It is of a state that begins at {term}, which is to come.")


def _check_part(part: StoreParts, latest_tile: int) -> None:
    n = len(part.keys)
    if not n:
        raise RefusedRecordError("inconsistent", "Rows of a store are none.")
    read_column(part.tiles, n, "tiles", -latest_tile, latest_tile)
    read_column(part.counts, n, "counts", 0)
    read_column(part.sums, n, "sums")


def _check_questions(questions: KeyQuestions, n_keys: int) -> None:
    n = len(questions.keys)
    if questions.key >= n_keys or not n:
        raise RefusedRecordError("inconsistent", f"{n} questions are about key {questions.key} of {n_keys}.")
    offsets = read_column(questions.offsets, n, "offsets", 0)
    if (np.diff(offsets) <= 0).any():
        raise RefusedRecordError("inconsistent", "The offsets of events that ask do not ascend.")
    read_column(questions.times_ms, n, "times", BEGINNING_MS, END_MS)


def read_answers(value: bytes | None, windows: Sequence[int], newest_term: int = END_MS) -> AnswersRecord:
    """Answers to an input partition; ``windows``: how many there are over each key."""
    record = decode_packed(value, AnswersRecord)
    check_term(record.term, newest_term)
    for answer in record.answers:
        n = len(answer.offsets) // 8
        if answer.key >= len(windows) or not n:
            raise RefusedRecordError("inconsistent", f"{n} answers are about key {answer.key} of {len(windows)}.")
        read_column(answer.offsets, n, "offsets", 0)
        read_column(answer.amounts, 2 * windows[answer.key] * n, "amounts")
    return record
