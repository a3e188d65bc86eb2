"""The interface of every backend: its ops, and what each of them is.

Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), D hidden, F ffn; M rows, I inputs,
O outputs of a plain product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from kernels import elements
from kernels.attention.paged import LayerCache, PagedRows, PagedSegments
from kernels.formats.quantized import Matrix
from kernels.reference import SigmoidGate
from kernels.weights import ExpertForm, ExpertWeights, HeadMatrices, Matrices


class Backend(StrEnum):
    """Which implementation computes.

    AUTO is Triton on a CUDA device. On a CPU it is NATIVE, or CPU, which is torch's own, where that cannot run.
    """

    AUTO = "auto"
    NATIVE = "native"
    CPU = "cpu"
    REFERENCE = "reference"
    TRITON = "triton"


class PrepareWeights(Protocol):
    """What `Ops.prepare_weights` is."""

    def __call__(
        self,
        gate_up: Matrices,
        down: Matrices,
        form: ExpertForm = ...,
        gate_up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
    ) -> ExpertWeights:
        """See `reference.prepare_weights`."""


class PrepareMatrix(Protocol):
    """What `Ops.prepare_matrix` is."""

    def __call__(self, w_OI: Matrix, /, *, gate_up: bool = ...) -> Matrix:
        """See `reference.prepare_matrix`."""


class Linear(Protocol):
    """What `Ops.linear` is."""

    def __call__(self, x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = ...) -> Tensor:
        """See `reference.linear`."""


class PagedAttention(Protocol):
    """What `Ops.paged_attention` is."""

    def __call__(
        self, q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = ...
    ) -> Tensor:
        """See `attention.reference.paged_attention`."""


class SegmentAttention(Protocol):
    """What `SegmentOps.attention` is."""

    def __call__(
        self, q_THC: Tensor, cache: LayerCache, segments: PagedSegments, scale: float, sinks_H: Tensor | None = ...
    ) -> Tensor:
        """See `native.attention.segment_attention`."""


@dataclass(frozen=True, kw_only=True)
class SegmentOps:
    """Attention of all rows of a step, of prompts too; a row's bits depend on no other row, cut or cached beginning.

    It is documented in `kernels.native.attention`.
    """

    # (q_THC, cache, segments, scale, sinks_H) -> out_THV
    attention: SegmentAttention
    # w_HOI -> w_HOI as `linear_heads` wants it
    prepare_heads: Callable[[Tensor], HeadMatrices]
    # (x_MHI, w_HOI, out_MHO): out = x W^T, for each head by its own matrix
    linear_heads: Callable[[Tensor, HeadMatrices, Tensor], None]


class RmsNorm(Protocol):
    """What `ElementOps.rms_norm` is."""

    def __call__(self, x_TD: Tensor, weight_D: Tensor | None, eps: float, round_last: bool = ..., /) -> Tensor:
        """See `elements.rms_norm`."""


class TurnedHeads(Protocol):
    """What `ElementOps.turned_heads` is."""

    def __call__(
        self,
        x_TNC: Tensor,
        weight_NC: Tensor | None,
        eps: float,
        cos_T1C: Tensor,
        sin_T1C: Tensor,
        interleaved: bool,
        /,
    ) -> Tensor:
        """See `elements.turned_heads`."""


@dataclass(frozen=True, kw_only=True)
class ElementOps:
    """Work on elements between the products, documented in `kernels.elements`."""

    rms_norm: RmsNorm
    turned_heads: TurnedHeads
    # gate and up side by side, x_TF2 -> y_TF
    silu_mul: Callable[[Tensor], Tensor]
    sigmoid: Callable[[Tensor], Tensor]


TORCH_ELEMENTS = ElementOps(
    rms_norm=elements.rms_norm,
    turned_heads=elements.turned_heads,
    silu_mul=elements.silu_mul,
    sigmoid=torch.sigmoid,
)


@dataclass(frozen=True, kw_only=True)
class Ops:
    """The ops of one backend, documented in `kernels.reference`; weights pass a `prepare_` op first."""

    backend: Backend
    # (logits_TE, top_k, normalize) -> weights_TK, expert_ids_TK
    gate_topk: Callable[[Tensor, int, bool], tuple[Tensor, Tensor]]
    # (logits_TE, correction_E, gate) -> weights_TK, expert_ids_TK
    gate_sigmoid: Callable[[Tensor, Tensor | None, SigmoidGate], tuple[Tensor, Tensor]]
    # (gate_up, down, form, gate_up_bias, down_bias) -> weights
    prepare_weights: PrepareWeights
    # (x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N) -> y_TD
    expert_ffn: Callable[[Tensor, ExpertWeights, Tensor, Tensor, Tensor], Tensor]
    # (x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N) -> y_ND
    expert_rows: Callable[[Tensor, ExpertWeights, Tensor, Tensor, Tensor], Tensor]
    # (w_OI, gate_up) -> w_OI in the form that `linear` wants; with `gate_up`, that `prepare_weights` wants
    prepare_matrix: PrepareMatrix
    # (x_MI, w_OI from `prepare_matrix`, bias_O) -> y_MO
    linear: Linear
    # (w_OI from `prepare_matrix`, numbers_M) -> w_MI; None where its layout forbids it: keep such a matrix as it is
    take_rows: Callable[[Matrix, Tensor], Tensor] | None = None
    # (q_BHC, cache, rows, scale, sinks_H) -> out_BHV
    paged_attention: PagedAttention
    # None: the caller attends to the segments of several rows, and multiplies by heads
    segments: SegmentOps | None = None
    elements: ElementOps = TORCH_ELEMENTS
