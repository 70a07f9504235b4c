"""What comes from data is shown on a terminal and never obeyed by it: control signs are made visible.

An event id, a dead letter or an alert may hold an escape sequence that moves the cursor, changes what was printed
before, or sets the clipboard. `guard_output` puts a guard before standard output and error, so that nothing that any
command prints gets past it; only what draws (a bar, a table's lines) asks for the stream behind the guard.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

#: Control characters but tab and line feed, what ends a line elsewhere, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Text with control characters as JSON writes them, so that JSON stays the JSON that it was.

    >>> visible("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class GuardedText(io.TextIOWrapper):
    """A text stream that lets no control character through; ``behind`` is the same stream without the guard."""

    def __init__(self, behind: io.TextIOWrapper) -> None:
        self.behind = behind
        # No closing of the one closes the other's.
        super().__init__(
            behind.buffer,
            behind.encoding,
            errors="backslashreplace",
            line_buffering=behind.line_buffering,
            write_through=True,
        )
        behind.reconfigure(write_through=True)

    def write(self, text: str) -> int:
        super().write(visible(text))
        return len(text)


def guard_output() -> None:
    """Put the guard before standard output and error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, GuardedText):
            setattr(sys, name, GuardedText(stream))


def behind_guard(stream: TextIO) -> TextIO:
    """The stream to draw on; what comes from data must be made visible by whoever draws."""
    return stream.behind if isinstance(stream, GuardedText) else stream
