"""How a worker or a monitor ends: codes of ``sysexits.h`` for whoever may start it again, and errors that carry one."""

from __future__ import annotations

#: EX_TEMPFAIL: starting it again may help.
EXIT_RETRY = 75
#: EX_CONFIG: a person must mend something first.
EXIT_CONFIG = 78


class StackError(RuntimeError):
    """The stack cannot start or go on, as one sentence that says what to do.

    ``exit_code``: that of a process that it ends.
    """

    exit_code = EXIT_RETRY


class TopicMismatchError(StackError):
    """A topic is not what the pipeline needs: trying again does not help."""

    exit_code = EXIT_CONFIG


class HookSetupError(StackError):
    """A hook cannot work as it is set up."""

    exit_code = EXIT_CONFIG
