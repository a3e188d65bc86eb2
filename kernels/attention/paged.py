"""What single rows read of a paged cache: each row's slots, and how rows of similar lengths are put together.

Made once per step for all layers that share a block table. S slots of the cache, J key-value heads, C key size, V value
size, B rows, P positions of a group with its padding; N slots of all rows, Q parts of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Slots = NDArray[np.int64]

# The least lengths to which rows are padded are multiples of this.
_STEP = 16


@dataclass(frozen=True, slots=True)
class LayerCache:
    """A layer's keys and values; if `values_SJV` is None, values are the first `value_size` elements of the keys."""

    keys_SJC: Tensor
    values_SJV: Tensor | None
    value_size: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        tensors = (self.keys_SJC,) if self.values_SJV is None else (self.keys_SJC, self.values_SJV)
        return sum(t.shape[1] * t.shape[2] * t.element_size() for t in tensors)

    def read(self, slots: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return k_MJC and v_MJV of slots: in place for a slice, else copied."""
        keys = read(self.keys_SJC, slots)
        values = keys[..., : self.value_size] if self.values_SJV is None else read(self.values_SJV, slots)
        return keys, values


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows `first` to `last` (exclusive) of the plan's order, each padded to P slots.

    `mask_B11P` is added to the logits: 0, and minus infinity where a slot is padding.
    """

    first: int
    last: int
    length: int
    slots_BP: Tensor
    mask_B11P: Tensor


@dataclass(frozen=True, slots=True)
class RowsPlan:
    """`order` sorts the rows: those of each padded group together, then the `alone`, which are computed by themselves.

    `order_B` and its inverse are None if the rows are in that order already.
    """

    padded: tuple[PaddedRows, ...]
    alone: tuple[int, ...]
    order_B: Tensor | None
    inverse_B: Tensor | None


@dataclass(frozen=True, slots=True)
class RowParts:
    """All rows' slots on the device, one row after the other, and how rows are cut into parts of a fixed size.

    A row's last part may be shorter. All are int64. `parts_Q3` has for each part its row and the first and last
    (exclusive) of its places in `slots_N`; row b owns the parts from `offsets_B1[b]` up to `offsets_B1[b + 1]`.
    """

    slots_N: Tensor
    parts_Q3: Tensor
    offsets_B1: Tensor


class PagedSegments:
    """The rows of a step by sequence, as one call takes them: T rows, N slots of all segments.

    A segment's rows follow each other; the last of them is at the position of its last slot. `slots_N` are each
    segment's from the first that any of its rows sees, oldest first, and `since` is the position of that one. A row
    sees the positions from `first_T` up to its own. `pointers` are the addresses of `slots_N`, of where each segment's
    slots and rows begin, of `since` and of `first_T`, all int64.

    Raises:
        ValueError: a segment without rows or with more rows than slots, or a row that sees what is not there.
    """

    def __init__(self, slots: Sequence[Slots], rows: Sequence[int], since: Sequence[int], first_T: Slots) -> None:
        self.slots_N = np.concatenate(slots) if slots else np.empty(0, dtype=np.int64)
        self.slot_start = _starts([len(own) for own in slots])
        self.row_start = _starts(rows)
        self.since = np.array(since, dtype=np.int64)
        self.first_T = np.ascontiguousarray(first_T, dtype=np.int64)
        self._check()
        arrays = (self.slots_N, self.slot_start, self.row_start, self.since, self.first_T)
        self.pointers = tuple(array.ctypes.data for array in arrays)
        self.lowest, self.highest = (int(self.slots_N.min()), int(self.slots_N.max())) if slots else (0, -1)

    def __len__(self) -> int:
        return len(self.since)

    @property
    def rows(self) -> int:
        """T."""
        return int(self.row_start[-1])

    def _check(self) -> None:
        lengths, rows = np.diff(self.slot_start), np.diff(self.row_start)
        if len(lengths) != len(rows) or len(rows) != len(self.since) or self.rows != len(self.first_T):
            raise ValueError("segments need as many row counts and positions as slots, and each row its first position")
        since_T = self.since.repeat(rows)
        own_T = np.arange(self.rows) + (self.since + lengths - rows - self.row_start[:-1]).repeat(rows)
        if not (np.all((rows > 0) & (rows <= lengths)) and np.all((self.first_T >= since_T) & (self.first_T <= own_T))):
            raise ValueError("a segment has 1 to as many rows as slots, and each row sees slots of its segment only")


def _starts(counts: Sequence[int]) -> Slots:
    return np.concatenate(([0], np.cumsum(np.asarray(counts, dtype=np.int64))))


class PagedRows:
    """B rows of different sequences; row b attends to all of `slots[b]` (int64, oldest first, never empty)."""

    def __init__(self, slots: Sequence[Slots], device: torch.device) -> None:
        self._slots = tuple(slots)
        self._device = device
        self._in_place: dict[int, slice | Tensor] = {}
        self._plans: dict[tuple[int, int, torch.dtype], RowsPlan] = {}
        self._parts: dict[int, RowParts] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, row: int) -> slice | Tensor:
        """Return the row's slots: a slice if they are contiguous, else indices on the device."""
        if row not in self._in_place:
            self._in_place[row] = in_place(self._slots[row], self._device)
        return self._in_place[row]

    @cached_property
    def segments(self) -> PagedSegments:
        """The same rows, each a segment whose first slot is taken for position 0."""
        zeros = np.zeros(len(self), dtype=np.int64)
        return PagedSegments(self._slots, [1] * len(self), zeros.tolist(), zeros)

    def plan(self, group_tokens: int, longest: int, dtype: torch.dtype) -> RowsPlan:
        """Return the padded groups of rows, each of at most `group_tokens` slots. Made once, then remembered.

        How long a row is padded depends on the row alone: the order of additions follows from the length, so its result
        does not depend on which rows share the step.

        Args:
            longest: rows whose padded length is above it stay alone.
        """
        key = group_tokens, longest, dtype
        if key not in self._plans:
            self._plans[key] = self._made(*key)
        return self._plans[key]

    def parts(self, size: int) -> RowParts:
        """Return the rows in parts of `size` slots: what a kernel for all rows reads. Made once, then remembered."""
        if size not in self._parts:
            self._parts[size] = self._cut(size)
        return self._parts[size]

    def _cut(self, size: int) -> RowParts:
        lengths_B = np.array([len(slots) for slots in self._slots])
        counts_B = -(-lengths_B // size)
        offsets_B1 = np.concatenate(([0], counts_B.cumsum()))
        row_Q = np.arange(len(lengths_B)).repeat(counts_B)
        # A part's number within its row says how far behind the row's first slot it begins.
        ends_B = lengths_B.cumsum()
        starts_Q = (ends_B - lengths_B)[row_Q] + (np.arange(len(row_Q)) - offsets_B1[row_Q]) * size
        parts_Q3 = np.stack((row_Q, starts_Q, np.minimum(starts_Q + size, ends_B[row_Q])), axis=1)
        return RowParts(*_together((np.concatenate(self._slots), parts_Q3, offsets_B1), self._device))

    def _made(self, group_tokens: int, longest: int, dtype: torch.dtype) -> RowsPlan:
        lengths = [padded_length(len(slots)) for slots in self._slots]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        groups, first = [], 0
        while first < len(order) and (length := lengths[order[first]]) <= longest:
            last, most = first + 1, first + max(1, group_tokens // length)
            while last < min(most, len(order)) and lengths[order[last]] == length:
                last += 1
            groups.append(self._padded(first, last, order, length, dtype))
            first = last
        places = None if order == sorted(order) else torch.tensor(order, device=self._device)
        return RowsPlan(tuple(groups), tuple(order[first:]), places, None if places is None else places.argsort())

    def _padded(self, first: int, last: int, order: list[int], length: int, dtype: torch.dtype) -> PaddedRows:
        slots_BP = np.empty((last - first, length), dtype=np.int64)
        used_B = np.empty(last - first, dtype=np.int64)
        for place, row in enumerate(order[first:last]):
            own = self._slots[row]
            # The padding reads the row's last slot: any other may hold what is no number, which no mask takes away.
            slots_BP[place, : len(own)], slots_BP[place, len(own) :] = own, own[-1]
            used_B[place] = len(own)
        padding_BP = torch.from_numpy(np.arange(length) >= used_B[:, None])
        mask_BP = torch.zeros(padding_BP.shape, dtype=dtype).masked_fill_(padding_BP, float("-inf"))
        slots = torch.from_numpy(slots_BP.reshape(-1)).to(self._device)
        return PaddedRows(first, last, length, slots, mask_BP[:, None, None].to(self._device))


def _together(arrays: Sequence[Slots], device: torch.device) -> Iterator[Tensor]:
    """Arrays on the device by a single copy; each begins at a multiple of 16 bytes, for which Triton loads faster."""
    places = np.cumsum([0, *(array.size + array.size % 2 for array in arrays)])
    whole = np.zeros(places[-1], dtype=np.int64)
    for place, array in zip(places, arrays, strict=False):
        whole[place : place + array.size] = array.reshape(-1)
    there = torch.from_numpy(whole).to(device)
    for place, array in zip(places, arrays, strict=False):
        yield there[place : place + array.size].view(array.shape)


def padded_length(length: int) -> int:
    """The next of the lengths to which rows are padded: multiples of 16, above 128 four per octave (under 1/4 more)."""
    step = max(_STEP, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def in_place(slots: Slots, device: torch.device) -> slice | Tensor:
    """Return the slots as a slice if each follows on the one before, else as indices on the device."""
    first, last = int(slots[0]), int(slots[-1])
    if last - first + 1 == len(slots) and bool((np.diff(slots) == 1).all()):
        return slice(first, last + 1)
    return torch.from_numpy(slots).to(device)


def read(stored_SJC: Tensor, slots: slice | Tensor) -> Tensor:
    """Return the slots' elements: in place for a slice, else copied."""
    return stored_SJC[slots] if isinstance(slots, slice) else stored_SJC.index_select(0, slots)
