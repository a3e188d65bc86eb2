"""The routing of consecutive positions in one message: arrays of bytes, which cost the same however many there are.

P positions, L MoE layers, K experts chosen, N experts scored. Arrays are little-endian and C-contiguous: the bytes of
consecutive positions are consecutive.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

ID = np.dtype("<u2")
VALUE = np.dtype("<f4")
# In place of an expert that a token went on without: `experts.routing.LOST` as an ID.
DROPPED = 0xFFFF


class RoutingPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the tokens of positions `first` to `first + positions` went in each of `layers`.

    `experts` and `shards` (the shard that held each expert) are uint16 [P, L, K], `weights` float32 [P, L, K]. An
    expert that the token went on without is `DROPPED`.
    `scored_experts` uint16 and `scores` float32 are [P, L, N], best first; empty unless requested. A later form of an
    array takes a name of its own, since routers and Fronts of two versions meet while a cluster is upgraded.
    """

    first: int
    positions: int
    layers: list[int]
    experts: bytes
    weights: bytes
    shards: bytes
    scored_experts: bytes = b""
    scores: bytes = b""


@dataclass(frozen=True, slots=True)
class RoutingArrays:
    """A part's arrays, as in `RoutingPart`; the last two have N = 0 unless scores were requested."""

    layers: list[int]
    experts_PLK: NDArray[np.uint16]
    weights_PLK: NDArray[np.float32]
    shards_PLK: NDArray[np.uint16]
    scored_experts_PLN: NDArray[np.uint16]
    scores_PLN: NDArray[np.float32]


def arrays_of(part: RoutingPart) -> RoutingArrays:
    """Return views of the part's bytes.

    Raises:
        ValueError: their lengths do not fit the numbers of positions and layers.
    """
    shape = part.positions, len(part.layers)
    return RoutingArrays(
        part.layers,
        _array(part.experts, ID, shape),
        _array(part.weights, VALUE, shape),
        _array(part.shards, ID, shape),
        _array(part.scored_experts, ID, shape),
        _array(part.scores, VALUE, shape),
    )


def from_position(part: RoutingPart, position: int) -> RoutingPart | None:
    """Return the part without the positions before `position`, None if none is left."""
    skipped = max(0, position - part.first)
    if skipped >= part.positions:
        return None
    if not skipped:
        return part
    arrays = {name: _behind(getattr(part, name), part.positions, skipped) for name in ARRAYS}
    return msgspec.structs.replace(part, first=part.first + skipped, positions=part.positions - skipped, **arrays)


ARRAYS = ("experts", "weights", "shards", "scored_experts", "scores")


def _behind(data: bytes, positions: int, skipped: int) -> bytes:
    return data[len(data) // positions * skipped :]


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, int]) -> NDArray:  # type: ignore[type-arg]
    positions, layers = shape
    width = len(data) // dtype.itemsize // max(1, positions * layers)
    return np.frombuffer(data, dtype).reshape(positions, layers, width)
