"""Where others reach what listens here."""

from __future__ import annotations

import socket

import pytest

from app.adapters.http.place import HttpPlace

HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "advertised", "address", "url", "names"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:81", "http://127.0.0.1:81", ("a",)),
        ("0.0.0.0", "", "http://0.0.0.0:81", f"http://{HERE}:81", ("a", HERE)),  # noqa: S104
        ("::", "", "http://[::]:81", f"http://{HERE}:81", ("a", HERE)),
        (
            "10.0.0.7",
            "http://gauge.example:8000/",
            "http://10.0.0.7:81",
            "http://gauge.example:8000",
            ("a", "gauge.example"),
        ),
    ],
)
def test_it_is_told_where_others_reach_it_and_may_be_called_so(
    host: str, advertised: str, address: str, url: str, names: tuple[str, ...]
) -> None:
    place = HttpPlace.choose(host, 0, 0, ("a",), advertised)
    assert (place.url(address), place.allowed_hosts) == (url, names)
