"""The digest of values in their canonical form."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(form: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys, in hex digits; what JSON does not know, as text."""
    return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
