"""Looks up names for hooks, and gives no address that a hook may not go to.

The check is here and not before the request: who looks a name up twice connects to the second answer and has checked
the first (DNS rebinding). What this resolver gives is what aiohttp connects to.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from schemas.pipeline.destinations import read_address, refuse_address
from schemas.pipeline.spec import Destinations

LookUp = Callable[[str, int, socket.AddressFamily], Awaitable[list[ResolveResult]]]


class RefusedAddressError(Exception):
    """A name leads to where no hook may go; the rest of a sentence with the fix.

    It is no OSError: aiohttp takes those for an answer that failed, and hides them in its own.
    """


class GuardedResolver(AbstractResolver):
    """Refuses a name when any of its addresses may not be connected to.

    Parameters
    ----------
    look_up
        The addresses of a name; None: those that the system knows.
    """

    def __init__(self, destinations: Destinations, look_up: LookUp | None = None) -> None:
        self._destinations = destinations
        self._look_up = look_up or ThreadedResolver().resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name."""
        results = await self._look_up(host, port, family)
        for result in results:
            address = read_address(result["host"])
            why = refuse_address(self._destinations, address) if address is not None else "is at no address"
            if why:
                raise RefusedAddressError(why)
        return results

    async def close(self) -> None:
        """Nothing is held."""
