"""Takes experts from the memory of other shards, which have read and packed them already."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import torch
from torch import Tensor

from experts.shard.copying.giver import PIECE_BYTES
from experts.shard.copying.packed import unpacked, view_of
from experts.shard.held.layer import ExpertCopy, LoadedExpert
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.channel import Channel, connect
from experts.transport.control import Copy, Hello, Piece
from experts.transport.frame import FrameError, Kind
from experts.transport.trust.credentials import Credentials
from kernels.portable import UnportableError

log = logging.getLogger(__name__)

# For connecting, and for each piece: whoever paces them makes us wait.
TIMEOUT_SECONDS = 10.0
# One that has failed is left alone for so long: one that hangs must not hold up each further expert.
AVOID_SECONDS = 60.0
# Of an expert's bytes beside its weights: the form, padding of panels and of tensors.
SLACK_BYTES = 1 << 20


class Taker:
    """Asks the shards at `holders(layer, expert)`, one after the other; from `node`, with the deployment's credentials.

    Args:
        hidden, ffn: the width and size of each expert; of any other none is taken.
        most_bytes: of an expert in the form that it is held in; more is refused before it is read.
        clock: in seconds.
    """

    def __init__(
        self,
        holders: Callable[[int, int], Sequence[Endpoint]],
        node: str,
        credentials: Credentials,
        hidden: int,
        ffn: int,
        most_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holders = holders
        self._node = node
        self._credentials = credentials
        self._sizes = hidden, ffn
        self._most_bytes = 2 * most_bytes + SLACK_BYTES  # small matrices are padded to whole panels
        self._expert_bytes = most_bytes
        self._hello = Hello(new_incarnation(), 0)
        self._clock = clock
        self._avoided = dict[int, float]()  # by incarnation: until when
        self.bytes_taken = 0

    def read(self, layer: int, expert: int, before: Callable[[int], None]) -> LoadedExpert | None:
        """Return one expert, None where nobody gives it: then the checkpoint has it.

        Args:
            before: called before each piece with its bytes; what it raises ends the reading.
        """
        for endpoint in self._holders(layer, expert):
            if self._clock() < self._avoided.get(endpoint.incarnation, 0.0):
                continue
            try:
                with closing(
                    connect(endpoint, self._node, self._credentials, TIMEOUT_SECONDS, hello=self._hello)
                ) as peer:
                    found = self._taken(peer, layer, expert, before)
            except (OSError, UnportableError) as error:
                log.warning("shard %d did not give expert %d of layer %d: %s", endpoint.index, expert, layer, error)
                self._avoid(endpoint)
                continue
            if found is not None:
                return found
        return None

    def _avoid(self, endpoint: Endpoint) -> None:
        now = self._clock()
        self._avoided = {one: until for one, until in self._avoided.items() if until > now}
        self._avoided[endpoint.incarnation] = now + AVOID_SECONDS

    def _taken(self, peer: Channel, layer: int, expert: int, before: Callable[[int], None]) -> LoadedExpert | None:
        first = self._piece(peer, Copy(layer, expert, 0, PIECE_BYTES), before)
        if first is None:
            return None
        (total, digest), data = first
        if total > self._most_bytes:
            raise FrameError("length", f"an expert of {total} bytes, at most {self._most_bytes} are expected")
        data_N, place = torch.empty(total, dtype=torch.uint8), 0
        while True:
            place += _filled(data_N, place, data)
            if place == total:
                break
            further = self._piece(peer, Copy(layer, expert, place, PIECE_BYTES), before)
            if further is None or further[0] != (total, digest):
                raise FrameError("changed", "the expert went while it was read")
            data = further[1]
        self.bytes_taken += total
        return unpacked(ExpertCopy(layer, expert, self._expert_bytes), data_N, digest, *self._sizes)

    def _piece(self, peer: Channel, wanted: Copy, before: Callable[[int], None]) -> tuple[Piece, memoryview] | None:
        """One piece, None for a MISS."""
        before(wanted.most)
        peer.send(Kind.COPY, wanted.offset, [wanted.packed()])
        header, payload = peer.receive(PIECE_BYTES + SLACK_BYTES)
        if header.kind is Kind.MISS:
            return None
        if header.kind is not Kind.PIECE or header.sequence != wanted.offset:
            raise FrameError("kind", f"asked for a piece of an expert, got {header.kind.name}")
        piece, data = Piece.unpacked(payload)
        return piece, memoryview(data)


def _filled(data_N: Tensor, place: int, data: memoryview) -> int:
    """Put a piece in its place; how many bytes it has."""
    if not 0 < len(data) <= len(data_N) - place:
        raise FrameError("length", f"a piece of {len(data)} bytes where {len(data_N) - place} are left")
    view_of(data_N)[place : place + len(data)] = data
    return len(data)
