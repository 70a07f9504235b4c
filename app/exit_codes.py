"""How a worker or a monitor ends, for whoever may start it again: as ``sysexits.h`` has it."""

from __future__ import annotations

#: EX_TEMPFAIL: starting it again may help.
EXIT_RETRY = 75
#: EX_CONFIG: a person must mend something first.
EXIT_CONFIG = 78
