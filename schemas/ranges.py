"""What the numbers and names of records may be: within what every reader, table and sum can hold.

They are part of the types in `schemas.wire`, so that decoding a record refuses what is outside.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

#: A pipeline has at most this many partitions.
MOST_PARTITIONS = 1024
#: What a DateTime64(3) of ClickHouse and a time of Python can hold: 1900 to 2299.
EARLIEST_TABLE_MS, LATEST_TABLE_MS = -2_208_988_800_000, 10_413_791_999_999
#: Before and after any time: how far a partition has come when nothing is known, or nothing follows.
BEGINNING_MS, END_MS = -(2**62), 2**62

#: A model's name is a folder, a key and part of a URI; its version three numbers.
MODEL_NAME = r"[a-z0-9][a-z0-9_-]{0,99}"
VERSION = r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})"

Partition = Annotated[int, Meta(ge=0, le=MOST_PARTITIONS - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
TimeMs = Annotated[int, Meta(ge=EARLIEST_TABLE_MS, le=LATEST_TABLE_MS)]
#: How far a partition has come.
ComeToMs = Annotated[int, Meta(ge=BEGINNING_MS, le=END_MS)]
#: How many there are of something: as many as can come add up without an overflow.
Count = Annotated[int, Meta(ge=0, le=2**53)]
#: A sum of what is never negative.
Total = Annotated[int, Meta(ge=0, le=2**62)]
Share = Annotated[float, Meta(ge=0, le=1)]
#: What an event says: as long as it may be in an event.
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(min_length=1, max_length=4096)]
#: What a person or a worker says of something.
Words = Annotated[str, Meta(max_length=10_000)]
ModelName = Annotated[str, Meta(pattern=rf"^{MODEL_NAME}\Z")]
Version = Annotated[str, Meta(pattern=rf"^{VERSION}\Z")]
#: What a version is called where it is not looked up by that name.
VersionName = Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,99}\Z")]
#: Where a model version is.
Uri = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
#: SHA-256 in hex.
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
