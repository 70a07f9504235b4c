"""aiokafka's consumer without what it does for each record in Python and nobody here reads.

For each record, aiokafka 0.14 (pinned) builds a `ConsumerRecord` of eleven fields from the record that its Cython
parser made, at twice the cost of the parsing. What `LeanConsumer.getmany` gives are those parsed records themselves:
they have offset, timestamp, key, value and headers, but neither topic nor partition, which the caller knows.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import FetchResult


def _as_parsed(_: Any, record: Any) -> Any:
    return record


class _Fetched(OrderedDict[Any, Any]):
    """What the fetcher has fetched and not yet handed out, by partition."""

    def __setitem__(self, tp: Any, result: Any) -> None:
        if isinstance(result, FetchResult):
            result._partition_records._consumer_record = _as_parsed  # noqa: SLF001  # the last step of its parser
        super().__setitem__(tp, result)


class LeanConsumer(aiokafka.AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    """A consumer of batches, to be read by `getmany` alone; keys and values are bytes."""

    async def start(self) -> None:
        await super().start()
        self._fetcher._records = _Fetched(self._fetcher._records)  # noqa: SLF001  # no other place to hook in
