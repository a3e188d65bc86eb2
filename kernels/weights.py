"""The weights of one layer's experts, in the form a backend wants them.

Legend: E experts, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# One matrix per expert: stacked in one tensor, or one tensor each (which may be in a library's own packed layout).
Matrices = Tensor | tuple[Tensor, ...]

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class ExpertWeights:
    """What `prepare_weights` returns and `expert_ffn` takes; it owns its tensors.

    `gate_up` holds E matrices [2F, D] (gate rows first), `down` E matrices [D, F], all of one dtype and device.
    """

    gate_up: Matrices
    down: Matrices

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.gate_up)

    @property
    def hidden(self) -> int:
        """D."""
        return self.down[0].shape[0]

    @property
    def ffn(self) -> int:
        """F."""
        return self.down[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every matrix, and of the activations they are applied to."""
        return self.down[0].dtype


def check_weights(gate_up: Matrices, down: Matrices) -> ExpertWeights:
    """Wrap the matrices as they are, after checking that they fit each other.

    Raises ValueError for no expert, unequal numbers of experts, shapes other than [2F, D] and [D, F], mixed dtypes.
    """
    if len(gate_up) == 0 or len(gate_up) != len(down):
        raise ValueError(f"need as many gate-up as down matrices and at least one, got {len(gate_up)} and {len(down)}")
    if any(w.ndim != 2 for w in (*gate_up, *down)):
        raise ValueError("expert matrices must be [2F, D] and [D, F]")
    hidden, ffn = down[0].shape
    for w_2FD, w_DF in zip(gate_up, down, strict=True):
        if w_2FD.shape != (2 * ffn, hidden) or w_DF.shape != (hidden, ffn):
            raise ValueError(f"gate-up {tuple(w_2FD.shape)} and down {tuple(w_DF.shape)} are not [2F, D] and [D, F]")
        if w_2FD.dtype != down[0].dtype or w_DF.dtype != down[0].dtype or w_DF.dtype not in FLOAT_DTYPES:
            raise ValueError(
                f"expert matrices must share bfloat16, float16 or float32, got {w_2FD.dtype}, {w_DF.dtype}"
            )
    return ExpertWeights(gate_up, down)


def check_rows(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> None:
    """Raise ValueError where the arguments of `expert_ffn` do not fit; reads shapes and dtypes only, never data."""
    if x_TD.ndim != 2 or x_TD.shape[1] != weights.hidden or x_TD.dtype != weights.dtype:
        raise ValueError(f"x {tuple(x_TD.shape)} {x_TD.dtype} does not fit experts of {weights.hidden} {weights.dtype}")
    if not token_of_row_N.shape == expert_of_row_N.shape == weight_of_row_N.shape or token_of_row_N.ndim != 1:
        raise ValueError("token_of_row, expert_of_row and weight_of_row must be vectors of one length")
    if token_of_row_N.dtype != torch.int64 or expert_of_row_N.dtype != torch.int64:
        raise ValueError("token_of_row and expert_of_row must be int64")
    if weight_of_row_N.dtype != torch.float32:
        raise ValueError(f"weight_of_row must be float32, got {weight_of_row_N.dtype}")
