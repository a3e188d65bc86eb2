"""TLS and mutual TLS for the live page, and certificates that are replaced."""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.support.certificates import Certificate, replace
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.front.front_world import World
from tests.unit.front.http.house import PROMPT
from tests.unit.front.http_world import Browser
from tests.unit.front.pki import Pki


def trusting(pki: Pki, **client: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.ca))
    if client:
        context.load_cert_chain(**client)
    return context


async def test_the_page_speaks_tls_where_the_api_does(world: World, pki: Pki) -> None:
    await world.router()
    await world.front(http_port=0, **pki.settings())
    await until(lambda: world.server.linked_routers == 1)
    port = world.server.http_port
    async with Browser(port, tls=trusting(pki)) as browser:
        async with browser.get("/") as response:
            assert response.status == 200
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        async with Browser(port, tls=ssl.create_default_context()) as browser, browser.get("/"):
            pass
    with pytest.raises(aiohttp.ClientError):
        async with Browser(port) as browser, browser.get("/"):
            pass


async def test_mutual_tls_wants_a_certificate_of_the_page_too(world: World, pki: Pki) -> None:
    await world.router()
    await world.front(http_port=0, **pki.settings(mutual=True))
    port = world.server.http_port
    good = pki.client("good")
    tls = trusting(pki, certfile=good.cert, keyfile=good.key)
    async with Browser(port, tls=tls) as browser, browser.get("/healthz") as response:
        assert response.status in (200, 503)
    stranger = pki.client("stranger", issuer=pki.servers)
    for client in ({}, {"certfile": stranger.cert, "keyfile": stranger.key}):
        with pytest.raises(aiohttp.ClientError):
            async with Browser(port, tls=trusting(pki, **client)) as browser, browser.get("/healthz"):
                pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_ends_with_the_authority_that_it_began_under(
    world: World, pki: Pki, version: ssl.TLSVersion
) -> None:
    await world.router()
    await world.front(http_port=0, **pki.settings(mutual=True))
    good = pki.client("good")
    tls = trusting(pki, certfile=good.cert, keyfile=good.key)
    tls.minimum_version = tls.maximum_version = version

    async def visit(session: ssl.SSLSession | None = None) -> tuple[bool, bool, ssl.SSLSession | None]:
        return await asyncio.to_thread(greet, world.server.http_port, tls, session)

    served, _, session = await visit()
    assert served
    # What makes the rest of the test mean something: sessions are resumed while nothing has changed.
    assert (await visit(session))[:2] == (True, True)
    replace(pki.client_ca, Certificate.authority("successor").write(pki.directory, "successor")[0].read_bytes())
    assert not (await visit())[0]
    assert not (await visit(session))[0]


def greet(port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, bool, ssl.SSLSession | None]:
    """Ask for /healthz: whether it is answered, whether `session` was resumed, the session now."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    try:
        with tls.wrap_socket(plain, server_hostname="localhost", session=session) as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return line.recv(100).startswith(b"HTTP/1.1 "), bool(line.session_reused), line.session
    except OSError:
        return False, False, None
    finally:
        plain.close()


async def test_a_new_certificate_is_shown_without_a_restart(world: World, pki: Pki) -> None:
    await world.router()
    await world.front(http_port=0, **pki.settings())
    before = await shown(world, pki)
    for old, new in zip((pki.cert, pki.key), pki.servers.sign("server").write(pki.directory, "fresh"), strict=True):
        replace(old, new.read_bytes())
    async with asyncio.timeout(WAIT_S):
        while await shown(world, pki) == before:
            await asyncio.sleep(0.05)


async def shown(world: World, pki: Pki) -> int:
    """The serial number of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("localhost", world.server.http_port, ssl=trusting(pki))
    serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return int(serial, 16)
