"""Rows of a partition's state in RocksDB, through rocksdict: one database per partition and owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from app.adapters.stack.private_folder import private_folder

_WRITE_BUFFER_BYTES = 16 << 20
_BLOCK_CACHE_BYTES = 16 << 20
_MOST_OWNERS = 64


class StateDiskError(RuntimeError):
    """The disk does not take the state; what it holds remains a snapshot of what was committed."""


class RocksRows:
    """`app.core.tiles.row_cache.RowsOnDisk` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = _open(folder)

    @classmethod
    def open_free(cls, folder: Path, name: str) -> RocksRows:
        """The first of ``name``, ``name.1``, … that no other process has open.

        Workers of one machine may share a home: each then has snapshots of its own, of different age.
        """
        for number in range(_MOST_OWNERS):
            place = folder / (f"{name}.{number}" if number else name)
            private_folder(place)
            try:
                return cls(place)
            except Exception as error:  # rocksdict has one exception for everything
                if "lock" not in str(error).lower():
                    raise StateDiskError(_sentence(place, error)) from error
        raise StateDiskError(f"{folder}: {_MOST_OWNERS} processes have a state for {name} open; stop some of them.")

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys."""
        rows: Any = self._db.get(list(keys))  # a list for a list
        values: list[bytes | None] = rows
        return values

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Set and delete (None), all or nothing.

        Raises
        ------
        StateDiskError
            When the disk is full, or fails.
        """
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._db.write(batch)
        except Exception as error:  # as above
            raise StateDiskError(_sentence(self.folder, error)) from error

    def scan(self, prefix: bytes, after: bytes, most: int) -> list[tuple[bytes, bytes]]:
        """The first entries that begin with a prefix, of keys greater than ``after``, in the order of their keys."""
        rows: list[tuple[bytes, bytes]] = []
        entries = self._db.iter(ReadOptions())
        entries.seek(after)
        while entries.valid() and len(rows) < most:
            key = entries.key()
            if not key.startswith(prefix):
                break
            if key != after:
                rows.append((key, entries.value()))
            entries.next()
        return rows

    def clear(self) -> None:
        """Delete everything."""
        self._db.close()
        Rdict.destroy(str(self.folder), _options())
        self._db = _open(self.folder)

    def close(self) -> None:
        """Let another process have it."""
        self._db.close()


def _open(folder: Path) -> Rdict:
    return Rdict(str(folder), options=_options())


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(1)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options


def _sentence(folder: Path, error: Exception) -> str:
    return (
        f"{folder}: the state cannot be kept on disk ({error}); free space or mend the disk and start again. Nothing"
        " is lost: the changelog in Kafka has it all."
    )
