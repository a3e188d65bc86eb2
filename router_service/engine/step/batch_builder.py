"""Builds a step's tensors from the scheduled sequences."""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.attention.paged import PagedRows, PagedSegments, in_place
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape
from router_service.models.cache_groups import CacheGroup
from router_service.models.step_batch import GroupBatch, PagedSegment, Segment, StepBatch
from router_service.models.view import View

Ints = NDArray[np.int64]


def build_batch(
    scheduled: Sequence[ScheduledSequence], block_size: int, groups: Sequence[CacheGroup], device: torch.device
) -> StepBatch:
    """Return the scheduled sequences' tokens back to back, with positions, segments, and the slots of each cache group.

    Raises:
        ValueError: a sequence's tokens read or write a block that its table marks as given back (-1) or does not have.
    """
    # In numpy, then one copy each to the device: many small torch calls cost more.
    segments = _segments(scheduled)
    ids = np.array(list(chain.from_iterable(item.token_ids for item in scheduled)), dtype=np.int64)
    before = np.array([part.context - part.length - part.start for part in segments])
    places = np.arange(len(ids)) + before.repeat([part.length for part in segments])
    wanted = [part for item, part in zip(scheduled, segments, strict=True) if item.wants_logits]
    last = np.array([part.start + part.length - 1 for part in wanted], dtype=np.int64)
    token_ids_T, positions_T, logit_rows_L = (torch.from_numpy(part).to(device) for part in (ids, places, last))
    parts = tuple(
        _group_batch(_slots_read(scheduled, number, group, block_size), segments, group.view, places, device)
        for number, group in enumerate(groups)
    )
    return StepBatch(token_ids_T, positions_T, segments, parts, logit_rows_L)


def joined_segments(batches: Sequence[StepBatch]) -> tuple[Segment, ...]:
    """Return the segments of all batches of a step, whose rows follow each other."""
    starts = accumulate(len(batch.token_ids_T) for batch in batches[:-1])
    return batches[0].segments + tuple(
        Segment(part.start + start, part.length, part.context)
        for batch, start in zip(batches[1:], starts, strict=True)
        for part in batch.segments
    )


def step_shape(scheduled: Sequence[ScheduledSequence]) -> StepShape:
    """Return what the step computes, as its cost is estimated by."""
    contexts = [item.start + 1 for item in scheduled if item.decoding]
    shape = StepShape(decode_rows=len(contexts), decode_context=sum(contexts))
    for item in scheduled:
        if not item.decoding:
            shape = shape.with_chunk(len(item.token_ids), item.start)
    return shape


def _segments(scheduled: Sequence[ScheduledSequence]) -> tuple[Segment, ...]:
    made, row = [], 0
    for item in scheduled:
        made.append(Segment(row, len(item.token_ids), item.start + len(item.token_ids)))
        row += len(item.token_ids)
    return tuple(made)


def _slots_read(scheduled: Sequence[ScheduledSequence], number: int, group: CacheGroup, block_size: int) -> list[Ints]:
    """For each sequence the slots from the first position that its tokens attend to in the group, up to its last."""
    view, blocks, parts = group.view, list[int](), list[slice]()
    for item in scheduled:
        since, context = view.first_seen(item.start), item.start + len(item.token_ids)
        first = since // block_size
        own = item.block_tables[number][first : -(-context // block_size)]
        _check_blocks(item, number, since, block_size, own)
        # Where the sequence's slots will be among those of all blocks.
        offset = (len(blocks) - first) * block_size
        parts.append(slice(offset + since, offset + context))
        blocks += own
    # Once for all sequences: a few numpy calls for each would cost more than all the rest of the batch.
    slots = (np.array(blocks, dtype=np.int64)[:, None] * block_size + np.arange(block_size)).reshape(-1)
    return [slots[part] for part in parts]


def _check_blocks(item: ScheduledSequence, number: int, since: int, block_size: int, blocks: list[int]) -> None:
    context = item.start + len(item.token_ids)
    first, last = since // block_size, -(-context // block_size)
    if len(blocks) < last - first or min(blocks) < 0:
        raise ValueError(
            f"sequence {item.key}: positions {since} to {context - 1} need all blocks {first} to {last - 1} of cache "
            f"group {number}, but its table has {blocks} there"
        )


def _group_batch(
    slots: list[Ints], segments: Sequence[Segment], view: View, places: Ints, device: torch.device
) -> GroupBatch:
    written = np.concatenate([own[-part.length :] for own, part in zip(slots, segments, strict=True)])
    single = [number for number, part in enumerate(segments) if part.length == 1]
    rows = np.array([segments[number].start for number in single], dtype=np.int64)
    return GroupBatch(
        slots_T=torch.from_numpy(written).to(device),
        single=PagedRows([slots[number] for number in single], device),
        single_rows_B=None if len(single) == len(segments) else torch.from_numpy(rows).to(device),
        several=tuple(
            PagedSegment(part.rows, in_place(own, device))
            for own, part in zip(slots, segments, strict=True)
            if part.length > 1
        ),
        segments=PagedSegments(
            slots,
            [part.length for part in segments],
            [view.first_seen(part.context - part.length) for part in segments],
            view.first_seen_by_each(places),
        ),
    )
