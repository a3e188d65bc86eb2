"""What shards and routers say to each other: calls, answers, and what is said about them."""

from collections.abc import Callable

import numpy as np
import torch

from experts.transport.call import (
    ExpertCall,
    Form,
    Partial,
    Stamps,
    pack_call,
    pack_partial,
    unpack_call,
    unpack_partial,
)
from experts.transport.control import Beat, Busy, Failure, Hello, Miss
from experts.transport.frame import Buffer, FrameError
from tests.fuzz.target import Target

REGION_BYTES = 8192
# Where both ends share memory; a call says that its rows are there.
REGION = memoryview(bytearray(REGION_BYTES))


def read_call(data: bytes) -> None:
    """What is accepted points nowhere outside. Rows that are elsewhere need the memory that is shared."""
    call = unpack_call(bytearray(data), REGION)
    assert all(0 <= row < call.x_RD.shape[0] for row in call.rows_A.tolist())
    assert min(call.experts_A.tolist(), default=0) >= 0
    assert call.reply_rows >= 0
    assert _refused(lambda: unpack_call(bytearray(data))) == call.apart


def read_partial(data: bytes) -> None:
    """An accepted answer has the rows that it says it has."""
    answer = unpack_partial(bytearray(data), REGION)
    assert answer.y_ND.dtype is torch.float32
    assert answer.y_ND.nbytes <= max(len(data), REGION_BYTES)
    _refused(lambda: unpack_partial(bytearray(data)))


def read_control(data: bytes) -> None:
    """The first byte says which; what is accepted is written and read again as the same."""
    kind = (Hello, Miss, Busy, Failure, Beat)[data[0] % 5] if data else Hello
    said = kind.unpacked(memoryview(data[1:]))
    # A text cut in the middle of a character is longer once it is replaced; so only what is read again must agree.
    assert kind.unpacked(said.packed()) == kind.unpacked(said.packed())
    if kind is not Failure:
        assert kind.unpacked(said.packed()) == said


def _refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except FrameError:
        return True
    return False


def _joined(parts: list[Buffer]) -> bytes:
    return b"".join(map(bytes, parts))


def _call(dtype: torch.dtype, rows: int, region: memoryview | None = None, form: Form = Form.SUMS) -> bytes:
    experts = np.array([0, 1, 5, 5][: 2 * rows], np.int32)
    rows_A = np.arange(len(experts), dtype=np.int32) % max(1, rows)
    weights = np.full(len(experts), 0.5, np.float32)
    call = ExpertCall(2, torch.ones(rows, 4, dtype=dtype), rows_A, experts, weights, 17, form, epoch=3, left_us=1000)
    return _joined(pack_call(call, region))


def _calls() -> tuple[bytes, ...]:
    large = ExpertCall(0, torch.ones(2, 600), *np.zeros((2, 2), np.int32), np.ones(2, np.float32))
    return (
        _call(torch.float32, 2),
        _call(torch.bfloat16, 1, form=Form.EACH),
        _call(torch.float16, 0),
        _joined(pack_call(large, REGION)),
    )


def _partials() -> tuple[bytes, ...]:
    stamps = Stamps(1, 2, 3)
    return (
        _joined(pack_partial(Partial(torch.ones(2, 4), stamps))),
        _joined(pack_partial(Partial(torch.ones(0, 4), stamps, 5, Form.EACH))),
        _joined(pack_partial(Partial(torch.ones(2, 600), stamps), REGION)),
    )


def _controls() -> tuple[bytes, ...]:
    said = (Hello(7, 1), Miss(3, (0, 9)), Busy(5000), Failure(True, "caf\u00e9: no memory"), Beat(1, 0, 2**40, 9))
    return tuple(bytes([number]) + one.packed() for number, one in enumerate(said))


TARGETS = (
    Target("call", _calls(), read_call, (FrameError,), 4),
    Target("partial", _partials(), read_partial, (FrameError,), 3),
    Target("control", _controls(), read_control, (FrameError,), 4),
)
