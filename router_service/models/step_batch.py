"""One engine step in tensors: the tokens of all its sequences back to back, and the slots of each context."""

from dataclasses import dataclass

from torch import Tensor

from kernels.attention.paged import PagedRows, PagedSegments


@dataclass(frozen=True, slots=True)
class Segment:
    """A sequence's share of a step: rows `start` to `start + length`, whose last token is number `context`."""

    start: int
    length: int
    context: int

    @property
    def rows(self) -> slice:
        """Its rows of the step."""
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True, slots=True)
class PagedSegment:
    """A segment of several rows. `slots` are those of the positions from the first that any of them attends to, up to
    its last: a slice if they are contiguous (read in place), else indices.
    """

    rows: slice
    slots: slice | Tensor


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """What the layers of one cache group need: where the T tokens are written, and what they read.

    `single` are the segments of one row, for one call; `single_rows_B` are their rows of the step (int64), None if
    those are all rows. `several` are the other segments. `segments` are all of them, for backends that take them so.
    """

    slots_T: Tensor
    single: PagedRows
    single_rows_B: Tensor | None
    several: tuple[PagedSegment, ...]
    segments: PagedSegments


@dataclass(frozen=True, slots=True)
class StepBatch:
    """T tokens: ids and positions (int64 [T]), the segments, and a part for each cache group of the model, in order.

    `logit_rows_L` are the rows whose logits are wanted (int64, ascending).
    """

    token_ids_T: Tensor
    positions_T: Tensor
    segments: tuple[Segment, ...]
    groups: tuple[GroupBatch, ...]
    logit_rows_L: Tensor
