"""Builds a step's tensors from the scheduled sequences."""

import numpy as np
import torch
from torch import Tensor

from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape
from router_service.models.step_batch import Segment, StepBatch


def build_batch(scheduled: list[ScheduledSequence], block_size: int, device: torch.device) -> StepBatch:
    """Return the scheduled sequences' tokens back to back, with positions, cache slots and segments."""
    # In numpy, then one copy each to the device: many small torch calls cost more.
    tokens, positions, slots, segments, row = [], [], [], [], 0
    for item in scheduled:
        context = item.start + len(item.token_ids)
        all_slots = _slots(item.block_tables[0], context, block_size)
        tokens.append(np.asarray(item.token_ids, dtype=np.int64))
        positions.append(np.arange(item.start, context))
        slots.append(all_slots[item.start :])
        segments.append(Segment(row, len(item.token_ids), context, _in_place(all_slots, device)))
        row += len(item.token_ids)
    last = np.array(
        [part.start + part.length - 1 for part, item in zip(segments, scheduled, strict=True) if item.wants_logits],
        dtype=np.int64,
    )
    parts = (np.concatenate(tokens), np.concatenate(positions), np.concatenate(slots))
    ids, places, cells = (torch.from_numpy(part).to(device) for part in parts)
    return StepBatch(ids, places, cells, tuple(segments), torch.from_numpy(last).to(device))


def step_shape(scheduled: list[ScheduledSequence]) -> StepShape:
    """Return what the step computes, as its cost is estimated by."""
    contexts = [item.start + 1 for item in scheduled if item.decoding]
    shape = StepShape(decode_rows=len(contexts), decode_context=sum(contexts))
    for item in scheduled:
        if not item.decoding:
            shape = shape.with_chunk(len(item.token_ids), item.start)
    return shape


def _slots(block_table: list[int], context: int, block_size: int) -> np.ndarray:
    blocks = np.asarray(block_table, dtype=np.int64)
    return (blocks[:, None] * block_size + np.arange(block_size)).reshape(-1)[:context]


def _in_place(slots: np.ndarray, device: torch.device) -> slice | Tensor:
    first, last = int(slots[0]), int(slots[-1])
    if last - first + 1 == len(slots) and bool((np.diff(slots) == 1).all()):
        return slice(first, last + 1)
    return torch.from_numpy(slots).to(device)
