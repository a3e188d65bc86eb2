"""What formats with a scale for each group of inputs have in common: sizes, checks, and the scaling itself.

Legend: O outputs (rows), I inputs (columns), G groups along them, M rows of a piece.
"""

from __future__ import annotations

from torch import Tensor

from kernels.formats.quantized import FLOAT_DTYPES


def groups_of(inputs: int, group: int) -> int:
    """How many groups of `group` inputs a row has; the last may be smaller. ValueError for a group of none."""
    if group < 1:
        raise ValueError(f"a group has at least one input, got groups of {group}")
    return -(-inputs // group)


def check_groups(shape: tuple[int, int], scales_OG: Tensor, group: int) -> None:
    """Check the scales of a matrix of `shape`.

    Raises:
        ValueError: sizes that are not positive, or scales of another shape or dtype.
    """
    if min(*shape, group) < 1:
        raise ValueError(f"need a matrix and groups, none empty, got {tuple(shape)} in groups of {group}")
    wanted = shape[0], groups_of(shape[1], group)
    if tuple(scales_OG.shape) != wanted or scales_OG.dtype not in FLOAT_DTYPES:
        found = f"{scales_OG.dtype} {tuple(scales_OG.shape)}"
        raise ValueError(f"scales of a {tuple(shape)} matrix in groups of {group} must be floats {wanted}, got {found}")


def scale_groups(wide_MI: Tensor, scales_MG: Tensor, group: int) -> Tensor:
    """Multiply each group of `wide_MI` (float32) by its scale, in place."""
    for part, scales in _by_group(wide_MI, scales_MG, group):
        part.mul_(scales)
    return wide_MI


def shift_groups(wide_MI: Tensor, zeros_MG: Tensor, group: int) -> Tensor:
    """Subtract from each group of `wide_MI` (float32) its zero point, in place."""
    for part, zeros in _by_group(wide_MI, zeros_MG, group):
        part.sub_(zeros)
    return wide_MI


def _by_group(wide_MI: Tensor, of_groups_MG: Tensor, group: int) -> list[tuple[Tensor, Tensor]]:
    """Whole groups as one view, so that numbers broadcast instead of being repeated for each column; then the rest."""
    rows, inputs = wide_MI.shape
    whole, of_groups_MG = inputs // group, of_groups_MG.float()
    parts = [(wide_MI[:, : whole * group].view(rows, whole, group), of_groups_MG[:, :whole, None])] if whole else []
    if whole * group < inputs:
        parts.append((wide_MI[:, whole * group :], of_groups_MG[:, whole:]))
    return parts
