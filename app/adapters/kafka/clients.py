"""The one place where clients of Kafka are made: consumers, producers, administrators.

Each function takes a `KafkaAccess` and what is particular to the client. Nothing here connects: whoever gets a client
starts and stops it. Make a client where it is used, since it belongs to the running event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from app.adapters.kafka.lean_consumer import LeanConsumer
from app.adapters.kafka.record_batches import hook_into_aiokafka
from app.adapters.kafka.transactional_producer import TransactionalProducer
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Compression

#: Largest record batch sent; brokers refuse more than 1 MiB by default.
BATCH_BYTES = 900_000
#: A producer waits for all replicas, and neither doubles nor reorders.
_EXACT: Mapping[str, Any] = {"enable_idempotence": True, "acks": "all"}
#: Of producers of many records.
_LARGE: Mapping[str, int] = {"max_batch_size": BATCH_BYTES, "max_request_size": 4 * BATCH_BYTES}


def new_consumer(kafka: KafkaAccess, group: str | None = None) -> LeanConsumer:
    """A consumer that reads committed records from the beginning; ``group``: the one that it commits offsets for."""
    return LeanConsumer(
        **kafka.options(),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=100,
    )


def new_member(kafka: KafkaAccess, group: str, sharing: Any, **options: Any) -> LeanConsumer:
    """A member of a group: start it, then subscribe it. It commits nothing by itself.

    ``sharing``: how members share the partitions, an assignor of aiokafka's kind.
    """
    return LeanConsumer(
        **kafka.options(),
        group_id=group,
        partition_assignment_strategy=[sharing],
        enable_auto_commit=False,
        auto_offset_reset="none",  # records that are gone are never passed over in silence
        isolation_level="read_committed",
        max_poll_records=None,
        **options,
    )


def new_producer(kafka: KafkaAccess, **options: Any) -> AIOKafkaProducer:
    """A producer that waits for all replicas, and neither doubles nor reorders."""
    hook_into_aiokafka()
    return AIOKafkaProducer(**kafka.options(), **{**_EXACT, **options})


def new_bulk_producer(kafka: KafkaAccess, **options: Any) -> AIOKafkaProducer:
    """As `new_producer`, in large batches."""
    return new_producer(kafka, **_LARGE, **options)


def output_options(name: str, compression: Compression) -> dict[str, Any]:
    """Options that producers of a pipeline's outputs have in common; ``name``: what brokers know them by."""
    return {
        "client_id": name,
        "compression_type": None if compression == "none" else compression,
        # While a broker writes the markers of the last transaction, it refuses the next requests for an instant.
        "retry_backoff_ms": 10,
    }


def new_transactional_producer(
    kafka: KafkaAccess, group: str, transactional_id: str, timeout_ms: int, **options: Any
) -> TransactionalProducer:
    """A producer of transactions that hold offsets of one consumer group, in large batches.

    ``timeout_ms``: how long a transaction may be open before the broker ends it.
    """
    hook_into_aiokafka()
    return TransactionalProducer(
        group,
        transactional_id=transactional_id,
        transaction_timeout_ms=timeout_ms,
        **_EXACT,
        **kafka.options(),
        **_LARGE,
        **options,
    )


def new_admin(kafka: KafkaAccess, **options: Any) -> AIOKafkaAdminClient:
    """A client that makes and describes topics, and reads what groups have committed."""
    return AIOKafkaAdminClient(**kafka.options(), **options)
