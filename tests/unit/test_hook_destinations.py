"""Where hooks may go: what is not public is refused, however it is written, and what was checked is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp.abc import ResolveResult
from hook_bench import CERTIFICATES, Receiver, receiving
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.webhooks.client import ANSWER_BYTES, Patience, WebhookClient
from app.adapters.webhooks.resolver import GuardedResolver, RefusedAddressError
from app.core.hooks.requests import Answer
from app.exits import HookSetupError
from schemas.pipeline.destinations import refuse_address, refuse_url
from schemas.pipeline.spec import Destinations

PUBLIC = Destinations(hosts=("crm.example.com", "*.example.org", "93.184.216.34"))
HERE = Destinations(
    hosts=("localhost", "127.0.0.1"),
    networks=("127.0.0.0/8", "::1"),
    plain_http=True,
    ca=CERTIFICATES / "authority.pem",
)
QUICK = Patience(connect_s=1.0, total_s=1.0)

#: Of version 4, and of version 6 around it.
NOT_PUBLIC = (
    "0.0.0.0",  # noqa: S104  # an address to refuse
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
)
NOT_PUBLIC_6 = ("::", "::1", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "2001:db8::1")


def carriers(address: str) -> list[str]:
    """Addresses of version 6 that carry one of version 4: mapped, translated, 6to4, Teredo."""
    number = int(ipaddress.IPv4Address(address))
    flipped = number ^ 0xFFFFFFFF
    return [
        f"::ffff:{address}",
        str(ipaddress.IPv6Address((0x64FF9B << 96) | number)),
        str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))),
        str(ipaddress.IPv6Address((0x20010000 << 96) | (0x5DB8D822 << 64) | flipped)),
    ]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_however_it_is_carried(address: str) -> None:
    for each in (address, *carriers(address)):
        assert "is no public address" in refuse_address(PUBLIC, ipaddress.ip_address(each)), each


@pytest.mark.parametrize("address", NOT_PUBLIC_6)
def test_an_address_of_version_6_that_is_not_public_is_refused(address: str) -> None:
    assert "is no public address" in refuse_address(PUBLIC, ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_public_address_is_let_through(address: str) -> None:
    assert refuse_address(PUBLIC, ipaddress.ip_address(address)) == ""


@pytest.mark.parametrize("address", ["10.1.2.3", *carriers("10.1.2.3")])
def test_a_listed_network_is_let_through_and_its_neighbour_is_not(address: str) -> None:
    listed = Destinations(networks=("10.1.0.0/16",))
    assert refuse_address(listed, ipaddress.ip_address(address)) == ""
    assert refuse_address(listed, ipaddress.ip_address("10.2.0.1")) != ""


@given(st.ip_addresses())
def test_what_is_let_through_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if refuse_address(PUBLIC, address) == "":
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://crm.example.com/x", ""),
        ("https://CRM.example.com./x", ""),
        ("https://a.example.org:8443/x?y=z", ""),
        ("https://93.184.216.34/x", ""),
        ("https://example.org/x", "not allowed"),
        ("https://evilexample.org/x", "not allowed"),
        ("https://crm.example.com.evil.net/x", "not allowed"),
        ("https://127.0.0.1/x", "not allowed"),
        ("http://crm.example.com/x", "not encrypted"),
        ("https://crm.example.com/x#y", "fragment"),
        ("https://crm.example.com@evil.net/", "user"),
        ("https:///x", "no URL"),
        ("https://crm.example.com/\nHost: x", "no URL"),
        ("file:///etc/passwd", "no URL"),
        ("", "no URL"),
    ],
)
def test_a_url_goes_only_where_the_file_allows(url: str, why: str) -> None:
    said = refuse_url(PUBLIC, url)
    assert (why in said) if why else said == ""


def test_a_listed_address_that_is_not_public_needs_its_network_too() -> None:
    listed = Destinations(hosts=("169.254.169.254",), plain_http=True)
    assert "is no public address" in refuse_url(listed, "http://169.254.169.254/latest/meta-data")


def found(*addresses: str) -> list[ResolveResult]:
    return [
        ResolveResult(hostname="crm.example.com", host=each, port=443, family=socket.AF_INET, proto=0, flags=0)
        for each in addresses
    ]


async def test_a_name_is_refused_when_any_of_its_addresses_is_not_public() -> None:
    async def look_up(*_: object) -> list[ResolveResult]:
        return found("93.184.216.34", "10.0.0.1")

    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.1, which is no public address"):
        await GuardedResolver(PUBLIC, look_up).resolve("crm.example.com", 443)


async def test_a_name_that_changes_its_address_between_two_questions_reaches_nothing_inside() -> None:
    """The check and the connection share one answer: a second one, which leads inside, is checked as well."""
    async with receiving(Receiver(keys=())) as inside:
        port = int(inside.url.rsplit(":", 1)[1].split("/")[0])
        answers = iter(["127.0.0.2", "127.0.0.1"])
        asked: list[str] = []

        async def look_up(host: str, *_: object) -> list[ResolveResult]:
            asked.append(host)
            return [dict(each, port=port) for each in found(next(answers))]  # type: ignore[misc]

        loose = Destinations(hosts=("crm.example.com",), networks=("127.0.0.2",), plain_http=True)
        async with WebhookClient(loose, Patience(0.2, 0.2), look_up=look_up) as client:
            url = f"http://crm.example.com:{port}/"
            first = await client.post(url, {"webhook-id": "1"}, b"{}")
            await asyncio.sleep(0)
            client._session.connector.clear_dns_cache()  # type: ignore[union-attr]
            second = await client.post(url, {"webhook-id": "1"}, b"{}")

    assert first.outcome == "connection"
    assert second.outcome == "address"
    assert second.why == (
        'crm.example.com goes to 127.0.0.1, which is no public address; if that is wanted, add "127.0.0.1" to'
        " networks in [destinations]."
    )
    assert asked == ["crm.example.com"] * 2
    assert inside.asked == {}


# -- what receivers do -------------------------------------------------------------------------------------------------


async def post(url: str, destinations: Destinations = HERE) -> Answer:
    async with WebhookClient(destinations, QUICK) as client:
        return await client.post(url, {"webhook-id": "1"}, b"{}")


async def test_a_certificate_of_another_name_is_refused_in_one_sentence_with_the_fix() -> None:
    async with receiving(Receiver(keys=()), "elsewhere.pem") as crm:
        answer = await post(crm.url)

    assert answer.outcome == "certificate"
    assert answer.why.startswith("localhost shows a certificate that is not trusted (")
    assert answer.why.endswith("): have it show one for this name, or name its authority by ca in [destinations].")
    assert crm.asked == {}


async def test_a_certificate_of_an_authority_that_is_not_named_is_refused() -> None:
    async with receiving(Receiver(keys=()), "localhost.pem") as crm:
        refused = await post(crm.url, Destinations(HERE.hosts, HERE.networks))
        taken = await post(crm.url)

    assert refused.outcome == "certificate"
    assert taken == Answer("told", 200)


def test_a_file_that_holds_no_authority_is_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")

    with pytest.raises(HookSetupError, match=r"cannot be read as certificate authorities .*: give a PEM file as ca"):
        asyncio.run(post("https://localhost/", Destinations(ca=path)))


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(Receiver(keys=())) as other:

        async def away(_: str) -> int:
            return 307

        async with receiving(Receiver(answer=away, headers={"Location": other.url}, keys=())) as crm:
            answer = await post(crm.url)

    assert answer.outcome == "refused"
    assert "a redirect, which is not followed" in answer.why
    assert other.asked == {}


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(Receiver(keys=())) as proxy, receiving(Receiver(keys=())) as crm:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        answer = await post(crm.url)

    assert answer.outcome == "told"
    assert (sum(crm.asked.values()), sum(proxy.asked.values())) == (1, 0)


async def test_a_receiver_that_hangs_is_given_up_in_time_and_one_that_is_not_there_at_once() -> None:
    async def hang(_: str) -> int:
        await asyncio.sleep(60)
        return 200

    async with receiving(Receiver(answer=hang, keys=())) as crm:
        started = asyncio.get_running_loop().time()
        hanging = await post(crm.url)
        took_s = asyncio.get_running_loop().time() - started
    away = await post(crm.url)

    assert (hanging.outcome, hanging.why) == ("timeout", "127.0.0.1 gave no answer within 1 s.")
    assert took_s < 3
    assert away.outcome == "connection"


@pytest.mark.parametrize("size", [0, ANSWER_BYTES, 50_000_000])
async def test_of_an_answer_no_more_is_read_than_4_kib_and_nothing_is_shown(size: int) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 500 canary\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            while sent < size:
                writer.write(b"canary! " * 512)
                sent += ANSWER_BYTES
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await post(f"http://127.0.0.1:{port}/")

    assert answer == Answer("refused", 500, "The receiver answered 500.")
    assert sent < 20_000_000  # what the kernel and the client's stream hold


async def test_what_is_packed_is_not_unpacked() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nwrong")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert answer == Answer("told", 200)


async def test_an_answer_that_is_no_http_is_a_failure_and_not_an_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x16\x03\x01 canary")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert answer.outcome == "connection"
    assert "canary" not in answer.why


def test_certificates_of_the_tests_are_good_for_a_long_time() -> None:
    context = ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")
    assert context.cert_store_stats()["x509_ca"] >= 1
