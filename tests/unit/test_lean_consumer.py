from __future__ import annotations

from collections import OrderedDict

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from app.adapters.kafka.lean_consumer import _Fetched

PLACE = TopicPartition("t", 0)


def test_a_partition_that_is_not_sought_yet_is_no_error_and_one_whose_records_are_gone_is() -> None:
    unsought: list[TopicPartition] = []
    fetched = _Fetched(OrderedDict(), unsought.append)
    fetched[PLACE] = FetchError(error=NoOffsetForPartitionError(PLACE), backoff=0.1)
    assert (list(fetched), unsought) == ([], [PLACE])
    fetched[PLACE] = FetchError(error=OffsetOutOfRangeError({PLACE: 7}), backoff=0.1)
    with pytest.raises(OffsetOutOfRangeError):
        fetched[PLACE].check_raise()
    assert unsought == [PLACE]
