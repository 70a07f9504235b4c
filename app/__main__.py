"""Entry point of the ``streamgauge`` command."""

from __future__ import annotations

import faulthandler
import sys

from app.cli import main as run_command
from app.ownership import OwnershipError, refuse_second_owner
from app.visible import guard_output


def main() -> None:
    """Run the command line, unless another distribution has put files among ours."""
    faulthandler.enable()  # a crash in native code says where, instead of a bare exit code
    guard_output()
    try:
        refuse_second_owner()
    except OwnershipError as error:
        sys.exit(f"streamgauge: {error}")
    run_command()


if __name__ == "__main__":
    main()
