"""The handshake: same secret and deployment are let in, all else is refused for what it is."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.transport.channel import Channel, connect
from experts.transport.frame import FrameError, Header
from experts.transport.listener import FrameServer
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import client_handshake, server_handshake
from router_service.front.routing import frame_stream as wire
from tests.support.meeting import meet
from tests.support.mesh import CREDENTIALS, NODE, until
from tests.unit.experts.frame_servers import frame_server

OTHER = replace(CREDENTIALS, digest=b"d" * 32)
NAMES = "is of deployment {}, this process of {}"


class Deaf:
    def opened(self, channel: Channel) -> None: ...
    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None: ...
    def closed(self, channel: Channel) -> None: ...


@pytest.fixture
def server() -> Iterator[FrameServer]:
    server = frame_server(Deaf(), replica="s0")
    yield server
    server.close()


def test_the_blocking_client_hears_that_it_is_of_another_deployment(
    server: FrameServer, caplog: pytest.LogCaptureFixture
) -> None:
    connect(server.endpoint, NODE, CREDENTIALS, 10.0).close()
    with pytest.raises(FrameError, match=NAMES.format("000102030405", "64" * 6)) as caught:
        connect(server.endpoint, NODE, OTHER, 10.0)
    assert caught.value.reason == "digest"
    until(lambda: "closed a connection" in caplog.text, "the server says so")
    assert NAMES.format("64" * 6, "000102030405") in caplog.text
    assert server.rejected == {"digest": 1}


async def test_the_asyncio_client_does_too(server: FrameServer) -> None:
    await (await wire.connect(server.endpoint, NODE, CREDENTIALS)).close()
    with pytest.raises(FrameError, match=r"a key of weights differ") as caught:
        await wire.connect(server.endpoint, NODE, OTHER)
    assert caught.value.reason == "digest"
    until(lambda: server.rejected == {"digest": 1}, "it is counted")


@pytest.mark.parametrize("digest", [CREDENTIALS.digest, OTHER.digest])
def test_without_the_secret_nothing_is_learnt_of_the_digest(digest: bytes) -> None:
    stranger = Credentials(b"another secret", digest)
    sent: list[bytes] = []
    with pytest.raises(FrameError) as caught:
        meet(client_handshake(stranger, 7), server_handshake(CREDENTIALS, 7), lambda data: sent.append(data) or data)
    assert caught.value.reason == "secret"
    assert len(sent) == 2, "the server says nothing after the proof"
    assert all(digest not in data for data in sent)


@given(st.integers(0, 2), st.integers(0, 10_000), st.integers(1, 255), st.sampled_from([CREDENTIALS, OTHER]))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_is_never_accepted(message: int, place: int, change: int, client: Credentials) -> None:
    count = iter(range(3))

    def damage(data: bytes) -> bytes:
        if next(count) != message:
            return data
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]

    try:
        accepted = meet(client_handshake(client, 7), server_handshake(CREDENTIALS, 7), damage)
    except FrameError:
        accepted = False
    assert not accepted


def test_a_handshake_that_failed_stays_failed() -> None:
    client = client_handshake(CREDENTIALS, 7)
    with pytest.raises(FrameError):
        client.advance(bytes(40))
    with pytest.raises(RuntimeError, match="failed before"):
        client.advance(b"")
    assert not client.proven
