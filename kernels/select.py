"""The one place that knows which implementation of the ops runs: `ops(backend, device)`, resolved once and kept.

Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), D hidden, F ffn; M rows, I inputs,
O outputs of a plain product.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows
from kernels.formats.quantized import Matrix, Quantized
from kernels.weights import ExpertForm, ExpertWeights, Matrices

M = TypeVar("M", Tensor, Quantized)


class Backend(StrEnum):
    """Which implementation computes. AUTO is Triton on a CUDA device and the CPU path on a CPU."""

    AUTO = "auto"
    REFERENCE = "reference"
    CPU = "cpu"
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
    """What `Ops.prepare_matrix` is: what it returns is of the kind that it takes."""

    def __call__(self, w_OI: M, /) -> M:
        """See `reference.prepare_matrix`."""


class PagedAttention(Protocol):
    """What `Ops.paged_attention` is."""

    def __call__(
        self, q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = ...
    ) -> Tensor:
        """See `attention.reference.paged_attention`."""


@dataclass(frozen=True, kw_only=True)
class Ops:
    """The ops of one backend, documented in `kernels.reference`; weights pass a `prepare_` op first."""

    backend: Backend
    # (logits_TE, top_k, normalize) -> weights_TK, expert_ids_TK
    gate_topk: Callable[[Tensor, int, bool], tuple[Tensor, Tensor]]
    # (expert_ids_N, num_experts) -> order_N, offsets_E1
    group_by_expert: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    # (x_TD, weights, token_of_row_N, weight_of_row_N, offsets_E1) -> h_NF
    gate_up: Callable[[Tensor, ExpertWeights, Tensor, Tensor, Tensor], Tensor]
    # (h_NF, weights, offsets_E1, weight_of_row_N) -> y_ND
    down: Callable[[Tensor, ExpertWeights, Tensor, Tensor], Tensor]
    # (y_ND, token_of_row_N, num_tokens) -> y_TD
    sum_rows: Callable[[Tensor, Tensor, int], Tensor]
    # (gate_up, down, form, gate_up_bias, down_bias) -> weights
    prepare_weights: PrepareWeights
    # (x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N) -> y_TD
    expert_ffn: Callable[[Tensor, ExpertWeights, Tensor, Tensor, Tensor], Tensor]
    # (x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N) -> y_ND
    expert_rows: Callable[[Tensor, ExpertWeights, Tensor, Tensor, Tensor], Tensor]
    # (w_OI) -> w_OI in the form that `linear` wants; quantized ones come back unchanged
    prepare_matrix: PrepareMatrix
    # (x_MI, w_OI, packed or quantized) -> y_MO
    linear: Callable[[Tensor, Matrix], Tensor]
    # (q_BHC, cache, rows, scale, sinks_H) -> out_BHV
    paged_attention: PagedAttention


def ops(backend: Backend | str = Backend.AUTO, device: torch.device | str = "cpu") -> Ops:
    """The ops of `backend` for tensors on `device`.

    Raises ValueError for an unknown backend or one that cannot run on the device, RuntimeError where Triton is wanted
    but not installed. Call it once and keep the result.
    """
    kind = torch.device(device).type
    chosen = resolve(Backend(backend), kind)
    if chosen is Backend.CPU and kind != "cpu":
        raise ValueError(f"backend 'cpu' cannot run on a {kind} device: take 'auto', 'triton' or 'reference'")
    if chosen is Backend.TRITON:
        _check_triton(kind)
    return _load(chosen)


def resolve(backend: Backend, device_type: str) -> Backend:
    """What AUTO means on a type of device; any other backend is itself. ValueError for a device that nothing suits."""
    if backend is not Backend.AUTO:
        return backend
    try:
        return {"cpu": Backend.CPU, "cuda": Backend.TRITON}[device_type]
    except KeyError:
        raise ValueError(f"no fast backend for a {device_type} device: take 'reference'") from None


def _check_triton(device_type: str) -> None:
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("backend 'triton' needs the package triton (3.6 or newer): install it or take 'reference'")
    import triton

    if device_type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"backend 'triton' cannot run on a {device_type} device: take 'auto', or set TRITON_INTERPRET=1 before the "
            "start to interpret it"
        )


@cache
def _load(backend: Backend) -> Ops:
    if backend is Backend.TRITON:
        return _triton_ops()
    return _cpu_ops() if backend is Backend.CPU else _reference_ops()


def _reference_ops() -> Ops:
    from kernels import reference
    from kernels.attention import reference as attention

    return Ops(
        backend=Backend.REFERENCE,
        gate_topk=reference.gate_topk,
        group_by_expert=reference.group_by_expert,
        gate_up=reference.gate_up,
        down=reference.down,
        sum_rows=reference.sum_rows,
        prepare_weights=reference.prepare_weights,
        expert_ffn=reference.expert_ffn,
        expert_rows=reference.expert_rows,
        prepare_matrix=reference.prepare_matrix,
        linear=reference.linear,
        paged_attention=attention.paged_attention,
    )


def _cpu_ops() -> Ops:
    from kernels.attention import cpu as attention
    from kernels.cpu import linear as cpu_linear
    from kernels.cpu import ops as cpu

    return Ops(
        backend=Backend.CPU,
        gate_topk=cpu.gate_topk,
        group_by_expert=cpu.group_by_expert,
        gate_up=cpu.gate_up,
        down=cpu.down,
        sum_rows=cpu.sum_rows,
        prepare_weights=cpu.prepare_weights,
        expert_ffn=cpu.expert_ffn,
        expert_rows=cpu.expert_rows,
        prepare_matrix=cpu_linear.prepare_matrix,
        linear=cpu_linear.linear_any_rows,
        paged_attention=attention.paged_attention,
    )


def _triton_ops() -> Ops:
    from kernels.attention import reference as attention
    from kernels.triton import ops as triton_ops

    return Ops(
        backend=Backend.TRITON,
        gate_topk=triton_ops.gate_topk,
        group_by_expert=triton_ops.group_by_expert,
        gate_up=triton_ops.gate_up,
        down=triton_ops.down,
        sum_rows=triton_ops.sum_rows,
        prepare_weights=triton_ops.prepare_weights,
        expert_ffn=triton_ops.expert_ffn,
        expert_rows=triton_ops.expert_rows,
        prepare_matrix=triton_ops.prepare_matrix,
        linear=triton_ops.linear,
        paged_attention=attention.paged_attention,
    )
