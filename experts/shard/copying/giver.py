"""Gives the experts that a shard holds to another shard, piece by piece, beside computing."""

from experts.shard.copying.packed import PackedExpert
from experts.shard.held.pace import Pace
from experts.shard.shard import ExpertShard, NotHeldError
from experts.transport.control import Copy, Piece
from kernels.portable import UnportableError

# As much as a reader may ask for at once: it lasts a few milliseconds.
PIECE_BYTES = 1 << 20


class Giver:
    """What one connection is given. It keeps the expert that it gives until the last piece, even if it is given up."""

    def __init__(self, shard: ExpertShard, pace: Pace) -> None:
        self._shard = shard
        self._pace = pace
        self._key = (-1, -1)
        self._packed: PackedExpert | None = None

    def piece(self, wanted: Copy) -> tuple[Piece, list[memoryview]]:
        """Return what comes before a piece, and the piece in parts.

        Raises:
            NotHeldError: the expert is not held here, or in a form that cannot be sent.
        """
        if self._packed is None or self._key != (wanted.layer, wanted.expert):
            self._packed, self._key = self._pack(wanted), (wanted.layer, wanted.expert)
        packed = self._packed
        views = list(packed.piece(wanted.offset, min(wanted.most, PIECE_BYTES)))
        count = sum(map(len, views))
        if wanted.offset + count >= packed.total:
            self._packed = None
        self._pace.take(count)
        return Piece(packed.total, packed.digest), views

    def _pack(self, wanted: Copy) -> PackedExpert:
        held = self._shard.snapshot.get(wanted.layer)
        found = [one for one in held.loaded() if one.expert == wanted.expert] if held else []
        try:
            if found:
                return PackedExpert(found[0])
        except UnportableError:
            pass
        raise NotHeldError(self._shard.index, wanted.layer, [wanted.expert])
