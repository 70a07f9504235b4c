"""One table says which errors of ClickHouse are tried again and which end the monitor, and what a person does then."""

from __future__ import annotations

import pytest

from app.adapters.clickhouse.errors import CAUSES, explain, find_cause
from app.ports import WarehouseError


class DriverError(Exception):
    """As the driver raises it."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


def said(text: str, code: int | None = None, table: str = "scores_raw") -> WarehouseError:
    return explain(DriverError(text, code), "http://db:8123", table)


@pytest.mark.parametrize(
    ("code", "text", "is_retried", "advice"),
    [
        (16, "No such column reasons in table streamgauge.scores_raw", False, "not as this release writes it"),
        (53, "Type mismatch for column score", False, "not as this release writes it"),
        (349, "Cannot convert NULL value to non-Nullable type", False, "undo the change"),
        (60, "Table streamgauge.scores_raw does not exist", False, "has no table scores_raw"),
        (81, "Database streamgauge does not exist", False, "streamgauge migrate"),
        (
            164,
            "gauge: Cannot execute query in readonly mode",
            False,
            "give STREAMGAUGE_CLICKHOUSE a user who may insert",
        ),
        (None, "Setting async_insert is readonly", False, "lets this user only read"),
        (497, "Not enough privileges. To execute this query, it's necessary to have INSERT", False, "lacks a grant"),
        (516, "Authentication failed", False, "the user or the password"),
        (243, "Cannot reserve 1.00 MiB, not enough space", True, "free some space"),
        (75, "Cannot write to file: errno: 28, No space left on device", True, "free some space"),
        (75, "Cannot write to file: , errno: 27, strerror: File too large", True, "free some space"),
        (1001, "std::exception: Disk quota exceeded", True, "free some space"),
        (202, "Too many simultaneous queries", True, "is overloaded"),
        (241, "Memory limit (total) exceeded", True, "is overloaded"),
        (252, "Too many parts", True, "is overloaded"),
        (242, "Table is in readonly mode since table metadata was not found in zookeeper", True, "its Keeper"),
        (999, "Coordination error: Connection loss", True, "its Keeper"),
        (210, "Network error", True, "just now"),
        (None, "HTTPConnectionPool: Max retries exceeded", True, "does not answer"),
        (
            None,
            "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
            True,
            "run",
        ),
        (None, "HTTP driver received HTTP status 502, server response: bad gateway", True, "does not answer"),
        (None, "HTTPConnectionPool: Read timed out. (read timeout=60)", True, "does not answer"),
        (49, "Logical error: something nobody has seen", False, "something nobody has seen"),
    ],
)
def test_an_error_of_an_insert_is_tried_again_or_ends_the_monitor_with_advice(
    code: int | None, text: str, is_retried: bool, advice: str
) -> None:
    error = said(f"Code: {code}. DB::Exception: {text}. (SOME_NAME) (version 25.8.1.1)" if code else text, code)

    assert error.retryable is is_retried
    assert advice in str(error)
    assert "(version" not in str(error)
    assert str(error).endswith((".", ")"))


def test_a_users_mistake_is_told_in_clickhouses_own_words() -> None:
    error = said("Code: 47. DB::Exception: Unknown expression identifier `nope`. (UNKNOWN_IDENTIFIER)", 47, table="")

    assert str(error) == "Unknown expression identifier `nope`."
    assert str(said("Code: 164. DB::Exception: readonly", 164, table="")).startswith("Only reading is allowed")


def test_a_code_has_one_cause() -> None:
    for of_insert, of_read in ((True, False), (False, True), (False, False)):
        kind = of_insert, of_read
        codes = [code for cause in CAUSES for code in cause.codes if kind == (cause.of_inserts, cause.of_reads)]
        assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("code", "text", "is_retried", "advice"),
    [
        (159, "Timeout exceeded: elapsed 30.1 seconds, maximum: 30", False, "ask for less"),
        (160, "Estimated query execution time is too long", False, "ask for less"),
        (241, "Query memory limit exceeded: would use 300 MiB, maximum: 256 MiB", False, "more memory than it may"),
        (241, "Memory limit (for query) exceeded: would use 300 MiB", False, "more memory than it may"),
        (241, "(total) memory limit exceeded: would use 9 GiB", True, "is overloaded"),
        (241, "Memory limit (total) exceeded", True, "is overloaded"),
        (396, "Limit for result exceeded, max bytes: 30.52 MiB", False, "too large"),
        (394, "Query was cancelled", False, "nobody waited"),
        (202, "Too many simultaneous queries", True, "is overloaded"),
        (47, "Unknown expression identifier `nope`", False, "Unknown expression identifier `nope`."),
    ],
)
def test_a_query_that_asks_for_too_much_is_not_asked_again(code: int, text: str, is_retried: bool, advice: str) -> None:
    """A write that met the same limit is: nothing is wrong with it."""
    whole = DriverError(f"Streaming query failed: Code: {code}. DB::Exception: {text}. (NAME) (version 25.8.1.1)", code)
    error = explain(whole, "http://db:8123", reading=True)

    assert error.retryable is is_retried
    assert advice in str(error)
    assert "Streaming" not in str(error)


def test_no_known_server_error_falls_through_to_another_remedy() -> None:
    cause = find_cause(164, "", of_insert=True)
    assert cause is not None
    assert cause.name == "read only"
    assert find_cause(49, "", of_insert=True) is None


def test_neither_the_address_nor_the_password_of_the_driver_is_repeated() -> None:
    text = (
        "Received ClickHouse exception, code: 49, server response: Code: 49. DB::Exception: odd (for url http://u:p@h)"
    )

    assert str(said(text, 49)) == "odd."
