"""A running monitor is asked where it is, whatever the environment says of the way out."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app.adapters.http.client import AwayError, ask_monitor


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"pipeline": "p"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask_monitor(f"http://127.0.0.1:{server.server_port}", "/api/v1/status") == {"pipeline": "p"}
        server.shutdown()


def test_one_that_does_not_run_is_away() -> None:
    with pytest.raises(AwayError, match=r"at http://127\.0\.0\.1:1 does not answer"):
        ask_monitor("http://127.0.0.1:1", "/api/v1/status")
