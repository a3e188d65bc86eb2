"""The weights of one layer's experts, in the form a backend wants them, and the form of the experts themselves.

Legend: E experts, D hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from kernels.formats.quantized import FLOAT_DTYPES, Matrix, Quantized

# One matrix per expert: stacked in one tensor, or one each (a tensor, maybe in a library's own layout, or quantized).
Matrices = Tensor | tuple[Matrix, ...]


class Activation(StrEnum):
    """What becomes of an expert's gate and up."""

    # silu(gate) * up: Mixtral, Qwen-MoE, DeepSeek, Llama 4.
    SILU = "silu"
    # gate = min(gate, limit), up = clamp(up, -limit, limit), then (up + 1) * gate * sigmoid(alpha * gate): gpt-oss.
    CLAMPED_SWIGLU = "clamped_swiglu"


@dataclass(frozen=True)
class ExpertForm:
    """How an expert computes. `alpha` and `limit` belong to CLAMPED_SWIGLU.

    With `weight_inputs` the routing weight multiplies the expert's input, rounded to x's dtype after the product, and
    not its output (Llama 4). Raises ValueError for a limit that is not above 0.
    """

    activation: Activation = Activation.SILU
    alpha: float = 1.702
    limit: float = 7.0
    weight_inputs: bool = False

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"the limit of an activation must be above 0, got {self.limit}")

    @property
    def clamped(self) -> bool:
        """Whether the activation is CLAMPED_SWIGLU."""
        return self.activation is Activation.CLAMPED_SWIGLU


PLAIN = ExpertForm()


@dataclass(frozen=True)
class ExpertWeights:
    """What `prepare_weights` returns and `expert_ffn` takes; it owns its tensors.

    `gate_up` holds E matrices [2F, D] (gate rows first), `down` E matrices [D, F], all of one dtype and device, and so
    are the biases: gate_up_bias [E, 2F], gate first, and down_bias [E, D], added before the routing weight multiplies.
    """

    gate_up: Matrices
    down: Matrices
    form: ExpertForm = PLAIN
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None

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
        """The dtype of every matrix, quantized ones decoded, and of the activations they are applied to."""
        return self.down[0].dtype

    @property
    def quantized(self) -> bool:
        """Whether any matrix is."""
        if isinstance(self.gate_up, Tensor) and isinstance(self.down, Tensor):
            return False
        return any(isinstance(w, Quantized) for w in (*self.gate_up, *self.down))


def bias_of(expert: int, biases: Tensor | None) -> Tensor | None:
    """An expert's row of [E, 2F] or [E, D], where there are biases."""
    return None if biases is None else biases[expert]


def segments(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """(expert, start, end) of each expert that has rows, from the number of rows of each."""
    start = 0
    for expert, rows in enumerate(counts):
        if rows:
            yield expert, start, start + rows
            start += rows


def check_weights(weights: ExpertWeights) -> ExpertWeights:
    """The weights as they are, after checking that their parts fit each other.

    Raises ValueError for no expert, unequal numbers of experts, shapes other than [2F, D] and [D, F] (biases: [E, 2F]
    and [E, D]), mixed dtypes.
    """
    gate_up, down = weights.gate_up, weights.down
    if len(gate_up) == 0 or len(gate_up) != len(down):
        raise ValueError(f"need as many gate-up as down matrices and at least one, got {len(gate_up)} and {len(down)}")
    if any(len(w.shape) != 2 for w in (*gate_up, *down)):
        raise ValueError("expert matrices must be [2F, D] and [D, F]")
    for w_2FD, w_DF in zip(gate_up, down, strict=True):
        _check_expert(w_2FD, w_DF, weights)
    _check_bias("gate_up_bias", weights.gate_up_bias, (weights.num_experts, 2 * weights.ffn), weights.dtype)
    _check_bias("down_bias", weights.down_bias, (weights.num_experts, weights.hidden), weights.dtype)
    return weights


def _check_expert(w_2FD: Matrix, w_DF: Matrix, weights: ExpertWeights) -> None:
    hidden, ffn, dtype = weights.hidden, weights.ffn, weights.dtype
    if w_2FD.shape != (2 * ffn, hidden) or w_DF.shape != (hidden, ffn):
        raise ValueError(f"gate-up {tuple(w_2FD.shape)} and down {tuple(w_DF.shape)} are not [2F, D] and [D, F]")
    if w_2FD.dtype != dtype or w_DF.dtype != dtype or dtype not in FLOAT_DTYPES:
        raise ValueError(f"expert matrices must share bfloat16, float16 or float32, got {w_2FD.dtype}, {w_DF.dtype}")


def _check_bias(name: str, bias: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if bias is not None and (bias.shape != shape or bias.dtype != dtype):
        raise ValueError(f"{name} must be {dtype} of shape {shape}, got {bias.dtype} of shape {tuple(bias.shape)}")


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


@dataclass(frozen=True)
class HeadMatrices:
    """A matrix [O, I] for each of H heads, in the layout of a backend."""

    shape: tuple[int, int, int]
