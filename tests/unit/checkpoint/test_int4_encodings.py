"""INT4 matrices as publishers lay them out decode to their values, bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experts.checkpoint.encodings.awq import AwqEncoding
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.gptq import GptqEncoding
from experts.checkpoint.encodings.packed_int4 import PackedInt4Encoding
from kernels.formats.int4_groups import Int4Groups
from tests.support.int4_checkpoints import Int4, awq, compressed_tensors, gptq

NAME = "model.layers.0.mlp.down_proj.weight"
CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Case:
    """A format, how its tensors are written, and what divides its outputs and inputs."""

    encoding: Callable[[int | None], Encoding]
    write: Callable[[Int4], dict[str, Tensor]]
    zeros: bool = False
    shuffled: bool = False
    step: tuple[int, int] = (1, 1)


CASES = {
    "packed": Case(PackedInt4Encoding, lambda w: compressed_tensors(NAME, w)),
    "packed, zeros": Case(
        lambda group: PackedInt4Encoding(group, zeros=True), lambda w: compressed_tensors(NAME, w, zeros=True), True
    ),
    "packed, in any order": Case(
        lambda group: PackedInt4Encoding(group, zeros=True, ordered=True),
        lambda w: compressed_tensors(NAME, w, zeros=True, ordered=True),
        True,
        True,
    ),
    "gptq": Case(GptqEncoding, lambda w: gptq(NAME, w), step=(8, 8)),
    "gptq, zeros": Case(lambda group: GptqEncoding(group, symmetric=False), lambda w: gptq(NAME, w), True, step=(8, 8)),
    "gptq, desc_act": Case(
        lambda group: GptqEncoding(group, symmetric=False, ordered=True),
        lambda w: gptq(NAME, w),
        True,
        True,
        step=(8, 8),
    ),
    "gptq_v2, no index": Case(
        lambda group: GptqEncoding(group, symmetric=False, zero_less_one=False, indexed=False),
        lambda w: gptq(NAME, w, v1=False, indexed=False),
        True,
        step=(8, 8),
    ),
    "awq": Case(AwqEncoding, lambda w: awq(NAME, w), True, step=(8, 1)),
}


def any_int4(case: Case, outputs: int, inputs: int, group: int, scale_dtype: torch.dtype, seed: int) -> Int4:
    """Any codes, scales and zero points, 0 and 15 among them."""
    rng = torch.Generator().manual_seed(seed)
    group_I = torch.arange(inputs) // group
    if case.shuffled:
        group_I = group_I[torch.randperm(inputs, generator=rng)]
    groups = int(group_I.max()) + 1
    zeros_OG = torch.full((outputs, groups), 8)
    if case.zeros:
        zeros_OG = torch.randint(0, 16, zeros_OG.shape, generator=rng)
    codes_OI = torch.randint(0, 16, (outputs, inputs), generator=rng)
    return Int4(codes_OI, torch.randn(outputs, groups, generator=rng).to(scale_dtype), zeros_OG, group_I)


def read(encoding: Encoding, tensors: dict[str, Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Int4Groups:
    """As the loader does: each stored tensor is of the shape that was announced, and is copied into its target."""
    stored, targets = encoding.stored(NAME, shape), encoding.targets(shape, CPU)
    assert {one.name: one.shape for one in stored} == {name: tuple(t.shape) for name, t in tensors.items()}
    for one, target in zip(stored, targets, strict=True):
        target.copy_(tensors[one.name])
    made = encoding.matrix(targets, dtype)
    assert isinstance(made, Int4Groups)
    return made


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(sorted(CASES)),
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from([1, 5, 8, 32, 64, 128, None]),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_what_is_stored_decodes_to_what_it_means(name, outputs, inputs, group, scale_dtype, dtype, seed):
    case = CASES[name]
    shape = tuple(-(-size // step) * step for size, step in zip((outputs, inputs), case.step, strict=True))
    w = any_int4(case, *shape, group or shape[1], scale_dtype, seed)
    encoding = case.encoding(group)
    made = read(encoding, case.write(w), shape, dtype)
    assert made.shape == shape
    assert torch.equal(made.dense(), w.dense().float().to(dtype))
    assert made.scales_OG.dtype.itemsize <= scale_dtype.itemsize
    assert encoding.marker(NAME) in case.write(w)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_as_announced(name: str) -> None:
    case = CASES[name]
    w = any_int4(case, 16, 96, 32, torch.float16, seed=1)
    encoding = case.encoding(32)
    assert read(encoding, case.write(w), (16, 96), torch.bfloat16).nbytes == encoding.packed_bytes((16, 96))


@pytest.mark.parametrize("name", CASES)
def test_zero_points_that_are_all_8_are_left_out(name: str) -> None:
    case = CASES[name]
    w = any_int4(case, 16, 64, 32, torch.float16, seed=2)
    middle = Int4(w.codes_OI, w.scales_OG, torch.full_like(w.zeros_OG, 8), w.group_I)
    made = read(case.encoding(32), case.write(middle), (16, 64), torch.float32)
    assert made.zeros_OG is None
    assert torch.equal(made.dense(), middle.dense().float())


def test_a_gptq_zero_point_of_0_borrows_from_its_neighbours() -> None:
    """0 less one is 15 and takes one from the next; a loader that adds one to each alone is off by one there."""
    rng = torch.Generator().manual_seed(3)
    w = Int4(
        torch.randint(0, 16, (8, 8), generator=rng),
        torch.ones(8, 1),
        torch.tensor([[0], [0], [5], [0], [15], [15], [0], [0]]),
        torch.zeros(8, dtype=torch.int64),
    )
    stored = gptq(NAME, w)
    assert stored[NAME.replace("weight", "qzeros")].tolist() != [[0]]
    made = read(GptqEncoding(None, symmetric=False), stored, (8, 8), torch.float32)
    assert made.zeros_OG is not None
    assert made.zeros_OG.tolist() == w.zeros_OG.tolist()


def test_groups_in_order_need_no_permutation() -> None:
    """GPTQ writes its index even where it says nothing; an index of -1 says that none was assigned."""
    case = CASES["packed, in any order"]
    w = any_int4(CASES["packed, zeros"], 8, 64, 16, torch.bfloat16, seed=4)
    for group_I in (w.group_I, torch.full((64,), -1)):
        stored = case.write(Int4(w.codes_OI, w.scales_OG, w.zeros_OG, group_I))
        made = read(case.encoding(16), stored, (8, 64), torch.float32)
        assert made.order_I is None
        assert torch.equal(made.dense(), w.dense().float())


@pytest.mark.parametrize("name", ["packed, in any order", "gptq, desc_act"])
def test_groups_of_uneven_sizes_are_refused(name: str) -> None:
    case = CASES[name]
    w = any_int4(case, 8, 64, 16, torch.float16, seed=5)
    w.group_I[0] = (w.group_I[0] + 1) % 4
    with pytest.raises(ValueError, match="g_idx must give each of 4 groups 16 inputs"):
        read(case.encoding(16), case.write(w), (8, 64), torch.float32)


def test_another_shape_than_the_codes_is_refused() -> None:
    w = any_int4(CASES["packed"], 8, 64, 16, torch.bfloat16, seed=6)
    stored = compressed_tensors(NAME, w) | {f"{NAME}_shape": torch.tensor([64, 8])}
    with pytest.raises(ValueError, match=r"weight_shape says \[64, 8\], weight_packed is \[8, 8\]"):
        read(PackedInt4Encoding(16), stored, (8, 64), torch.float32)


@pytest.mark.parametrize(
    ("encoding", "shape", "words"),
    [
        (GptqEncoding(16), (8, 60), "eight inputs a word, got 60"),
        (GptqEncoding(16), (12, 64), "eight outputs a word, got 12"),
        (AwqEncoding(16), (12, 64), "eight outputs a word, got 12"),
    ],
)
def test_shapes_that_a_format_does_not_have_are_refused(encoding: Encoding, shape: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoding.targets(shape, CPU)
