"""An expert's bytes as another shard sends them: what is accepted is an expert that native kernels can compute with."""

import hashlib
from dataclasses import replace

import torch

from experts.shard.copying.packed import PackedExpert, unpacked
from experts.shard.held.layer import ExpertCopy, LoadedExpert
from experts.transport.control import Copy, Piece
from experts.transport.frame import FrameError
from kernels import select
from kernels.formats.quantized import Matrix
from kernels.formats.rounding import Rounding
from kernels.ops import Ops
from kernels.portable import UnportableError
from tests.fuzz.target import Target

HIDDEN, FFN = 64, 32
COPY = ExpertCopy(0, 1, 0)
NATIVE = select.ops("native", torch.device("cpu"))


def read_expert(data: bytes) -> None:
    """The digest is that of the bytes: whoever sends them knows the secret, and may be wrong all the same."""
    data_N = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    expert = unpacked(COPY, data_N, hashlib.sha256(data).digest(), HIDDEN, FFN)
    again = PackedExpert(expert)
    bytes_N = torch.frombuffer(bytearray(b"".join(again.views)), dtype=torch.uint8)
    assert PackedExpert(unpacked(COPY, bytes_N, again.digest, HIDDEN, FFN)).digest == again.digest
    _compute(expert)


def read_piece(data: bytes) -> None:
    """Both payloads; what is accepted is written as it was read."""
    piece, rest = Piece.unpacked(memoryview(data))
    assert piece.packed() + bytes(rest) == data
    wanted = Copy.unpacked(bytes(rest[:20]))
    assert wanted.packed() == bytes(rest[:20])


def _compute(expert: LoadedExpert) -> None:
    """By the kernels: out of bounds they would read or write what is not theirs."""
    biases = [None if bias is None else bias[None] for bias in (expert.gate_up_bias, expert.down_bias)]
    try:
        weights = NATIVE.prepare_weights((expert.gate_up,), (expert.down,), gate_up_bias=biases[0], down_bias=biases[1])
    except ValueError as error:  # matrices of different dtypes, which loading refuses too
        raise UnportableError(str(error)) from error
    x_TD, places = torch.ones(2, HIDDEN, dtype=weights.dtype), torch.zeros(2, dtype=torch.int64)
    NATIVE.expert_ffn(x_TD, weights, torch.arange(2), places, torch.ones(2))


def _seeds() -> tuple[bytes, ...]:
    torch.manual_seed(0)
    dense = torch.randn(2 * FFN, HIDDEN).bfloat16(), torch.randn(HIDDEN, FFN).bfloat16()
    rounded = [Rounding(form, 32).of(w) for form in ("int4", "int8") for w in dense]
    made = [
        _packed(NATIVE, *dense),
        _packed(NATIVE, *rounded[:2]),
        _packed(NATIVE, *rounded[2:]),
        _packed(select.ops("reference", torch.device("cpu")), *dense, biases=True),
    ]
    return tuple(made)


def _packed(ops: Ops, gate_up: Matrix, down: Matrix, biases: bool = False) -> bytes:
    expert = LoadedExpert(COPY, ops.prepare_matrix(gate_up, gate_up=True), ops.prepare_matrix(down))
    if biases:
        expert = replace(expert, gate_up_bias=torch.ones(2 * FFN).bfloat16(), down_bias=torch.ones(HIDDEN).bfloat16())
    return b"".join(PackedExpert(expert).views)


PIECE = Piece(1000, bytes(range(32))).packed() + Copy(3, 9, 1 << 20, 1 << 20).packed()
TARGETS = (
    Target("expert", _seeds(), read_expert, (UnportableError,)),
    Target("piece", (PIECE,), read_piece, (FrameError,)),
)
