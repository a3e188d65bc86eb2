"""What one layer's trip cost: the six phases of each call, and the engine's own wait.

    pack -> dispatch -> queue -> compute -> combine -> reduce

On one host router and shard read the same monotonic clock (CLOCK_MONOTONIC), so every difference is exact. A call is
kept as packed numbers: a step may have thousands, and making objects of them would cost more than adding them up.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from experts.division.base import Sizes
from experts.timing.phase import PHASES, Phase
from experts.transport.base import Reply, Sent

# Shard, phases, rows, assignments, bytes out and back, when it was answered, others' part of the computation, experts.
CALL = struct.Struct(f"={8 + len(PHASES)}q")


@dataclass(frozen=True, slots=True)
class CallPhases:
    """One shard's call in one layer: nanoseconds by phase (in the order of `PHASES`), sizes, when it was answered.

    `shared_ns` of its compute phase belong to other routers' calls, see `experts.transport.call.Partial`. `experts` are
    those whose weights the call needs.
    """

    shard: int
    phases_ns: tuple[int, ...]
    rows: int
    assignments: int
    dispatch_bytes: int
    combine_bytes: int
    received_ns: int
    shared_ns: int = 0
    experts: int = 0

    def ns(self, phase: Phase) -> int:
        """Nanoseconds of one phase."""
        return self.phases_ns[phase.column]

    def packed(self) -> bytes:
        """The numbers as `measured` packs them."""
        # Spread, because that is how struct packs a row.
        sizes = (self.rows, self.assignments, self.dispatch_bytes, self.combine_bytes)
        return CALL.pack(self.shard, *self.phases_ns, *sizes, self.received_ns, self.shared_ns, self.experts)

    @classmethod
    def unpacked(cls, numbers: tuple[int, ...]) -> "CallPhases":
        """The reverse of `packed`."""
        shard, *phases_ns, rows, assignments, dispatch_bytes, combine_bytes, received_ns, shared_ns, experts = numbers
        return cls(
            shard=shard,
            phases_ns=tuple(phases_ns),
            rows=rows,
            assignments=assignments,
            dispatch_bytes=dispatch_bytes,
            combine_bytes=combine_bytes,
            received_ns=received_ns,
            shared_ns=shared_ns,
            experts=experts,
        )


def measured(started_ns: int, sent: Sent, answer: Reply, reduce_ns: int, sizes: Sizes) -> bytes:
    """Split a call, of which so much was used, at its stamps. Packing lasts until this shard's own sending begins."""
    stamps, received_ns = answer.partial.stamps, answer.received_ns
    return CALL.pack(
        sent.shard,
        sent.sent_ns - started_ns,
        stamps.received - sent.sent_ns,
        stamps.started - stamps.received,
        stamps.sent - stamps.started,
        received_ns - stamps.sent,
        reduce_ns,
        sizes.rows,
        sizes.assignments,
        sent.wire_bytes,
        answer.wire_bytes,
        received_ns,
        answer.partial.shared_ns,
        sizes.experts,
    )


@dataclass(frozen=True, slots=True)
class LayerTrip:
    """One layer's calls and the engine's time: `pack_ns` grouping, `exposed_ns` waiting, `reduce_ns` adding.

    The engine began to wait at `waiting_ns` of its clock; before that it may have computed something of its own.
    """

    layer: int
    packed: bytes
    pack_ns: int
    exposed_ns: int
    reduce_ns: int
    waiting_ns: int

    @classmethod
    def of(
        cls, layer: int, calls: Iterable[CallPhases], *, pack_ns: int, exposed_ns: int, reduce_ns: int, waiting_ns: int
    ) -> "LayerTrip":
        """A trip of these calls."""
        return cls(
            layer=layer,
            packed=b"".join(call.packed() for call in calls),
            pack_ns=pack_ns,
            exposed_ns=exposed_ns,
            reduce_ns=reduce_ns,
            waiting_ns=waiting_ns,
        )

    @property
    def calls(self) -> tuple[CallPhases, ...]:
        """The calls that were answered, as objects."""
        return tuple(CallPhases.unpacked(numbers) for numbers in CALL.iter_unpack(self.packed))
