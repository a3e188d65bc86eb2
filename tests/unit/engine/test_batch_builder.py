"""A step's tensors: positions, the rows whose logits are wanted, and what each cache group writes and reads."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from router_service.engine.scheduling.scheduler import ScheduledSequence
from router_service.engine.step.batch_builder import build_batch
from router_service.models.cache_groups import CacheGroup
from router_service.models.step_batch import GroupBatch, Segment, StepBatch
from router_service.models.view import CacheKind

CPU = torch.device("cpu")
BLOCK = 4
ROWS = ((2, 8), (2, 8))
FULL = CacheGroup(CacheKind.FULL, ROWS, None, (0,))
WINDOW = CacheGroup(CacheKind.WINDOW, ROWS, 6, (1,))
CHUNK = CacheGroup(CacheKind.CHUNK, ROWS, 10, (2,))
GROUPS = (FULL, WINDOW, CHUNK)
SEQUENCE = ScheduledSequence(7, [1, 2, 3], 9, ([5, 6, 2], [-1, 1, 3], [4, 8, 0]))


def build(*scheduled: ScheduledSequence, groups: Sequence[CacheGroup] = GROUPS) -> StepBatch:
    return build_batch(scheduled, BLOCK, groups, CPU)


def read(slots: slice | Tensor) -> list[int]:
    return list(range(slots.start, slots.stop)) if isinstance(slots, slice) else slots.tolist()


def test_a_chunk_reads_each_group_from_the_first_position_that_it_attends_to() -> None:
    batch = build(SEQUENCE)
    assert batch.token_ids_T.tolist() == [1, 2, 3]
    assert batch.positions_T.tolist() == [9, 10, 11]
    assert batch.segments == (Segment(0, 3, 12),)
    full, window, chunk = batch.groups
    assert [part.slots_T.tolist() for part in batch.groups] == [[9, 10, 11], [13, 14, 15], [1, 2, 3]]
    assert read(full.several[0].slots) == [20, 21, 22, 23, 24, 25, 26, 27, 8, 9, 10, 11]
    assert read(window.several[0].slots) == [4, 5, 6, 7, 12, 13, 14, 15]
    assert read(chunk.several[0].slots) == [16, 17, 18, 19, 32, 33, 34, 35, 0, 1, 2, 3]


def test_single_rows_are_gathered_and_others_are_not() -> None:
    one = ScheduledSequence(8, [4], 13, ([0, 1, 2, 3], [-1, -1, 2, 3], [-1, -1, 9, 10]))
    batch = build(one, SEQUENCE, one)
    full, window, chunk = batch.groups
    assert full.single_rows_B is not None
    assert full.single_rows_B.tolist() == [0, 4]
    assert [part.rows for part in full.several] == [slice(1, 4)]
    assert read(full.single.slots(0)) == list(range(14))
    assert read(window.single.slots(1)) == list(range(8, 14))
    assert read(chunk.single.slots(1)) == list(range(38, 42))
    assert build(one).groups[0].single_rows_B is None


def test_the_rows_whose_logits_are_wanted() -> None:
    silent = ScheduledSequence(1, [1, 2, 3], 9, SEQUENCE.block_tables, wants_logits=False)
    assert build(silent, SEQUENCE, silent, SEQUENCE).logit_rows_L.tolist() == [5, 11]
    assert build(silent).logit_rows_L.tolist() == []


@pytest.mark.parametrize("table", [[5, -1, 2], [5, 6], []], ids=str)
def test_a_block_that_is_needed_must_be_there(table: list[int]) -> None:
    missing = ScheduledSequence(7, [1, 2, 3], 9, (table, *SEQUENCE.block_tables[1:]))
    with pytest.raises(ValueError, match="sequence 7: positions 0 to 11 need all blocks 0 to 2 of cache group 0"):
        build(missing)


@given(st.integers(0, 60), st.integers(1, 20), st.sampled_from(GROUPS))
def test_blocks_behind_what_is_seen_may_be_given_back(start: int, length: int, group: CacheGroup) -> None:
    """Any tables, with -1 for all blocks wholly before the first position seen."""
    blocks = -(-(start + length) // BLOCK)
    table = np.random.default_rng(start * 100 + length).permutation(blocks + 3)[:blocks]
    since = group.first_seen(start)
    given = [-1 if (place + 1) * BLOCK <= since else int(block) for place, block in enumerate(table)]
    item = ScheduledSequence(0, [0] * length, start, (given,))
    (part,) = build(item, groups=(group,)).groups
    expected = [int(table[p // BLOCK]) * BLOCK + p % BLOCK for p in range(since, start + length)]
    assert slots_of(part) == expected
    assert part.slots_T.tolist() == expected[-length:]


def slots_of(part: GroupBatch) -> list[int]:
    return read(part.single.slots(0) if len(part.single) else part.several[0].slots)
