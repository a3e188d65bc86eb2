"""One layer's call to one shard and its reply, as objects and as the payloads of EXPERTS and PARTIALS frames.

R rows (a token once, however many of its experts live on the shard), A assignments ((row, expert) pairs), D hidden.
Both payloads begin with 64 bytes of numbers, so that the rows behind them are aligned.
"""

import struct
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.transport.frame import MAX_PAYLOAD_BYTES, Buffer, FrameError

_CALL = struct.Struct("<IIIII4xQ32x")
_REPLY = struct.Struct("<IIQQQQ24x")
# The index is the code on the wire: append only.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """`x_RD` in the model's dtype; assignment a adds `weights_A[a]` x expert `slots_A[a]` of row `rows_A[a]`.

    `rows_A` and `slots_A` are int32 and sorted by slot; `weights_A` is float32. `step` is the tag that links shard
    log lines to the router's step and its requests (see `experts.host.log.step_name`); 0 for none.
    """

    layer: int
    x_RD: Tensor
    rows_A: NDArray[np.int32]
    slots_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    step: int = 0


@dataclass(frozen=True, slots=True)
class Stamps:
    """Nanoseconds of the shard's monotonic clock: last byte received, compute started, reply about to be sent."""

    received: int
    started: int
    sent: int


@dataclass(frozen=True, slots=True)
class Partial:
    """The shard's sum for each row of the call, `y_RD` float32.

    `shared_ns` is the part of the compute time that belongs to other routers' calls, which were computed together with
    this one: 0 for a call computed alone.
    """

    y_RD: Tensor
    stamps: Stamps
    shared_ns: int = 0


def most_rows(hidden: int, dtype: torch.dtype, experts_per_token: int) -> int:
    """How many rows a call may have so that it and its reply fit into frames, if one shard holds all their experts."""
    call_bytes = hidden * dtype.itemsize + 12 * experts_per_token
    reply_bytes = hidden * torch.float32.itemsize
    return (MAX_PAYLOAD_BYTES - max(_CALL.size, _REPLY.size)) // max(call_bytes, reply_bytes)


def pack_call(call: ExpertCall) -> list[Buffer]:
    """Return the payload as parts that share memory with `call`."""
    rows, hidden = call.x_RD.shape
    head = _CALL.pack(call.layer, rows, hidden, len(call.rows_A), _DTYPES.index(call.x_RD.dtype), call.step)
    return [head, _bytes_of(call.x_RD), *(a.data.cast("B") for a in (call.rows_A, call.slots_A, call.weights_A))]


def unpack_call(payload: bytearray | memoryview) -> ExpertCall:
    """Parse a call; its arrays share memory with `payload`.

    Raises:
        FrameError: the lengths do not add up, or an index points outside.
    """
    if len(payload) < _CALL.size:
        raise FrameError("short", f"a call has at least {_CALL.size} bytes, not {len(payload)}")
    layer, rows, hidden, count, code, step = _CALL.unpack_from(payload)
    if code >= len(_DTYPES) or len(payload) != _call_bytes(rows, hidden, count, code):
        raise FrameError("length", f"{len(payload)} bytes are not {rows} rows of {hidden} and {count} assignments")
    x_RD = _tensor(payload, _DTYPES[code], rows, hidden, _CALL.size)
    at = _CALL.size + x_RD.nbytes
    rows_A, slots_A = (np.frombuffer(payload, np.int32, count, at + 4 * count * i) for i in range(2))
    weights_A = np.frombuffer(payload, np.float32, count, at + 8 * count)
    # An index out of range would crash or read foreign memory in a kernel. Slots have no upper bound here: the shard
    # checks them, as only it knows how many experts it holds.
    if count and (rows_A.min() < 0 or rows_A.max() >= rows or slots_A.min() < 0):
        raise FrameError("index", f"an assignment points outside the {rows} rows")
    return ExpertCall(layer, x_RD, rows_A, slots_A, weights_A, step)


def pack_partial(partial: Partial) -> list[Buffer]:
    """Return the payload as parts that share memory with `partial`."""
    rows, hidden = partial.y_RD.shape
    stamps = partial.stamps
    head = _REPLY.pack(rows, hidden, stamps.received, stamps.started, stamps.sent, partial.shared_ns)
    return [head, _bytes_of(partial.y_RD)]


def unpack_partial(payload: bytearray | memoryview) -> Partial:
    """Parse a reply; its tensor shares memory with `payload`.

    Raises:
        FrameError: the lengths do not add up.
    """
    if len(payload) < _REPLY.size:
        raise FrameError("short", f"a reply has at least {_REPLY.size} bytes, not {len(payload)}")
    rows, hidden, received, started, sent, shared_ns = _REPLY.unpack_from(payload)
    if len(payload) != _REPLY.size + 4 * rows * hidden:
        raise FrameError("length", f"{len(payload)} bytes are not a reply of {rows} rows of {hidden}")
    y_RD = _tensor(payload, torch.float32, rows, hidden, _REPLY.size)
    return Partial(y_RD, Stamps(received, started, sent), shared_ns)


def _call_bytes(rows: int, hidden: int, count: int, code: int) -> int:
    return _CALL.size + rows * hidden * _DTYPES[code].itemsize + 12 * count


def _bytes_of(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")


def _tensor(payload: bytearray | memoryview, dtype: torch.dtype, rows: int, hidden: int, at: int) -> Tensor:
    if not rows * hidden:
        return torch.empty((rows, hidden), dtype=dtype)
    return torch.frombuffer(payload, dtype=dtype, count=rows * hidden, offset=at).view(rows, hidden)
