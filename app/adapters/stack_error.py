"""The error of everything that starts servers and processes."""

from __future__ import annotations

from app.exit_codes import EXIT_CONFIG, EXIT_RETRY


class StackError(RuntimeError):
    """The stack cannot start or go on, as one sentence that says what to do.

    ``exit_code``: that of a process that it ends.
    """

    exit_code = EXIT_RETRY


class TopicMismatchError(StackError):
    """A topic is not what the pipeline needs: trying again does not help."""

    exit_code = EXIT_CONFIG
