"""A password is shown to nobody, whatever signs it holds and whatever goes wrong."""

from __future__ import annotations

import pickle
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.clickhouse.url import ClickHouseUrl
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.ports import WarehouseError
from app.secret import Secret
from app.settings import Settings

AWKWARD = "can/ary#42?x@y:z &+=;,[]%25"


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("canary")
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>5}", f"{[secret]}", "%s" % secret, str({"a": secret})]  # noqa: UP031  # as logging does
    assert not any("canary" in text for text in shown)
    assert secret.reveal() == "canary"
    assert secret == Secret("canary")
    assert secret not in ("canary", Secret("other"))
    assert not Secret("")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_settings_show_no_password_and_give_it_to_children() -> None:
    url = f"http://me:{AWKWARD}@host:8123"
    settings = Settings.read({"STREAMGAUGE_CLICKHOUSE": url, "HOME": "/h"})
    assert "ary" not in repr(settings)
    assert settings.to_environment()["STREAMGAUGE_CLICKHOUSE"] == url


@pytest.mark.parametrize(
    ("url", "user", "password", "where", "shown"),
    [
        ("http://localhost:8123", "", "", "http://localhost:8123", "http://localhost:8123"),
        ("https://me:word@host:8443/x?verify=0", "me", "word", "https://host:8443", "https://me:***@host:8443"),
        ("http://me:word@host", "me", "word", "http://host", "http://me:***@host"),
        ("HTTP://me@[::1]:1", "me", "", "http://[::1]:1", "http://me@[::1]:1"),
        ("http://m%40e:p%2Fw%25@h:1", "m@e", "p/w%", "http://h:1", "http://m@e:***@h:1"),
        (f"http://me:{AWKWARD}@h:1", "me", AWKWARD.replace("%25", "%"), "http://h:1", "http://me:***@h:1"),
        ("http://me:a@b@c@h:1", "me", "a@b@c", "http://h:1", "http://me:***@h:1"),
        ("http://me:a/b#c?d@h:1/db", "me", "a/b#c?d", "http://h:1", "http://me:***@h:1"),
    ],
)
def test_a_url_is_taken_apart_whatever_its_password_holds(
    url: str, user: str, password: str, where: str, shown: str
) -> None:
    found = ClickHouseUrl.parse(Secret(url))
    assert (found.user, found.password.reveal(), found.where, str(found)) == (user, password, where, shown)
    again = ClickHouseUrl.parse(Secret(found.to_dsn()))
    assert again == found


WORDS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.slow
@given(user=WORDS, password=WORDS)
def test_what_is_escaped_comes_back(user: str, password: str) -> None:
    found = ClickHouseUrl.parse(Secret(f"http://{quote(user, safe='')}:{quote(password, safe='')}@h:1/db?a=b"))
    assert (found.user, found.password.reveal(), found.rest) == (user, password, "/db?a=b")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("canary", "neither http:// nor https://"),
        ("ftp://me:canary@h", "neither http:// nor https://"),
        ("://me:canary@h", "neither http:// nor https://"),
        ("http://me:canary@", "names no host"),
        ("http://me:canary@h:canary", "port is no number"),
        ("http://me:canary@h:99999", "port is no number"),
        ("http://h:canary/word", "port is no number"),  # somebody has forgotten who and the @
        ("http://me:canary@[::1", "port is no number"),
    ],
)
def test_a_wrong_url_is_told_apart_without_being_told(url: str, why: str) -> None:
    with pytest.raises(WarehouseError, match=why) as caught:
        ClickHouseWarehouse(Secret(url))
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert not caught.value.retryable
