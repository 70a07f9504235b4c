"""Signs webhooks as Standard Webhooks 1.0 says (https://www.standardwebhooks.com): HMAC-SHA256, ``v1``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"
#: What the standard asks of a key.
_LEAST_BYTES, _MOST_BYTES = 24, 64


class SecretError(ValueError):
    """A secret that cannot sign, and the fix; it does not hold the secret."""


def read_secret(text: str) -> bytes:
    """The key of a secret as people copy it: ``whsec_`` and base64.

    Raises
    ------
    SecretError
        When it is none.
    """
    if not text.startswith(_PREFIX):
        raise SecretError(f"does not begin with {_PREFIX}; put {_PREFIX} before the base64 of 24 to 64 random bytes")
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SecretError(f"is not base64 after {_PREFIX}; copy it anew") from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise SecretError(f"holds {len(key)} bytes; make one of {_LEAST_BYTES} to {_MOST_BYTES} random bytes")
    return key


def sign(name: str, time_s: int, body: bytes, keys: Sequence[bytes]) -> str:
    """The header ``webhook-signature``: one signature for each key, so that a receiver may know either.

    Examples
    --------
    Of the standard's own libraries:

    >>> key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    content = b".".join((name.encode(), str(time_s).encode(), body))
    digests = (hmac.new(key, content, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)
