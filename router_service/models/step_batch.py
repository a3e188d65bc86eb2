"""One engine step in tensors: the tokens of all its sequences back to back, and the slots of each context."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """A sequence's share of a step: rows `start` to `start + length`, whose last token sees `context` tokens.

    `slots` are those of the context's keys: a slice if its blocks are contiguous (read in place), else indices.
    """

    start: int
    length: int
    context: int
    slots: slice | Tensor


@dataclass(frozen=True, slots=True)
class StepBatch:
    """T tokens: ids, positions and cache slots (int64 [T]), the segments, and the rows whose logits are needed."""

    token_ids_T: Tensor
    positions_T: Tensor
    slots_T: Tensor
    segments: tuple[Segment, ...]
    last_rows_B: Tensor
