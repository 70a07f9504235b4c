"""Text that is shown to nobody by mistake."""

from __future__ import annotations

from typing import NoReturn

SHOWN = "***"


class Secret:
    """Wraps a password, or what has one in it: printed, logged or in a traceback it is ``***``.

    >>> Secret("word"), f"{Secret('word')}", [Secret("word").reveal()]
    (***, '***', ['word'])
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for whoever is to be given it."""
        return self._text

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not pickled.")
