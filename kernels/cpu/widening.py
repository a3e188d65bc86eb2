"""Products of half-precision matrices in float32, on CPUs that have no instructions for the half-precision dtype.

There torch's own loop takes 10-40 GFLOP/s on two threads, whatever the number of rows, and float32 takes 100-180. So
from a certain number of rows on it pays to widen the weight in every call, a few rows of it at a time into memory that
is kept: the weight itself stays in its dtype, and so does the result. That number is measured once, on first use.
Legend: M rows, I inputs, O outputs, S outputs widened at a time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from kernels.cpu.calibration import measured_rows
from kernels.formats.buffers import BUFFERS

log = logging.getLogger(__name__)

# Of a matrix widened at a time: 8 MiB. Half of it took 5-15% longer on two threads, the whole of a large matrix
# twice as long, because by the time of the product it has left the caches.
_PIECE_ELEMENTS = 1 << 21
# Ops that tell whether oneDNN computes a dtype on this CPU. They are private: a torch without one counts as a no.
_SUPPORT_OPS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products of `dtype`: float32 always, half precision by oneDNN."""
    if dtype not in _SUPPORT_OPS:
        return True
    name = _SUPPORT_OPS[dtype]
    return hasattr(torch.ops.mkldnn, name) and bool(getattr(torch.ops.mkldnn, name)())


def wide_linear(x_MI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """y_MO = x W^T + b for tensors of one dtype, computed in float32 and rounded to it once.

    Needs 8 MiB for the weight, which the thread keeps, and x and a piece of y in float32.
    """
    outputs, inputs = w_OI.shape
    step = min(outputs, max(1, _PIECE_ELEMENTS // max(1, inputs)))
    piece_SI = BUFFERS.take("widened", step * inputs, torch.float32, w_OI.device).view(step, inputs)
    y_MO, x_MI = x_MI.new_empty(x_MI.shape[0], outputs), x_MI.float()
    for start in range(0, outputs, step):
        end = min(outputs, start + step)
        w_SI = piece_SI[: end - start].copy_(w_OI[start:end])
        y_MO[:, start:end] = direct_linear(x_MI, w_SI, None if bias_O is None else bias_O[start:end].float())
    return y_MO


def direct_linear(x_MI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """y_MO = x W^T + b, as torch does it in the tensors' own dtype."""
    return torch.mm(x_MI, w_OI.t()) if bias_O is None else torch.addmm(bias_O, x_MI, w_OI.t())


class Widening:
    """From how many rows on a dtype's products are widened, for each number of threads; measured when first asked.

    `supported` says whether the CPU has instructions for a dtype, `measure` at how many rows widening begins to pay.
    """

    def __init__(
        self,
        supported: Callable[[torch.dtype], bool] = has_instructions,
        measure: Callable[[torch.dtype], float] = lambda dtype: measured_rows(dtype, direct_linear, wide_linear),
    ) -> None:
        self.supported = cache(supported)
        self._measure = measure
        self._rows_from: dict[tuple[torch.dtype, int], float] = {}
        self._lock = threading.Lock()

    def rows_from(self, dtype: torch.dtype) -> float:
        """Products of so many rows or more are widened: infinity where the CPU has instructions, or where none gains.

        For the calling thread's number of threads: a second one helps torch's loop more than it helps to widen.
        """
        key = dtype, 0 if self.supported(dtype) else torch.get_num_threads()
        if key not in self._rows_from:
            with self._lock:  # threads that measure at the same time would slow each other down
                if key not in self._rows_from:
                    self._rows_from[key] = self._decide(*key)
        return self._rows_from[key]

    def _decide(self, dtype: torch.dtype, threads: int) -> float:
        rows = math.inf if self.supported(dtype) else self._measure(dtype)
        if dtype not in _SUPPORT_OPS:
            return rows
        if threads == 0:
            log.info("%s products: by this CPU's own instructions", dtype)
        elif rows == math.inf:
            log.info("%s products on %d threads: no instructions, and widening does not pay", dtype, threads)
        else:
            log.info("%s products on %d threads: from %d rows on weights are widened to float32", dtype, threads, rows)
        return rows


WIDENING = Widening()


def plain_linear(x_MI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """y_MO = x W^T + b in x's dtype for a dense matrix in torch's own layout, on any device: the faster way here."""
    wide = x_MI.device.type == "cpu" and x_MI.shape[0] >= WIDENING.rows_from(x_MI.dtype)
    return (wide_linear if wide else direct_linear)(x_MI, w_OI, bias_O)


def native(dtype: torch.dtype) -> bool:
    """Whether this CPU computes `dtype` by itself; if not, measures the number of rows: call it while loading."""
    WIDENING.rows_from(dtype)
    return WIDENING.supported(dtype)
