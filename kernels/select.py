"""The one place that knows which implementation of the ops runs: `ops(backend, device)`, resolved once and kept."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch

from kernels.native.library import NativeUnavailableError
from kernels.native.library import library as native_library
from kernels.ops import Backend, ElementOps, Ops, SegmentOps

log = logging.getLogger(__name__)

# What a layer takes without the native kernels, for the warning: tests/benchmarks/README.md.
TORCH_COST = "1.5 to 4 times as long"


def ops(backend: Backend | str = Backend.AUTO, device: torch.device | str = "cpu") -> Ops:
    """The ops of `backend` for tensors on `device`.

    Raises ValueError for an unknown backend or one that cannot run on the device, RuntimeError where Triton or the
    native kernels are wanted but not there. Call it once and keep the result.
    """
    kind = torch.device(device).type
    chosen = resolve(Backend(backend), kind)
    if chosen in (Backend.CPU, Backend.NATIVE) and kind != "cpu":
        raise ValueError(f"backend '{chosen}' cannot run on a {kind} device: take 'auto', 'triton' or 'reference'")
    if chosen is Backend.NATIVE:
        native_library()
    if chosen is Backend.TRITON:
        _check_triton(kind)
    return _load(chosen)


def resolve(backend: Backend, device_type: str) -> Backend:
    """What AUTO means on a type of device; any other backend is itself. ValueError for a device that nothing suits."""
    if backend is not Backend.AUTO:
        return backend
    if device_type == "cpu":
        return _fastest_on_cpu()
    if device_type == "cuda":
        return Backend.TRITON
    raise ValueError(f"no fast backend for a {device_type} device: take 'reference'")


def notice(backend: Backend | str, device_type: str) -> str:
    """A line for whoever starts the server: what computes there, and what it costs where that is not the fastest.

    Raises:
        ValueError: `backend` is native, and the native kernels are not there; or `EXPERTMESH_NATIVE_ISA` names an
            instruction set that is not here.
    """
    if device_type != "cpu" or backend not in (Backend.AUTO, Backend.NATIVE):
        return ""
    try:
        return f"native kernels compute, with {native_library().instruction_set}"
    except NativeUnavailableError as error:
        if backend == Backend.NATIVE:
            raise ValueError(f"experts.backend is native, but {error}") from None
        return f"warning: {_cost(error)}"


@cache
def _fastest_on_cpu() -> Backend:
    try:
        native_library()
    except NativeUnavailableError as error:
        log.warning("%s", _cost(error))
        return Backend.CPU
    return Backend.NATIVE


def _cost(error: NativeUnavailableError) -> str:
    return f"{error}. Until then torch computes, and a layer takes {TORCH_COST}"


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
    if backend is Backend.NATIVE:
        return _native_ops()
    return _cpu_ops() if backend is Backend.CPU else _reference_ops()


def _reference_ops() -> Ops:
    from kernels import reference
    from kernels.attention import reference as attention

    return Ops(
        backend=Backend.REFERENCE,
        gate_topk=reference.gate_topk,
        gate_sigmoid=reference.gate_sigmoid,
        prepare_weights=reference.prepare_weights,
        expert_ffn=reference.expert_ffn,
        expert_rows=reference.expert_rows,
        prepare_matrix=reference.prepare_matrix,
        linear=reference.linear,
        paged_attention=attention.paged_attention,
    )


def _native_ops() -> Ops:
    from kernels import reference
    from kernels.native import attention, elements, experts, products

    return Ops(
        backend=Backend.NATIVE,
        gate_topk=reference.gate_topk,
        gate_sigmoid=elements.gate_sigmoid,
        prepare_weights=experts.prepare_weights,
        expert_ffn=experts.expert_ffn,
        expert_rows=experts.expert_rows,
        prepare_matrix=products.prepare_matrix,
        linear=products.linear,
        take_rows=products.take_rows,
        paged_attention=attention.paged_attention,
        segments=SegmentOps(
            attention=attention.segment_attention,
            prepare_heads=attention.prepare_heads,
            linear_heads=attention.linear_heads,
        ),
        elements=ElementOps(
            rms_norm=elements.rms_norm,
            turned_heads=elements.turned_heads,
            silu_mul=elements.silu_mul,
            sigmoid=elements.sigmoid,
        ),
    )


def _cpu_ops() -> Ops:
    from kernels.attention import cpu as attention
    from kernels.cpu import linear as cpu_linear
    from kernels.cpu import ops as cpu

    return Ops(
        backend=Backend.CPU,
        gate_topk=cpu.gate_topk,
        gate_sigmoid=cpu.gate_sigmoid,
        prepare_weights=cpu.prepare_weights,
        expert_ffn=cpu.expert_ffn,
        expert_rows=cpu.expert_rows,
        prepare_matrix=cpu_linear.prepare_matrix,
        linear=cpu_linear.linear_any_rows,
        paged_attention=attention.paged_attention,
    )


def _triton_ops() -> Ops:
    from kernels.triton import attention
    from kernels.triton import ops as triton_ops

    return Ops(
        backend=Backend.TRITON,
        gate_topk=triton_ops.gate_topk,
        gate_sigmoid=triton_ops.gate_sigmoid,
        prepare_weights=triton_ops.prepare_weights,
        expert_ffn=triton_ops.expert_ffn,
        expert_rows=triton_ops.expert_rows,
        prepare_matrix=triton_ops.prepare_matrix,
        linear=triton_ops.linear,
        paged_attention=attention.paged_attention,
    )
