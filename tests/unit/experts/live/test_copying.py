"""Experts from another shard's memory: the same bytes and bits as from the checkpoint, which stays the way out."""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experts.config import Backend
from experts.shard.copying.giver import PIECE_BYTES, Giver
from experts.shard.copying.packed import PackedExpert, digest_of, unpacked
from experts.shard.copying.taker import AVOID_SECONDS, Taker
from experts.shard.held.layer import ExpertCopy, LoadedExpert
from experts.shard.held.pace import Pace
from experts.shard.server import ExpertServer
from experts.shard.shard import NotHeldError
from experts.transport.address import Endpoint
from experts.transport.channel import Channel, connect
from experts.transport.control import Copy, Miss, Piece
from experts.transport.frame import Header, Kind
from kernels.portable import UnportableError
from tests.support.live import LiveRig
from tests.support.live_formats import plan_in
from tests.support.mesh import CREDENTIALS, HELLO, NODE
from tests.support.tiny import Tiny
from tests.unit.experts.frame_servers import expert_server, frame_server


def expert_of(rig: LiveRig, layer: int, expert: int) -> LoadedExpert:
    """As the shard that holds all has it."""
    return rig.whole.snapshot[layer].loaded()[expert]


def taker_of(rig: LiveRig, endpoints: Sequence[Endpoint]) -> Taker:
    manifest = rig.manifest
    return Taker(lambda *_: endpoints, NODE, CREDENTIALS, manifest.hidden, manifest.ffn, rig.expert_bytes)


@pytest.fixture
def rig(tiny: Callable[..., Tiny]) -> LiveRig:
    return LiveRig(tiny("gpt_oss").plan)


@pytest.fixture
def giver(rig: LiveRig) -> Iterator[ExpertServer]:
    server = expert_server(rig.whole)
    yield server
    server.close()


def the_same(rig: LiveRig, layer: int, experts: list[int]) -> None:
    """Bits of answers, and bytes of experts."""
    call = rig.call(layer, experts)
    assert torch.equal(rig.shard.compute(call), rig.expected(call))
    for one in rig.shard.snapshot[layer].loaded():
        assert digest_of(one) == digest_of(expert_of(rig, layer, one.expert))


def test_nothing_is_read_that_another_shard_gives(rig: LiveRig, giver: ExpertServer) -> None:
    rig.live.taker = taker_of(rig, [giver.endpoint])
    rig.live.hold({0: [0, 3], 2: [5]})
    assert rig.read == []
    assert rig.live.taker.bytes_taken >= 3 * rig.expert_bytes
    the_same(rig, 0, [0, 3])
    the_same(rig, 2, [5])
    rig.live.taker = None
    rig.live.hold({0: [1]})
    the_same(rig, 0, [0, 1, 3])


@pytest.mark.parametrize("backend", ["native", "cpu", "reference"])
@pytest.mark.parametrize("form", ["fp8-channel", "nvfp4", "mxfp4", "fp8-blocks", "int4", "int4-at-load"])
def test_every_format(tmp_path: Path, form: str, backend: Backend) -> None:
    """Native panels are sent; what only the library knows the layout of is read."""
    rig = LiveRig(plan_in(form, tmp_path), torch.bfloat16, True, backend)
    server = expert_server(rig.whole)
    rig.live.taker = taker_of(rig, [server.endpoint])
    layer = rig.layers[-1]
    rig.live.hold({layer: [4, 1]})
    server.close()
    assert (rig.read == []) is (backend == "native")
    call = rig.call(layer, [1, 4])
    assert torch.equal(rig.shard.compute(call), rig.expected(call))


def test_a_shard_that_does_not_hold_it(rig: LiveRig, giver: ExpertServer) -> None:
    """MISS: the next one is asked, or the checkpoint."""
    empty = expert_server(LiveRig(rig.plan).shard)
    rig.live.taker = taker_of(rig, [empty.endpoint, giver.endpoint])
    rig.live.hold({0: [2]})
    assert rig.read == []
    rig.live.taker = taker_of(rig, [empty.endpoint])
    rig.live.hold({0: [3]})
    empty.close()
    assert rig.read
    the_same(rig, 0, [2, 3])


class Answers:
    """A peer that answers COPY frames with these, and then hangs up."""

    def __init__(self, *answers: tuple[Kind, bytes]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def opened(self, channel: Channel) -> None: ...
    def closed(self, channel: Channel) -> None: ...

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:  # noqa: ARG002 (a handler's)
        if header.kind is Kind.COPY:
            self.asked += 1
            if not self.answers:
                raise ConnectionError("the peer has died")
            kind, answer = self.answers.pop(0)
            channel.send(kind, header.sequence, [answer])


def bad_answers(packed: PackedExpert) -> dict[str, list[tuple[Kind, bytes]]]:
    data, said = b"".join(packed.views), Piece(packed.total, packed.digest).packed()
    half = said + data[: len(data) // 2]
    return {
        "it dies at once": [],
        "it dies half-way": [(Kind.PIECE, half)],
        "another kind": [(Kind.STATUS, b"{}")],
        "it gives it up half-way": [(Kind.PIECE, half), (Kind.MISS, Miss(1, (2,)).packed())],
        "another expert's digest": [(Kind.PIECE, Piece(packed.total, bytes(32)).packed() + data)],
        "a flipped bit": [(Kind.PIECE, said + data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])],
        "an empty piece": [(Kind.PIECE, said)],
        "too large": [(Kind.PIECE, Piece(1 << 40, packed.digest).packed() + data)],
        "shorter than it says": [(Kind.PIECE, b"12")],
        "nothing at all": [(Kind.PIECE, Piece(0, bytes(32)).packed())],
    }


CASES = [
    "it dies at once", "it dies half-way", "another kind", "it gives it up half-way", "another expert's digest",
    "a flipped bit", "an empty piece", "too large", "shorter than it says", "nothing at all",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_peer_spoils_the_checkpoint_has(rig: LiveRig, case: str) -> None:
    answers = bad_answers(PackedExpert(expert_of(rig, 0, 2)))
    assert set(answers) == set(CASES)
    server = frame_server(Answers(*answers[case]))
    rig.live.taker = taker_of(rig, [server.endpoint])
    rig.live.hold({0: [2]})
    server.close()
    assert rig.read
    the_same(rig, 0, [2])


def test_who_has_failed_is_left_alone_for_a_while(rig: LiveRig, giver: ExpertServer) -> None:
    """One that hangs costs one expert its time, not each."""
    asked, now = Answers(), [0.0]
    server = frame_server(asked)
    sizes = rig.manifest.hidden, rig.manifest.ffn, rig.expert_bytes
    taker = Taker(lambda *_: [server.endpoint, giver.endpoint], NODE, CREDENTIALS, *sizes, lambda: now[0])
    for at, tries in ((0.0, 1), (AVOID_SECONDS / 2, 1), (AVOID_SECONDS, 2)):
        now[0] = at
        assert taker.read(0, 2, lambda _: None) is not None
        assert asked.asked == tries
    server.close()


def test_who_changes_their_mind_takes_nothing(rig: LiveRig, giver: ExpertServer) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    rig.live.taker = taker_of(rig, [giver.endpoint])
    with pytest.raises(StopError):
        rig.live.hold({0: [2]}, stop)
    assert (rig.live.held[0], rig.live.copying) == ((), 0)


def test_the_giver_keeps_to_its_pace(rig: LiveRig) -> None:
    slept: list[float] = []
    giver = Giver(rig.whole, Pace(1000, lambda: 100.0 + sum(slept), slept.append))
    total = giver.piece(Copy(0, 1, 0, 500))[0].total
    _, views = giver.piece(Copy(0, 1, 500, 1500))
    assert sum(map(len, views)) == 1500
    giver.piece(Copy(0, 1, 2000, 1))
    assert sum(slept) == pytest.approx(2.0)
    assert total > 2001


@given(st.data())
def test_any_pieces_make_the_whole(data: st.DataObject) -> None:
    expert = LoadedExpert(ExpertCopy(0, 1, 0), torch.randn(6, 5), torch.randn(5, 3), torch.randn(6), torch.randn(5))
    packed, made = PackedExpert(expert), b""
    while len(made) < packed.total:
        made += b"".join(packed.piece(len(made), data.draw(st.integers(1, 500))))
    assert made == b"".join(packed.views)
    again = unpacked(expert.copy, tensor(made), packed.digest, hidden=5, ffn=3)
    assert digest_of(again) == packed.digest
    assert list(packed.piece(packed.total + 3, 10)) == []


def tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def test_an_expert_of_other_sizes(rig: LiveRig) -> None:
    packed = PackedExpert(expert_of(rig, 0, 2))
    data = tensor(b"".join(packed.views))
    with pytest.raises(UnportableError, match="no expert of width 7"):
        unpacked(ExpertCopy(0, 2, 0), data, packed.digest, 7, rig.manifest.ffn)


def test_unknown_experts_are_missed(rig: LiveRig) -> None:
    giver = Giver(rig.whole, Pace())
    for wanted in (Copy(9, 0, 0, PIECE_BYTES), Copy(0, 99, 0, PIECE_BYTES)):
        with pytest.raises(NotHeldError):
            giver.piece(wanted)


def test_a_connection_of_copies_carries_nothing_else(giver: ExpertServer) -> None:
    peer = connect(giver.endpoint, NODE, CREDENTIALS, 10.0, hello=HELLO)
    peer.send(Kind.COPY, 1, [Copy(0, 0, 0, 10).packed()])
    header, payload = peer.receive()
    piece, data = Piece.unpacked(payload)
    assert (header.kind, len(data), piece.total > 10) == (Kind.PIECE, 10, True)
    assert struct.unpack_from("<I", data)[0] < piece.total
    peer.send(Kind.STATUS, 2, [])
    with pytest.raises(ConnectionError):
        peer.receive()
    peer.close()
