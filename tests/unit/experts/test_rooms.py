"""The buffers of a lane: a layer no larger than one before allocates nothing, and finds nothing of that one."""

import numpy as np
import pytest
import torch

from experts.answers import AnswerRoom
from experts.division.pairs import divide
from experts.gathering import GatherRoom
from experts.placement import even_placement
from experts.routing import Routing


def routing_of(*ids: list[int]) -> Routing:
    return Routing(np.array(ids), np.ones((len(ids), len(ids[0])), np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_gathered_into_one_buffer_that_stays(dtype: torch.dtype) -> None:
    room, x_TD = GatherRoom(), torch.randn(3, 4).to(dtype)
    division = divide(routing_of([0, 5], [1, 9], [5, 2]), even_placement(12, 3).everywhere, None)
    groups = [division.call_rows(parts) for _, parts in division.runs]
    first = room.rows(x_TD, groups)
    assert [len(rows) for rows in first] == [3, 2, 1]
    assert first[0].data_ptr() == x_TD.data_ptr()  # all tokens: nothing to gather
    for rows, group in zip(first, groups, strict=True):
        assert torch.equal(rows, x_TD[torch.from_numpy(group.tokens_R)])
    with torch.inference_mode():
        again = room.rows(-x_TD, groups)
    assert [one.data_ptr() for one in again[1:]] == [one.data_ptr() for one in first[1:]]
    assert torch.equal(again[2], -x_TD[1:2])


def test_answers_are_received_in_one_buffer_that_stays() -> None:
    room = AnswerRoom()
    first = room.rows(5, 4)
    first[:2], first[2:] = 1.0, 2.0
    assert torch.equal(room.sum(np.array([[1, 3], [2, 0]])), torch.tensor([[3.0] * 4, [1.0] * 4]))
    again = room.rows(3, 4)
    assert again.ctypes.data == first.ctypes.data
    again[:1], again[1:] = -1.0, 5.0
    assert torch.equal(room.sum(np.array([[1, 2]])), torch.full((1, 4), 4.0))
    assert room.sum(np.zeros((2, 0), np.int64)).tolist() == [[0.0] * 4] * 2


def test_answers_add_up_in_the_order_of_their_places() -> None:
    """Only in this order do the first two cancel before the small one is added."""
    room = AnswerRoom()
    rows = room.rows(3, 1)
    rows[:, 0] = [1e8, -1e8, 1.0]
    assert room.sum(np.array([[1, 2, 3], [1, 3, 2], [3, 1, 2]])).flatten().tolist() == [1.0, 0.0, 0.0]
