"""One layer's call to one shard and its reply, as objects and as the payloads of EXPERTS and PARTIALS frames.

R rows (a token once, however many of its experts live on the shard), A assignments ((row, expert) pairs), D hidden,
N rows of a reply: R or A.
Both payloads begin with 64 bytes of numbers, so that the rows behind them are aligned.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.transport.frame import MAX_PAYLOAD_BYTES, Buffer, FrameError

_CALL = struct.Struct("<IIIIIIQ32x")
_REPLY = struct.Struct("<IIQQQQI20x")
# The index is the code on the wire: append only.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_INT32 = 2**31 - 1
FEW = 64


class Form(IntEnum):
    """What a reply holds, in float32: a sum for each row of the call, or a row for each of its assignments.

    With EACH the router can add up a token's experts in the token's own order, wherever they live. The value is the
    code on the wire.
    """

    SUMS = 0
    EACH = 1


# Looked up for each call: an enum's own call takes longer.
_FORMS = {int(form): form for form in Form}


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """`x_RD` in the model's dtype; assignment a adds `weights_A[a]` x expert `slots_A[a]` of row `rows_A[a]`.

    `rows_A` and `slots_A` are int32 and sorted by slot (a merged call's of form EACH are not); `weights_A` is float32.
    `step` is the tag that links shard log lines to the router's step and its requests (see
    `experts.host.log.step_name`); 0 for none. `form` is that of the reply.
    """

    layer: int
    x_RD: Tensor
    rows_A: NDArray[np.int32]
    slots_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    step: int = 0
    form: Form = Form.SUMS

    @property
    def reply_rows(self) -> int:
        """N, the rows of the reply."""
        return len(self.rows_A) if self.form is Form.EACH else self.x_RD.shape[0]


class Stamps(NamedTuple):
    """Nanoseconds of the shard's monotonic clock: last byte received, compute started, reply about to be sent."""

    received: int
    started: int
    sent: int


@dataclass(frozen=True, slots=True)
class Partial:
    """The shard's answer, `y_ND` float32: a sum for each row of the call or a row for each assignment, as `form` says.

    `shared_ns` is the part of the compute time that belongs to other routers' calls, which were computed together with
    this one: 0 for a call computed alone.
    """

    y_ND: Tensor
    stamps: Stamps
    shared_ns: int = 0
    form: Form = Form.SUMS


def most_rows(hidden: int, dtype: torch.dtype, experts_per_token: int, form: Form = Form.SUMS) -> int:
    """How many rows a call may have so that it and its reply fit into frames, if one shard holds all their experts."""
    call_bytes = hidden * dtype.itemsize + 12 * experts_per_token
    reply_bytes = hidden * torch.float32.itemsize * (experts_per_token if form is Form.EACH else 1)
    return (MAX_PAYLOAD_BYTES - max(_CALL.size, _REPLY.size)) // max(call_bytes, reply_bytes)


def pack_call(call: ExpertCall) -> list[Buffer]:
    """Return the payload as parts that share memory with `call`."""
    rows, hidden = call.x_RD.shape
    head = _CALL.pack(call.layer, rows, hidden, len(call.rows_A), _DTYPES.index(call.x_RD.dtype), call.form, call.step)
    return [head, _bytes_of(call.x_RD), *(a.data.cast("B") for a in (call.rows_A, call.slots_A, call.weights_A))]


def unpack_call(payload: bytearray | memoryview) -> ExpertCall:
    """Parse a call; its arrays share memory with `payload`.

    Raises:
        FrameError: the lengths do not add up, an index points outside, or the reply's form is none that we know.
    """
    if len(payload) < _CALL.size:
        raise FrameError("short", f"a call has at least {_CALL.size} bytes, not {len(payload)}")
    layer, rows, hidden, count, code, form, step = _CALL.unpack_from(payload)
    if code >= len(_DTYPES) or len(payload) != _call_bytes(rows, hidden, count, code):
        raise FrameError("length", f"{len(payload)} bytes are not {rows} rows of {hidden} and {count} assignments")
    x_RD = _tensor(payload, _DTYPES[code], rows, hidden, _CALL.size)
    at = len(payload) - 12 * count
    numbers = np.frombuffer(payload, np.int32, 3 * count, at)
    rows_A, slots_A, weights_A = numbers[:count], numbers[count : 2 * count], numbers[2 * count :].view(np.float32)
    # An index out of range would crash or read foreign memory in a kernel. Slots have no upper bound here: the shard
    # checks them, as only it knows how many experts it holds.
    if count and (largest(rows_A) >= rows or largest(slots_A) > MOST_INT32):
        raise FrameError("index", f"an assignment points outside the {rows} rows")
    return ExpertCall(layer, x_RD, rows_A, slots_A, weights_A, step, _form(form))


def largest(indices_A: NDArray[np.int32]) -> int:
    """The largest of some indices, at least one; a negative one counts as larger than all others."""
    unsigned_A = indices_A.view(np.uint32)
    # Of few numbers Python's own maximum is the sooner one.
    return max(unsigned_A.tolist()) if len(unsigned_A) <= FEW else int(np.maximum.reduce(unsigned_A))


def pack_partial(partial: Partial) -> list[Buffer]:
    """Return the payload as parts that share memory with `partial`."""
    rows, hidden = partial.y_ND.shape
    stamps = partial.stamps
    head = _REPLY.pack(rows, hidden, *stamps, partial.shared_ns, partial.form)
    return [head, _bytes_of(partial.y_ND)]


def unpack_partial(payload: bytearray | memoryview, rows_ND: NDArray[np.float32] | None = None) -> Partial:
    """Parse a reply; its tensor shares memory with `payload`, or with `rows_ND` where that holds all behind the head.

    Raises:
        FrameError: the lengths do not add up, or the form is none that we know.
    """
    if len(payload) < _REPLY.size:
        raise FrameError("short", f"a reply has at least {_REPLY.size} bytes, not {len(payload)}")
    rows, hidden, received, started, sent, shared_ns, form = _REPLY.unpack_from(payload)
    if rows_ND is not None and len(payload) == _REPLY.size and rows_ND.shape == (rows, hidden):
        y_ND = torch.from_numpy(rows_ND)
    elif len(payload) == _REPLY.size + 4 * rows * hidden:
        y_ND = _tensor(payload, torch.float32, rows, hidden, _REPLY.size)
    else:
        raise FrameError("length", f"{len(payload)} bytes are not a reply of {rows} rows of {hidden}")
    return Partial(y_ND, Stamps(received, started, sent), shared_ns, _form(form))


def _form(code: int) -> Form:
    form = _FORMS.get(code)
    if form is None:
        raise FrameError("form", f"a reply has form 0 (sums) or 1 (each assignment's row), not {code}")
    return form


def _call_bytes(rows: int, hidden: int, count: int, code: int) -> int:
    return _CALL.size + rows * hidden * _DTYPES[code].itemsize + 12 * count


def _bytes_of(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    rows = tensor.contiguous()
    # numpy has no bfloat16; its bits as integers are the same bytes.
    return memoryview((rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows).numpy()).cast("B")


def _tensor(payload: bytearray | memoryview, dtype: torch.dtype, rows: int, hidden: int, at: int) -> Tensor:
    if not rows * hidden:
        return torch.empty((rows, hidden), dtype=dtype)
    return torch.frombuffer(payload, dtype=dtype, count=rows * hidden, offset=at).view(rows, hidden)
