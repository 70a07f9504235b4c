"""The error of everything that starts servers and processes."""

from __future__ import annotations


class StackError(RuntimeError):
    """The stack cannot start or go on, as one sentence that says what to do."""


class TopicMismatchError(StackError):
    """A topic is not what the pipeline needs: trying again does not help."""
