"""Attention over the paged cache by the native kernels: one call for all rows of a layer.

T rows, H heads, J key-value heads (H is a multiple of J), S slots, C key size, V value size; M rows, I inputs and
O outputs of a product for each head.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows, PagedSegments
from kernels.native.library import check, library
from kernels.native.panels import Panels, panels_of
from kernels.native.products import DTYPES
from kernels.native.structs import AttentionCall, HeadsCall, MatrixStruct
from kernels.weights import HeadMatrices


@dataclass(frozen=True)
class HeadPanels(HeadMatrices):
    """A matrix for each head, in panels; `structs` point into them."""

    panels: tuple[Panels, ...]
    structs: ctypes.Array[MatrixStruct]


def paged_attention(
    q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """As `attention.reference.paged_attention`."""
    return segment_attention(q_BHC, cache, rows.segments, scale, sinks_H)


def segment_attention(
    q_THC: Tensor, cache: LayerCache, segments: PagedSegments, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """Return out_THV in q's dtype, computed in float32: each row attends to what `segments` says that it sees.

    A row's bits depend on its query, its position and what it sees alone: not on other rows, on how its sequence was
    cut into steps, or on the threads.

    Raises:
        ValueError: tensors that do not fit each other.
        IndexError: a slot that the cache does not have.
    """
    keys, values = cache.keys_SJC, cache.values_SJV
    _check(q_THC, cache, segments)
    out_THV = q_THC.new_empty(*q_THC.shape[:2], cache.value_size)
    sinks = None if sinks_H is None else sinks_H.float().contiguous()
    shared = values is None
    values = keys if values is None else values
    call = AttentionCall(
        q_THC.data_ptr(),
        keys.data_ptr(),
        keys.data_ptr() if shared else values.data_ptr(),
        None if sinks is None else sinks.data_ptr(),
        out_THV.data_ptr(),
        *segments.pointers,
        len(segments),
        q_THC.shape[1],
        keys.shape[1],
        keys.shape[2],
        cache.value_size,
        *q_THC.stride()[:2],
        *keys.stride()[:2],
        *values.stride()[:2],
        scale,
        DTYPES[q_THC.dtype],
        torch.get_num_threads(),
    )
    check(library().attention(call))
    return out_THV


def prepare_heads(w_HOI: Tensor) -> HeadPanels:
    """Copy a float matrix for each head into panels."""
    panels = tuple(panels_of(w_OI) for w_OI in w_HOI)
    heads, outputs, inputs = w_HOI.shape
    return HeadPanels((heads, outputs, inputs), panels, (MatrixStruct * heads)(*(w.struct for w in panels)))


def linear_heads(x_MHI: Tensor, w_HOI: HeadMatrices, out_MHO: Tensor) -> None:
    """out = x W^T for each head by its own matrix, added up in float32; a row's bits do not depend on other rows.

    Raises:
        ValueError: x or out does not fit the matrices, or the elements of a head lie apart.
    """
    assert isinstance(w_HOI, HeadPanels), "matrices pass prepare_heads first"
    heads, outputs, inputs = w_HOI.shape
    dtype = w_HOI.panels[0].dtype
    fits = x_MHI.shape[1:] == (heads, inputs) and out_MHO.shape == (len(x_MHI), heads, outputs)
    if not fits or not x_MHI.dtype == out_MHO.dtype == dtype or (x_MHI.stride(2), out_MHO.stride(2)) != (1, 1):
        raise ValueError(
            f"x {tuple(x_MHI.shape)} {x_MHI.dtype} and out {tuple(out_MHO.shape)} {out_MHO.dtype} do not fit matrices "
            f"{w_HOI.shape} {dtype}, or the elements of a head do not lie side by side"
        )
    if len(x_MHI):
        call = HeadsCall(
            w_HOI.structs,
            x_MHI.data_ptr(),
            out_MHO.data_ptr(),
            len(x_MHI),
            heads,
            *x_MHI.stride()[:2],
            *out_MHO.stride()[:2],
            DTYPES[x_MHI.dtype],
            torch.get_num_threads(),
        )
        check(library().heads(call))


def _check(q_THC: Tensor, cache: LayerCache, segments: PagedSegments) -> None:
    keys, values = cache.keys_SJC, cache.keys_SJC if cache.values_SJV is None else cache.values_SJV
    if segments.lowest < 0 or segments.highest >= min(len(keys), len(values)):
        raise IndexError(f"slots {segments.lowest} to {segments.highest} are not all among the cache's {len(keys)}")
    shapes = f"q {tuple(q_THC.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}"
    if q_THC.shape[0] != segments.rows or q_THC.shape[2] != keys.shape[2] or q_THC.shape[1] % keys.shape[1]:
        raise ValueError(f"{shapes} do not fit {segments.rows} rows or each other")
    if values.shape[1] != keys.shape[1] or cache.value_size > values.shape[2]:
        raise ValueError(f"{shapes} do not give values of {cache.value_size} elements for each key-value head")
    if not q_THC.dtype == keys.dtype == values.dtype or q_THC.dtype not in DTYPES:
        raise ValueError(f"need one float dtype, got q {q_THC.dtype}, keys {keys.dtype}, values {values.dtype}")
    if (q_THC.stride(2), keys.stride(2), values.stride(2)) != (1, 1, 1):
        raise ValueError("the elements of a head must lie side by side")
