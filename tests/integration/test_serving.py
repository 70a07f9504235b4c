"""What the HTTP of a real monitor and a real worker owes to many, to the hostile and to those who come too late."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.exit_codes import EXIT_CONFIG
from app.settings import Settings


@pytest.mark.parametrize("command", ["monitor", "worker"])
def test_a_taken_port_is_a_persons_to_mend(kafka: str, tmp_path: Path, command: str) -> None:
    """Started again and again, it would say so again and again."""
    settings = Settings.read({"STREAMGAUGE_HOME": str(tmp_path), "STREAMGAUGE_KAFKA": kafka})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-P", "-m", "app", command, "--http-port", str(port)],
            env={**os.environ, **settings.to_environment()},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == EXIT_CONFIG
    assert run.stderr.splitlines()[-1] == (
        f"Error: HTTP cannot listen on 127.0.0.1:{port} (Address already in use): choose another --http-port or"
        " --http-host."
    )
    assert "Traceback" not in run.stderr
