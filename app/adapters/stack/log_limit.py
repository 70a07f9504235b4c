"""Keeps a fault that is logged hundreds of times a second from filling a disk."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass

from app.visible import visible

PERIOD_S = 60.0
MOST = 5


@dataclass(slots=True)
class _Seen:
    since: float = -PERIOD_S
    passed: int = 0
    held_back: int = 0


class RepeatLimit(logging.Filter):
    """Lets each warning of each logger through `MOST` times in `PERIOD_S`; the next one says how many were held back.

    Messages are told apart by their format, without their arguments. It is added to a handler, not to a logger, so that
    it sees the messages of all libraries.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: defaultdict[tuple[str, str], _Seen] = defaultdict(_Seen)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        seen = self._seen[record.name, str(record.msg)]
        if record.created >= seen.since + PERIOD_S:
            if seen.held_back:
                record.msg = f"{record.msg} ({seen.held_back} more like this were not logged)"
            seen.since, seen.passed, seen.held_back = record.created, 0, 0
        seen.passed += 1
        seen.held_back += seen.passed > MOST
        return seen.passed <= MOST


class OneLine(logging.Formatter):
    """Makes each message one line: nothing in its data can begin a line that looks like another message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # of logging
        record.message = visible(record.message).replace("\n", "\\n")
        return super().formatMessage(record)


def start_logging(level: str) -> None:
    """Log to standard error: of Kafka's and Faust's libraries only warnings and worse, and no message without end."""
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s %(message)s"))
        handler.addFilter(RepeatLimit())
    for chatty in ("aiokafka", "faust", "mode"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
