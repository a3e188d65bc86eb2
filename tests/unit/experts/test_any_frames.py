"""Whatever a proven peer sends to a shard: each reply is one that is documented, or it is hung up on; others go on."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experts.host.watched_thread import ThreadWatch
from experts.shard.server import ExpertServer
from experts.transport.call import Form, pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.control import Beat, Busy, Failure, Hello, Miss
from experts.transport.frame import HEADER, MAGIC, VERSION, Header, Kind, pack_header
from experts.transport.trust.handshake import client_handshake
from tests.support.mesh import CREDENTIALS, HELLO, NODE
from tests.unit.experts.frame_servers import expert_server, status_of
from tests.unit.experts.merge_fakes import WAIT_S, HeldShard, HeldWork, call_of, sums_of

REASONS = {"kind", "short", "length", "index", "form", "shared", "magic", "version", "incarnation", "checksum", "io"}


class Quick(HeldWork):
    """Computes without being let go."""

    __call__ = staticmethod(sums_of)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def watch() -> ThreadWatch:
    return ThreadWatch()


@pytest.fixture(scope="module")
def server(watch: ThreadWatch) -> Iterator[ExpertServer]:
    shard = HeldShard()
    shard.compute = Quick()
    server = expert_server(shard, watch=watch)
    yield server
    server.close()


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    """A call as a router packs it; or with some bytes of it changed, added or cut off."""
    call = call_of(draw(st.integers(0, 10)), draw(st.integers(0, 5)), draw(st.integers(0, 99)))
    whole = bytearray(b"".join(pack_call(call)))
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        whole = whole[: draw(st.integers(0, len(whole)))] + draw(st.binary(max_size=9))
    return bytes(whole)


sizes = st.tuples(st.sampled_from([0, 1, 1 << 16, 1 << 40]), st.sampled_from([0, 1, 1 << 16])).map(
    lambda pair: struct.pack("<QQ", *pair)
)
frames = st.one_of(
    st.tuples(st.just(Kind.EXPERTS), questions()),
    st.tuples(st.just(Kind.EXPERTS), questions()),
    st.tuples(st.just(Kind.SHARE), sizes),
    st.tuples(st.sampled_from([Kind.STATUS, Kind.CANCEL]), st.just(b"")),
    st.tuples(st.just(Kind.HELLO), st.just(HELLO.packed())),
    st.tuples(st.sampled_from(Kind), st.binary(max_size=70)),
)


@st.composite
def streams(draw: st.DrawFn, incarnation: int = 0) -> list[tuple[bytes, bytes]]:
    """Frames, most of them well-formed: each as a header without its incarnation, and a payload."""
    sent = []
    greeting = [(Kind.HELLO, Hello(draw(st.integers(0, 2)), 0).packed())] if draw(st.integers(0, 9)) else []
    for kind, payload in [*greeting, *draw(st.lists(frames, max_size=6))]:
        checksum = draw(st.integers(0, 9)) == 0
        sequence = draw(st.integers(0, 3))
        head = bytearray(pack_header(kind, incarnation, sequence, [payload], checksum))
        if draw(st.integers(0, 19)) == 0:
            head[draw(st.integers(0, HEADER.size - 1))] = draw(st.integers(0, 255))
        sent.append((bytes(head), payload))
    return sent


def with_incarnation(head: bytes, incarnation: int) -> bytes:
    """The header, for that server; what was changed in its incarnation stays changed."""
    at = struct.calcsize("<4sBBBB")
    (changed,) = struct.unpack_from("<Q", head, at)
    return head[:at] + struct.pack("<Q", changed ^ incarnation) + head[at + 8 :]


def check_reply(header: Header, payload: memoryview) -> None:
    """A documented reply, with a payload of its form."""
    if header.kind is Kind.PARTIALS:
        assert unpack_partial(payload).form in Form
    elif header.kind is Kind.STATUS:
        assert bytes(payload).startswith(b"{")
    elif header.kind is Kind.SHARE:
        assert len(payload) == 16
    else:
        form = {Kind.MISS: Miss, Kind.BUSY: Busy, Kind.FAILURE: Failure, Kind.BEAT: Beat}[header.kind]
        form.unpacked(payload)


def replies_of(peer: Channel) -> list[Header]:
    """What comes until the shard hangs up."""
    found = []
    with suppress(ConnectionError):
        while True:
            header, payload = peer.receive()
            assert header.kind not in (Kind.CHALLENGE, Kind.WELCOME)
            check_reply(header, payload)
            found.append(header)
    return found


@given(stream=streams())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames(server: ExpertServer, watch: ThreadWatch, stream: list[tuple[bytes, bytes]]) -> None:
    endpoint = server.endpoint
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(endpoint.unix_address)
        peer = Channel(sock, endpoint.incarnation)
        peer.set_timeouts(WAIT_S)
        peer.carry_out(client_handshake(CREDENTIALS, endpoint.incarnation))
        with suppress(OSError):  # it may have hung up already
            for head, payload in stream:
                sock.sendall(with_incarnation(head, endpoint.incarnation) + payload)
            sock.shutdown(socket.SHUT_WR)
        asked = sum(head[:5] == MAGIC + bytes([VERSION]) and head[5] == Kind.EXPERTS for head, _ in stream)
        answers = [one for one in replies_of(peer) if one.kind not in (Kind.STATUS, Kind.SHARE, Kind.BEAT)]
        assert len(answers) <= asked
    assert set(server.rejected) <= REASONS
    assert watch.failures.get("connection", 0) == 0
    good = connect(endpoint, NODE, CREDENTIALS, WAIT_S, hello=Hello(5, 0))
    good.set_timeouts(WAIT_S)
    good.send(Kind.EXPERTS, 1, pack_call(call_of(1, 3)))
    header, payload = good.receive()
    assert header.kind is Kind.PARTIALS
    assert torch.equal(unpack_partial(payload).y_ND, sums_of(call_of(1, 3)))
    good.close()


def test_after_all_of_them_the_shard_is_as_it_was(server: ExpertServer, watch: ThreadWatch) -> None:
    control = connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO)
    control.set_timeouts(WAIT_S)
    assert status_of(control)["thread_failures"] == {}
    control.close()
    watch.check()
    server.queue.computation.faults = 0  # of odd widths, which this shard does not check
    server.check_health(WAIT_S)
    assert server.queue.waiting == 0
