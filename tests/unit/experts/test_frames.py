"""Frames, questions and answers against any bytes, and channels against any way in which bytes may come."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.transport.call import (
    ExpertCall,
    Form,
    Partial,
    Stamps,
    most_rows,
    pack_call,
    pack_partial,
    unpack_call,
    unpack_partial,
)
from experts.transport.channel import Channel
from experts.transport.frame import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD_BYTES,
    VERSION,
    FrameError,
    Kind,
    pack_header,
    parse_header,
)
from experts.transport.inbox import Closed, Idle

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
T = TypeVar("T")
numbers = st.integers(0, 2**32 - 1)
long_numbers = st.integers(0, 2**64 - 1)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Any bytes, or a header with any fields."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=48))
    small, long = st.integers(0, 255), long_numbers
    magic = draw(st.sampled_from([MAGIC, b"GET "]))
    version = draw(st.sampled_from([VERSION, 0, 9]))
    fields = (draw(s) for s in (small, small, small, long, long, long, numbers, numbers))
    return HEADER.pack(magic, version, *fields)


def parsed(parse: Callable[[], T], reasons: set[str]) -> T | None:
    """What `parse` returns; None if it raises a FrameError for one of `reasons`."""
    reason = None
    try:
        return parse()
    except FrameError as error:
        reason = error.reason
    assert reason in reasons
    return None


@given(headers(), st.integers(0, 1 << 30))
@settings(max_examples=300, deadline=None)
def test_a_header_is_ours_or_a_frame_error(data: bytes, limit: int) -> None:
    header = parsed(lambda: parse_header(data, limit), {"short", "magic", "version", "length", "kind"})
    if header is not None:
        assert data[:5] == MAGIC + bytes([VERSION])
        assert header.length <= limit
        fields = HEADER.unpack(data)
        assert (header.kind, header.flags, header.incarnation, header.sequence) == (*fields[2:4], *fields[5:7])


@given(st.sampled_from(Kind), long_numbers, long_numbers, st.lists(st.binary(max_size=9), max_size=4), st.booleans())
@settings(deadline=None)
def test_headers_round_trip(kind: Kind, incarnation: int, sequence: int, parts: list[bytes], checksum: bool) -> None:
    header = parse_header(pack_header(kind, incarnation, sequence, parts, checksum))
    assert (header.kind, header.incarnation, header.sequence) == (kind, incarnation, sequence)
    assert header.length == len(b"".join(parts))


@st.composite
def payloads(draw: st.DrawFn) -> bytearray:
    """Any bytes; or numbers that could head a question or an answer, and any bytes behind them."""
    rest = draw(st.binary(max_size=200))
    if draw(st.booleans()):
        return bytearray(rest)
    counts = st.one_of(st.integers(0, 6), numbers)
    head = struct.pack("<5I", *(draw(counts) for _ in range(5)))
    return bytearray(head.ljust(64, b"\0") + rest)


@given(payloads())
@settings(max_examples=300, deadline=None)
def test_a_payload_is_a_question_or_a_frame_error(payload: bytearray) -> None:
    call = parsed(lambda: unpack_call(payload), {"short", "length", "index", "form"})
    if call is not None:
        rows = call.x_RD.shape[0]
        assert all(0 <= row < rows for row in call.rows_A)
        assert len(call.rows_A) == len(call.experts_A) == len(call.weights_A)


@given(payloads())
@settings(max_examples=300, deadline=None)
def test_a_payload_is_an_answer_or_a_frame_error(payload: bytearray) -> None:
    partial = parsed(lambda: unpack_partial(payload), {"short", "length", "form"})
    if partial is not None:
        assert len(payload) == 64 + partial.y_ND.nbytes


@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 9), st.sampled_from(DTYPES), numbers)
@settings(max_examples=100, deadline=None)
def test_questions_and_answers_round_trip(rows: int, hidden: int, count: int, dtype: torch.dtype, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = count if rows else 0
    ids = (random.integers(0, most, count).astype(np.int32) for most in (max(rows, 1), 100))
    x_RD = torch.from_numpy(random.standard_normal((rows, hidden), np.float32)).to(dtype)
    call = ExpertCall(3, x_RD, *ids, random.random(count, np.float32))
    back = unpack_call(bytearray(b"".join(pack_call(call))))
    assert (back.layer, back.x_RD.dtype) == (3, dtype)
    assert torch.equal(back.x_RD, x_RD)
    for name in ("rows_A", "experts_A", "weights_A"):
        assert np.array_equal(getattr(back, name), getattr(call, name))
    partial = Partial(x_RD.float(), Stamps(seed, 2**63, 7), seed, Form(seed % 2))
    again = unpack_partial(bytearray(b"".join(pack_partial(partial))))
    assert torch.equal(again.y_ND, partial.y_ND)
    assert (again.stamps, again.shared_ns) == (partial.stamps, seed)


def test_a_changed_length_or_index_is_refused() -> None:
    call = ExpertCall(0, torch.ones(2, 3), *(np.array([0, 1], np.int32) for _ in range(2)), np.ones(2, np.float32))
    good = b"".join(pack_call(call))
    for payload in (good[:-1], good + b"\0", good[:64], good[:63]):
        with pytest.raises(FrameError):
            unpack_call(bytearray(payload))
    for rows, slots in (([0, 2], [0, 0]), ([-1, 0], [0, 0]), ([0, 0], [-5, 0])):
        odd = ExpertCall(0, call.x_RD, np.array(rows, np.int32), np.array(slots, np.int32), call.weights_A)
        with pytest.raises(FrameError, match="outside"):
            unpack_call(bytearray(b"".join(pack_call(odd))))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    """A raw socket and the channel at its other end, which waits a second at most."""
    left, right = socket.socketpair()
    channel = Channel(right, 77)
    channel.set_timeouts(1.0)
    yield left, channel
    left.close()
    channel.close()


def frame(payload: bytes, checksum: bool = False, incarnation: int = 77, sequence: int = 1) -> bytes:
    return pack_header(Kind.EXPERTS, incarnation, sequence, [payload], checksum) + payload


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.lists(st.integers(0, 1700)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_frames_come_whole_however_they_are_cut(payloads: list[bytes], cuts: list[int], checksum: bool) -> None:
    left, right = socket.socketpair()
    with left, right:
        channel = Channel(right, 77)
        channel.set_timeouts(5.0)
        stream = b"".join(frame(payload, checksum, sequence=n) for n, payload in enumerate(payloads))
        bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        writer = threading.Thread(target=lambda: [left.sendall(stream[a:b]) for a, b in pairwise(bounds)])
        writer.start()
        got = [(header.sequence, bytes(payload)) for header, payload in (channel.receive() for _ in payloads)]
        writer.join(5)
        assert got == list(enumerate(payloads))
        assert channel.received_bytes == len(stream)


@pytest.mark.parametrize("checksum", [False, True])
def test_channels_speak_to_each_other(checksum: bool) -> None:
    """Parts, empty ones and large ones included, arrive as one payload; both ends count the same bytes."""
    ends = [Channel(sock, 5, checksum) for sock in socket.socketpair()]
    for end in ends:
        end.set_timeouts(10.0)
    parts = [b"", b"ab", bytearray(3_000_000), memoryview(b"c")]
    sender = threading.Thread(target=ends[0].send, args=(Kind.PARTIALS, 9, parts))
    sender.start()
    header, payload = ends[1].receive()
    sender.join(10)
    assert (header.kind, header.sequence) == (Kind.PARTIALS, 9)
    assert payload == b"".join(parts)
    assert ends[0].sent_bytes == ends[1].received_bytes == HEADER.size + 3_000_003
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", "magic"),
        (frame(b"hello", incarnation=78), "incarnation"),
        (frame(b"hello")[:-1], "short"),
        (frame(b"hello")[:20], "short"),
        (frame(b"hello", checksum=True)[:-1] + b"?", "checksum"),
        (HEADER.pack(MAGIC, VERSION, Kind.EXPERTS, 0, 0, 77, 1, 1 << 62, 0, 0), "length"),
        (HEADER.pack(MAGIC, VERSION, 99, 0, 0, 77, 1, 0, 0, 0), "kind"),
        (HEADER.pack(MAGIC, VERSION + 1, Kind.EXPERTS, 0, 0, 77, 1, 0, 0, 0), "version"),
    ],
)
def test_what_is_no_frame_of_ours(pair: tuple[socket.socket, Channel], data: bytes, reason: str) -> None:
    left, channel = pair
    left.sendall(data)
    left.close()
    with pytest.raises(FrameError) as caught:
        channel.receive()
    assert caught.value.reason == reason


def test_the_limit_of_a_payload(pair: tuple[socket.socket, Channel]) -> None:
    left, channel = pair
    left.sendall(frame(b"12345") + frame(b"123456"))
    assert channel.receive(5)[1] == b"12345"
    with pytest.raises(FrameError, match="over the limit of 5"):
        channel.receive(5)


def test_silence_before_within_and_after_a_frame(pair: tuple[socket.socket, Channel]) -> None:
    left, channel = pair
    channel.set_timeouts(0.05)
    with pytest.raises(Idle):
        channel.receive()
    left.sendall(frame(b"hello"))
    assert channel.receive()[1] == b"hello"
    left.sendall(frame(b"hello")[:42])
    with pytest.raises(TimeoutError) as caught:
        channel.receive()
    assert not isinstance(caught.value, Idle)


def test_a_peer_that_does_not_read(pair: tuple[socket.socket, Channel]) -> None:
    _, channel = pair
    channel.set_timeouts(0.05)
    with pytest.raises(TimeoutError):
        channel.send(Kind.EXPERTS, 1, [bytes(64 << 20)])


def test_a_peer_that_leaves_between_frames(pair: tuple[socket.socket, Channel]) -> None:
    left, channel = pair
    left.sendall(frame(b"hello"))
    left.close()
    assert channel.receive()[1] == b"hello"
    with pytest.raises(Closed):
        channel.receive()


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "chosen"), [(1, 400), (7168, 8)])
def test_the_most_rows_fill_a_frame(dtype: torch.dtype, hidden: int, chosen: int, form: Form) -> None:
    """The larger of call and reply, counted from what 1 and 2 rows take."""

    def payloads(rows: int) -> tuple[int, int]:
        assignments = np.zeros(rows * chosen, np.int32)
        call = ExpertCall(0, torch.zeros(rows, hidden, dtype=dtype), assignments, assignments, assignments.astype("f4"))
        reply = Partial(torch.zeros(replace(call, form=form).reply_rows, hidden), Stamps(0, 0, 0))
        return sum(map(len, pack_call(call))), sum(map(len, pack_partial(reply)))

    most = most_rows(hidden, dtype, chosen, form)
    largest = {rows: max(one + (two - one) * (rows - 1) for one, two in zip(payloads(1), payloads(2), strict=True))
               for rows in (most, most + 1)}  # fmt: skip
    assert largest[most] <= MAX_PAYLOAD_BYTES < largest[most + 1]
