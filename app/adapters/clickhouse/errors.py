"""What ClickHouse says when something is wrong: as one sentence that says what to do, and whether to try again.

`CAUSES` decides, for every error code, what a write does about it: it is tried again until it succeeds (the cause
passes by itself, or somebody mends it while Kafka keeps the records), or it ends the monitor with exit code 78, so that
a person sees it. What is not in the table ends the monitor too: an unknown error must not be repeated in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.ports import WarehouseError

#: What to do where a user's question is too large.
ASK_FOR_LESS = (
    "ask for fewer rows or columns, or for sums, or take all of it in parts (a day at a time by event_time, say);"
    " `streamgauge record` writes all scores into a Parquet file."
)


@dataclass(frozen=True)
class Cause:
    """Error codes with one remedy.

    Parameters
    ----------
    sentence
        With ``{where}``, ``{table}`` and ``{said}``: which server, the table of an insert, and ClickHouse's own words.
    is_retried
        Whether the same call may succeed later.
    of_inserts
        Whether it is the cause only where rows were inserted: a user's query may name what it likes.
    of_reads
        Whether it is the cause only of users' queries: what asks for too much asks for too much again.
    """

    name: str
    codes: frozenset[int]
    sentence: str
    is_retried: bool
    of_inserts: bool = False
    of_reads: bool = False


DISK = Cause(
    "disk full",
    # A file that may not grow ends in a general error of writing; see _DISK_SIGNS.
    frozenset({243}),
    "The disk of ClickHouse at {where} is full, or a quota or limit of file sizes is reached: free some space; nothing "
    "is lost, and writing goes on by itself.",
    is_retried=True,
)
UNREACHABLE = Cause(
    "unreachable",
    frozenset(),  # nobody answers with a code
    "ClickHouse at {where} does not answer: check that it runs and that STREAMGAUGE_CLICKHOUSE is right.",
    is_retried=True,
)
CAUSES = (
    DISK,
    Cause(
        "no access",
        frozenset({192, 193, 194, 195, 291, 492, 497, 511, 516, 720}),
        "ClickHouse at {where} refused the user or the password, or the user lacks a grant: {said}",
        is_retried=False,
    ),
    Cause(
        "read only",
        frozenset({164, 472, 495, 774}),
        "ClickHouse at {where} lets this user only read, or {table} is read-only: give STREAMGAUGE_CLICKHOUSE a user "
        "who may insert into the database streamgauge, and start the monitor again. ({said})",
        is_retried=False,
        of_inserts=True,
    ),
    Cause(
        "only reading is allowed",
        frozenset({164}),
        "Only reading is allowed: the statement writes, changes a setting or reads outside the warehouse.",
        is_retried=False,
    ),
    Cause(
        "no database",
        frozenset({81}),
        "ClickHouse at {where} has no database streamgauge yet: run `streamgauge migrate`.",
        is_retried=False,
    ),
    Cause(
        "no table",
        frozenset({60, 218}),
        "ClickHouse at {where} has no table {table}: restore it, or empty streamgauge.schema_migrations and run "
        "`streamgauge migrate`; then start the monitor again, which fills it from Kafka.",
        is_retried=False,
        of_inserts=True,
    ),
    Cause(
        "another schema",
        frozenset(
            {
                *(6, 7, 8, 9, 10, 15, 16, 20, 26, 27, 38, 41, 44, 47, 50, 53, 70, 72, 117, 120, 122, 128, 131, 170),
                *(248, 321, 349, 376, 407, 469, 636, 728, 772),
            }
        ),
        "Table {table} of ClickHouse at {where} is not as this release writes it ({said}): undo the change, or run the "
        "release that fits; then start the monitor again, which goes on where it stopped.",
        is_retried=False,
        of_inserts=True,
    ),
    Cause(
        "a query's limit of time",
        frozenset({159, 160}),
        "The query was stopped at its time limit: ask for less.",
        is_retried=False,
        of_reads=True,
    ),
    Cause(
        "a query's limit of memory",
        frozenset({241}),
        f"The query needs more memory than it may take: {ASK_FOR_LESS} ({{said}})",
        is_retried=False,
        of_reads=True,
    ),
    Cause(
        "a query's limit of size",
        frozenset({396}),
        f"The answer is too large: {ASK_FOR_LESS}",
        is_retried=False,
        of_reads=True,
    ),
    Cause(
        "a query that was stopped",
        frozenset({394}),
        "The query was stopped, since nobody waited for it any more.",
        is_retried=False,
        of_reads=True,
    ),
    Cause(
        "time limit",
        frozenset({160}),
        "ClickHouse at {where} gave up after its time limit: ask for less.",
        is_retried=False,
    ),
    Cause(
        "time limit, perhaps of a busy server",
        frozenset({159}),
        "ClickHouse at {where} gave up after its time limit: ask for less.",
        is_retried=True,
    ),
    Cause(
        "memory, load and limits that pass",
        frozenset({173, 201, 202, 241, 252, 290, 364, 439, 473, 574, 692, 700, 745, 749, 762, 776, 777, 778}),
        "ClickHouse at {where} is overloaded: {said}",
        is_retried=True,
    ),
    Cause(
        "network, restart and files of the server",
        frozenset(
            {
                *(3, 23, 24, 32, 33, 74, 75, 76, 87, 88, 95, 96, 198, 203, 204, 209, 210, 236, 274, 275, 279, 294, 384),
                *(394, 425, 499, 500, 586, 641, 668, 677, 693, 694, 695, 696, 722, 733, 735, 738),
            }
        ),
        "ClickHouse at {where} could not do it just now: {said}",
        is_retried=True,
    ),
    Cause(
        "replicas and Keeper",
        frozenset({225, 234, 242, 244, 254, 265, 285, 286, 289, 297, 319, 369, 416, 519, 529, 568, 659, 999}),
        "ClickHouse at {where} waits for its replicas or its Keeper: {said}",
        is_retried=True,
    ),
)

#: Words of errors of any code (75, 1001, none) that mean the disk: errno 28, 27 and 122.
_DISK_SIGNS = ("No space left", "File too large", "Disk quota exceeded", "errno: 28", "errno: 27", "errno: 122")
#: Words about the memory that one query may take; that of all together is another matter: it passes.
_QUERY_MEMORY_SIGNS = ("Query memory limit", "(for query)")
_READ_ONLY_SIGN = re.compile(r"Setting \w+ is readonly")
_UNREACHABLE_SIGNS = (
    "Max retries",
    "Connection",
    "connection",
    "timed out",
    "Name or service",
    "HTTP Driver Exception",
    "Remote end",
    "IncompleteRead",
    # A proxy in between answers for a server that is not there, without a code.
    "HTTP status 502",
    "HTTP status 503",
    "HTTP status 504",
    "HTTP status 429",
)
_HEAD = re.compile(
    r"Received ClickHouse exception, code: \d+, server response: |(?:Code: \d+\. )?DB::Exception: "
    r"|\[?error code: \d+\]?,? ?|Streaming query failed: ",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s*\(for url [^)]*\)|\s*\(version [^)]*\)|\s*\([A-Z_]{4,}\)\.?\s*$|\s*: while executing.*$"
    r"|\s*Expected one of:.*$",
    re.DOTALL,
)


def explain(error: Exception, where: str, table: str = "", *, reading: bool = False) -> WarehouseError:
    """Translate an error of the driver.

    Parameters
    ----------
    where
        The server (without its password) or the embedded path.
    table
        The table that rows were inserted into; empty for anything else.
    reading
        Whether it was a user's query.
    """
    if isinstance(error, WarehouseError):
        return error
    if isinstance(error, (ImportError, ModuleNotFoundError)):
        return WarehouseError(
            "The embedded ClickHouse engine is not installed: pip install 'streamgauge[embedded]'"
            ", or set STREAMGAUGE_CLICKHOUSE."
        )
    text = str(error)
    code = getattr(error, "code", None)
    if code is None and (match := re.search(r"\bCode: (\d+)", text)):
        code = int(match.group(1))
    cause = find_cause(code, text, of_insert=bool(table), of_read=reading)
    said = _sentence(text)
    if cause is None:
        return WarehouseError(said)
    sentence = cause.sentence.format(where=where, table=table, said=said.rstrip("."))
    return WarehouseError(sentence if sentence.endswith((".", ")")) else sentence + ".", retryable=cause.is_retried)


def find_cause(code: int | None, text: str, *, of_insert: bool, of_read: bool = False) -> Cause | None:
    """Find the cause of an error by its code and words; None: it is not known."""
    if any(sign in text for sign in _DISK_SIGNS):
        return DISK
    if code is None and _READ_ONLY_SIGN.search(text):
        code = 164  # the driver looks at the user's settings before it asks
    if code is None:
        return UNREACHABLE if any(sign in text for sign in _UNREACHABLE_SIGNS) else None
    if code == 241:
        of_read &= any(sign in text for sign in _QUERY_MEMORY_SIGNS)
    return next(
        (
            cause
            for cause in CAUSES
            if code in cause.codes and (of_insert or not cause.of_inserts) and (of_read or not cause.of_reads)
        ),
        None,
    )


def _sentence(text: str) -> str:
    text = text.split("\n FORMAT Native", maxsplit=1)[0]
    while (shorter := _TAIL.sub("", _HEAD.sub("", text))) != text:
        text = shorter
    return text.strip().rstrip(".")[:400] + "."
