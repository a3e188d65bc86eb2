"""What the three publishers' INT4 layouts have in common: the group of each input, and scales as narrow as published.

Legend: O outputs, I inputs, G groups, P bytes of a row of codes.
"""

import torch
from torch import Tensor

from kernels.formats.groups import groups_of
from kernels.formats.int4_groups import MIDDLE, Int4Groups
from kernels.formats.nibbles import packed_nibbles, unpacked_nibbles


def int4_matrix(
    codes_OP: Tensor,
    scales_OG: Tensor,
    dtype: torch.dtype,
    group: int,
    inputs: int,
    zeros_OG: Tensor | None = None,
    group_of_input_I: Tensor | None = None,
) -> Int4Groups:
    """Make a matrix of what was read: codes in their order of inputs, scales in float32.

    Zero points that are all 8 are left out. Inputs are sorted by group where groups do not lie together.

    Raises:
        ValueError: groups of other sizes than `group`, the last being the rest.
    """
    order_I = None if group_of_input_I is None else _order(group_of_input_I, group)
    if order_I is not None:
        codes_OP = packed_nibbles(unpacked_nibbles(codes_OP)[:, :inputs].index_select(1, order_I))
    if zeros_OG is not None and bool((zeros_OG == MIDDLE).all()):
        zeros_OG = None
    return Int4Groups(codes_OP, _narrowed(scales_OG).contiguous(), dtype, group, inputs, zeros_OG, order_I)


def int4_bytes(outputs: int, inputs: int, group: int, zeros: bool, ordered: bool) -> int:
    """Bytes of such a matrix, its scales published in 16 bits."""
    made = Int4Groups.empty(
        (outputs, inputs), torch.bfloat16, "meta", group=group, zeros=zeros, ordered=ordered
    )  # any 16-bit scales: bfloat16's are as large as float16's
    return made.nbytes


def whole_words(count: int, what: str) -> int:
    """How many 32-bit words hold `count` codes.

    Raises:
        ValueError: it is no multiple of 8.
    """
    if count % 8:
        raise ValueError(f"the format has eight {what} a word, got {count}")
    return count // 8


def _order(group_of_input_I: Tensor, group: int) -> Tensor | None:
    """The inputs sorted by group; None where they are, and where -1 says that none was assigned."""
    wanted_I = torch.arange(len(group_of_input_I), device=group_of_input_I.device) // group
    if bool((group_of_input_I == wanted_I).all()) or bool((group_of_input_I == -1).all()):
        return None
    sorted_I, order_I = group_of_input_I.sort(stable=True)
    if not bool((sorted_I == wanted_I).all()):
        groups = groups_of(len(wanted_I), group)
        raise ValueError(f"g_idx must give each of {groups} groups {group} inputs, the last the rest; it does not")
    return order_I.int()


def _narrowed(scales_OG: Tensor) -> Tensor:
    """In the first of bfloat16 and float16 that holds every scale exactly, else in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        narrow_OG = scales_OG.to(dtype)
        if torch.equal(narrow_OG.float(), scales_OG):
            return narrow_OG
    return scales_OG
