"""What ClickHouse says when something is wrong, as one sentence that says what to do."""

from __future__ import annotations

import re

from app.ports import WarehouseError

_NO_ACCESS = {192, 193, 194, 497, 516}
_DISK_FULL = {243}
_NO_DATABASE = {81}
#: Memory, too many parts or queries, time-outs, network, read-only replica, Keeper: another try may do.
_PASSING = {3, 159, 202, 203, 209, 210, 241, 242, 252, 279, 319, 425, 439, 473, 999}
_READ_ONLY = {164}
_TOO_SLOW = {159, 160}

_HEAD = re.compile(r"(?:Code: \d+\. )?DB::Exception: |\[?error code: \d+\]?,? ?", re.IGNORECASE)
_TAIL = re.compile(
    r"\s*\(version [^)]*\)|\s*\([A-Z_]{4,}\)\.?\s*$|\s*: while executing.*$|\s*Expected one of:.*$", re.DOTALL
)


def explain(error: Exception, where: str) -> WarehouseError:  # noqa: PLR0911  # one return per cause
    """Translate an error of the driver; ``where`` names the server (without its password) or the embedded path."""
    if isinstance(error, WarehouseError):
        return error
    code = getattr(error, "code", None)
    text = str(error)
    if code is None and (match := re.search(r"\bCode: (\d+)", text)):
        code = int(match.group(1))
    if isinstance(error, (ImportError, ModuleNotFoundError)):
        return WarehouseError(
            "The embedded ClickHouse engine is not installed: pip install 'streamgauge[embedded]'"
            ", or set STREAMGAUGE_CLICKHOUSE."
        )
    if code in _DISK_FULL or "No space left" in text:
        return WarehouseError(
            f"The disk of ClickHouse at {where} is full: free some space; nothing is lost.", retryable=True
        )
    if code in _NO_ACCESS:
        return WarehouseError(
            f"ClickHouse at {where} refused the user or the password, or the user lacks a grant: {_sentence(text)}"
        )
    if code in _NO_DATABASE:
        return WarehouseError(f"ClickHouse at {where} has no database streamgauge yet: run `streamgauge migrate`.")
    if code in _READ_ONLY:
        return WarehouseError(
            "Only reading is allowed: the statement writes, changes a setting or reads outside the warehouse."
        )
    if code in _TOO_SLOW:
        return WarehouseError(
            f"ClickHouse at {where} gave up after its time limit: ask for less.", retryable=code == 159
        )
    if code is None and _is_unreachable(text):
        return WarehouseError(
            f"ClickHouse at {where} does not answer: check that it runs and that STREAMGAUGE_CLICKHOUSE is right.",
            retryable=True,
        )
    return WarehouseError(_sentence(text), retryable=code in _PASSING)


def _is_unreachable(text: str) -> bool:
    signs = (
        "Max retries",
        "Connection",
        "connection",
        "timed out",
        "Name or service",
        "HTTP Driver Exception",
        "Remote end",
    )
    return any(sign in text for sign in signs)


def _sentence(text: str) -> str:
    text = text.split("\n FORMAT Native", maxsplit=1)[0]
    while (shorter := _TAIL.sub("", _HEAD.sub("", text))) != text:
        text = shorter
    return text.strip().rstrip(".")[:400] + "."
