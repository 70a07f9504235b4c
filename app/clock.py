"""The one reader of the wall clock. The core is given times; all else asks here."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)
