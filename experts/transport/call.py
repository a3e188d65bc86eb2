"""One layer's call to one shard and its reply, as objects and as the payloads of EXPERTS and PARTIALS frames.

R rows (a token once, however many of its experts live on the shard), A assignments ((row, expert) pairs), D hidden,
N rows of a reply: R or A.
Both payloads begin with 64 bytes of numbers, so that the rows behind them are aligned. Where both ends share
memory (see `experts.transport.shared`), rows lie there and not in the payload.
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
from experts.transport.shared import SharedSizes

# The last number of each is 1 where rows are in shared memory.
_CALL = struct.Struct("<IIIIIIQQQI12x")
_REPLY = struct.Struct("<IIQQQQII16x")
# The index is the code on the wire: append only.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
MOST_INT32 = 2**31 - 1
FEW = 64
# Rows of so few bytes take no longer by the socket than in shared memory.
INLINE_BYTES = 1 << 12


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
    """`x_RD` in the model's dtype; assignment a adds `weights_A[a]` x expert `experts_A[a]` of row `rows_A[a]`.

    `rows_A` and `experts_A` are int32; `weights_A` is float32. Experts have the model's own ids, so what a shard holds
    need not be agreed upon: it refuses those that it does not hold. Assignments of one block of experts are sorted by
    expert; a call for several blocks has one block's rows behind the other's.
    `step` is the tag that links shard log lines to the router's step and its requests (see
    `experts.host.log.step_name`); 0 for none. `form` is that of the reply. `apart`: its rows came in shared memory, so
    those of its reply may go there. `epoch` is that of the placement by which the shard was chosen. Nobody needs the
    answer of a call that has not begun to be computed `left_us` microseconds after it was sent; 0 sets no limit.
    """

    layer: int
    x_RD: Tensor
    rows_A: NDArray[np.int32]
    experts_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    step: int = 0
    form: Form = Form.SUMS
    apart: bool = False
    epoch: int = 0
    left_us: int = 0

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


def call_bytes(call: ExpertCall) -> int:
    """How many bytes a call takes, rows in shared memory included."""
    return _CALL.size + call.x_RD.nbytes + 12 * len(call.rows_A)


def reply_bytes(partial: Partial) -> int:
    """How many bytes a reply takes, rows in shared memory included."""
    return _REPLY.size + partial.y_ND.nbytes


def shared_sizes(rows: int, hidden: int, dtype: torch.dtype, experts_per_token: int, form: Form) -> SharedSizes:
    """Regions that hold any call of so many rows and its reply, if one shard holds all their experts."""
    answers = rows * (experts_per_token if form is Form.EACH else 1)
    return SharedSizes(rows * hidden * dtype.itemsize, answers * hidden * torch.float32.itemsize)


def pack_call(call: ExpertCall, region: memoryview | None = None) -> list[Buffer]:
    """Return the payload as parts that share memory with `call`; its rows go to `region` if that is worth it."""
    rows, apart = _placed(_bytes_of(call.x_RD), region)
    numbers = (call.layer, *call.x_RD.shape, len(call.rows_A), _CODES[call.x_RD.dtype], call.form, call.step)
    limits = (call.epoch, call.left_us)
    indices = (call.rows_A, call.experts_A, call.weights_A)
    return [_CALL.pack(*numbers, *limits, apart), *rows, *(array.data.cast("B") for array in indices)]


def unpack_call(payload: bytearray | memoryview, region: memoryview | None = None) -> ExpertCall:
    """Parse a call; its arrays share memory with `payload`, and its rows with that or with `region`.

    Raises:
        FrameError: the lengths do not add up, an index points outside, rows are in a region that we do not share, or
            the reply's form is none that we know.
    """
    if len(payload) < _CALL.size:
        raise FrameError("short", f"a call has at least {_CALL.size} bytes, not {len(payload)}")
    layer, rows, hidden, count, code, form, step, epoch, left_us, apart = _CALL.unpack_from(payload)
    itemsize = _DTYPES[code].itemsize if code < len(_DTYPES) else -1
    source, at = _source(payload, _CALL.size, region, apart, rows * hidden * itemsize)
    if itemsize < 0 or len(payload) != _CALL.size + (0 if apart else rows * hidden * itemsize) + 12 * count:
        raise FrameError("length", f"{len(payload)} bytes are not {rows} rows of {hidden} and {count} assignments")
    x_RD = _tensor(source, _DTYPES[code], rows, hidden, at)
    numbers = np.frombuffer(payload, np.int32, 3 * count, len(payload) - 12 * count)
    rows_A, experts_A, weights_A = numbers[:count], numbers[count : 2 * count], numbers[2 * count :].view(np.float32)
    # An index out of range would crash or read foreign memory in a kernel. Experts have no upper bound here: the
    # shard checks them, as only it knows which it holds.
    if count and (largest(rows_A) >= rows or largest(experts_A) > MOST_INT32):
        raise FrameError("index", f"an assignment points outside the {rows} rows")
    return ExpertCall(layer, x_RD, rows_A, experts_A, weights_A, step, _form(form), bool(apart), epoch, left_us)


def _placed(rows: memoryview, region: memoryview | None) -> tuple[list[Buffer], bool]:
    """What of the rows goes into the payload, and whether they are in the region instead."""
    if region is None or not INLINE_BYTES < len(rows) <= len(region):
        return [rows], False
    region[: len(rows)] = rows
    return [], True


def _source(
    payload: bytearray | memoryview, head: int, region: memoryview | None, apart: int, size: int
) -> tuple[bytearray | memoryview, int]:
    """Where the rows are, and from which byte on."""
    if not apart:
        return payload, head
    if region is None or size > len(region):
        raise FrameError("shared", f"rows of {size} bytes are not in shared memory of {len(region or b'')}")
    return region, 0


def largest(indices_A: NDArray[np.int32]) -> int:
    """The largest of some indices, at least one; a negative one counts as larger than all others."""
    unsigned_A = indices_A.view(np.uint32)
    # Of few numbers Python's own maximum is the sooner one.
    return max(unsigned_A.tolist()) if len(unsigned_A) <= FEW else int(np.maximum.reduce(unsigned_A))


def pack_partial(partial: Partial, region: memoryview | None = None) -> list[Buffer]:
    """Return the payload as parts that share memory with `partial`; its rows go to `region` if that is worth it."""
    rows, apart = _placed(_bytes_of(partial.y_ND), region)
    return [_REPLY.pack(*partial.y_ND.shape, *partial.stamps, partial.shared_ns, partial.form, apart), *rows]


def unpack_partial(payload: bytearray | memoryview, region: memoryview | None = None) -> Partial:
    """Parse a reply; its tensor shares memory with `payload` or `region`.

    Raises:
        FrameError: the lengths do not add up, rows are in a region that we do not share, or the form is none that we
            know.
    """
    if len(payload) < _REPLY.size:
        raise FrameError("short", f"a reply has at least {_REPLY.size} bytes, not {len(payload)}")
    rows, hidden, received, started, sent, shared_ns, form, apart = _REPLY.unpack_from(payload)
    size, inside = 4 * rows * hidden, len(payload) - _REPLY.size
    source, at = _source(payload, _REPLY.size, region, apart, size)
    if inside != (0 if apart else size):
        raise FrameError("length", f"{len(payload)} bytes are not a reply of {rows} rows of {hidden}")
    y_ND = _tensor(source, torch.float32, rows, hidden, at)
    return Partial(y_ND, Stamps(received, started, sent), shared_ns, _form(form))


def _form(code: int) -> Form:
    form = _FORMS.get(code)
    if form is None:
        raise FrameError("form", f"a reply has form 0 (sums) or 1 (each assignment's row), not {code}")
    return form


def _bytes_of(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    rows = tensor.contiguous()
    # numpy has no bfloat16; its bits as integers are the same bytes.
    return (rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows).numpy().data.cast("B")


def _tensor(payload: bytearray | memoryview, dtype: torch.dtype, rows: int, hidden: int, at: int) -> Tensor:
    if not rows * hidden:
        return torch.empty((rows, hidden), dtype=dtype)
    return torch.frombuffer(payload, dtype=dtype, count=rows * hidden, offset=at).view(rows, hidden)
