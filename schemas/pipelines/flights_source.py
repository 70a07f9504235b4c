"""The flights of 2013."""


def records() -> None:
    """Yield source records."""
