"""Native attention against its definition in float64, and to the bit: any batch, cut, cache and number of threads."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows, PagedSegments
from kernels.native.library import INSTRUCTION_SETS, available, library
from kernels.ops import Backend
from kernels.select import ops

if not available():
    pytest.skip("the native kernels were not built", allow_module_level=True)

from kernels.native.attention import linear_heads, paged_attention, prepare_heads, segment_attention

CPU = torch.device("cpu")
# Of the largest result: the roundings of the output, and float32's sums.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}
LENGTHS = (200, 131, 64)
Part = tuple[int, int, int]


def usable_sets() -> list[str]:
    first, found = library().instruction_set, []
    for name in INSTRUCTION_SETS:
        try:
            library().select(name)
        except ValueError:
            continue
        found.append(name)
    assert first is not None
    library().select(first)
    return found


@pytest.fixture(autouse=True, params=usable_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = library().instruction_set, torch.get_num_threads()
    library().select(request.param)
    yield request.param
    assert before is not None
    library().select(before)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Form:
    """Heads, key-value heads, sizes of keys and values; latents are keys and values in one."""

    heads: int
    kv_heads: int
    size: int
    value: int
    latent: bool = False
    window: int | None = None
    chunk: int | None = None
    sinks: bool = False

    def first_seen(self, position: int) -> int:
        if self.window is not None:
            return max(0, position - self.window + 1)
        return 0 if self.chunk is None else position - position % self.chunk


FORMS = {
    "grouped": Form(6, 2, 8, 8),
    "odd sizes, sinks": Form(8, 1, 65, 7, sinks=True),
    "no groups, window": Form(3, 3, 33, 40, window=9),
    "values in place": Form(8, 2, 64, 64, sinks=True),
    "window over blocks, sinks": Form(4, 4, 64, 64, window=150, sinks=True),
    "chunk": Form(16, 2, 16, 32, chunk=70),
    "latents": Form(30, 1, 50, 37, latent=True),
    "many heads": Form(200, 1, 40, 32, latent=True),
    "one element": Form(2, 1, 1, 1, chunk=1),
}


class Sequences:
    """Sequences over a cache in which everything that none of them holds is NaN."""

    def __init__(self, form: Form, dtype: torch.dtype) -> None:
        self.form, draw = form, torch.Generator().manual_seed(1)
        order = np.random.default_rng(0).permutation(2 * sum(LENGTHS))
        self.slots = np.split(order[: sum(LENGTHS)], np.cumsum(LENGTHS)[:-1])
        kept = torch.from_numpy(order[sum(LENGTHS) :])
        sizes = [form.size] if form.latent else [form.size, form.value]
        keys, *values = (torch.randn(len(order), form.kv_heads, size, generator=draw).to(dtype) for size in sizes)
        for tensor in (keys, *values):
            tensor[kept] = float("nan")
        self.cache = LayerCache(keys, values[0] if values else None, form.value)
        self.q = [torch.randn(length, form.heads, form.size, generator=draw).to(dtype) for length in LENGTHS]
        self.sinks_H = torch.linspace(-5, 5, form.heads).to(dtype) if form.sinks else None

    def attend(self, parts: list[Part]) -> list[Tensor]:
        """Of each (sequence, first position, behind the last)."""
        seen = self.form.first_seen
        segments = PagedSegments(
            [self.slots[key][seen(first) : last] for key, first, last in parts],
            [last - first for _, first, last in parts],
            [seen(first) for _, first, _ in parts],
            np.array([seen(position) for _, first, last in parts for position in range(first, last)]),
        )
        q_THC = torch.cat([self.q[key][first:last] for key, first, last in parts])
        out_THV = segment_attention(q_THC, self.cache, segments, 0.2, self.sinks_H)
        return list(torch.split(out_THV, [last - first for _, first, last in parts]))

    def by_definition(self, key: int, position: int) -> Tensor:
        own = torch.from_numpy(self.slots[key][self.form.first_seen(position) : position + 1])
        shared = self.form.heads // self.form.kv_heads
        k, v = (t.double().repeat_interleave(shared, dim=1) for t in self.cache.read(own))
        shares_HM = torch.einsum("hc,mhc->hm", self.q[key][position].double() * 0.2, k).exp()
        total_H = shares_HM.sum(-1) + (0.0 if self.sinks_H is None else self.sinks_H.double().exp())
        return torch.einsum("hm,mhv->hv", shares_HM / total_H[:, None], v)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.fixture(params=list(TOLERANCE), ids=str)
def sequences(request: pytest.FixtureRequest, form: Form) -> Sequences:
    return Sequences(form, request.param)


def test_every_row_as_defined(sequences: Sequences) -> None:
    whole = sequences.attend([(key, 0, length) for key, length in enumerate(LENGTHS)])
    for key, position in [(0, 199), (0, 0), (0, 63), (0, 64), (0, 150), (1, 130), (2, 63)]:
        expected = sequences.by_definition(key, position)
        error = (whole[key][position].double() - expected).abs().max()
        assert error <= TOLERANCE[whole[key].dtype] * max(1.0, expected.abs().max()), (key, position)


def test_the_same_bits_alone_batched_cut_and_on_two_threads(sequences: Sequences) -> None:
    torch.set_num_threads(1)
    expected = [sequences.attend([(key, 0, length)])[0] for key, length in enumerate(LENGTHS)]
    for threads, parts in [
        (1, [(0, 199, 200)]),
        (2, [(0, 199, 200)]),
        (2, [(0, 0, 199), (1, 0, 130), (2, 5, 6)]),
        (2, [(0, 199, 200), (2, 0, 63), (1, 130, 131)]),
        (1, [(1, 60, 67), (0, 100, 101)]),
        (2, [(2, position, position + 1) for position in range(60, 64)]),
    ]:
        torch.set_num_threads(threads)
        for (key, first, last), part in zip(parts, sequences.attend(parts), strict=True):
            assert torch.equal(part, expected[key][first:last]), (threads, key, first, last)


def test_what_a_row_does_not_see_does_not_reach_it() -> None:
    """Rows of one tile: what the later ones are the first to see is no number."""
    sequences = Sequences(FORMS["grouped"], torch.float32)
    expected = sequences.attend([(0, 90, 95)])[0]
    assert sequences.cache.values_SJV is not None
    sequences.cache.values_SJV[int(sequences.slots[0][93])] = float("nan")
    actual = sequences.attend([(0, 90, 95)])[0]
    assert torch.equal(actual[:3], expected[:3])
    assert actual[3:].isnan().all()


def test_a_key_that_is_no_number_is_not_hidden() -> None:
    sequences = Sequences(FORMS["values in place"], torch.bfloat16)
    sequences.cache.keys_SJC[int(sequences.slots[0][3]), 0, 5] = float("nan")
    first_group = slice(0, 4)
    assert sequences.attend([(0, 199, 200)])[0][:, first_group].isnan().all()


def test_rows_of_their_own() -> None:
    sequences = Sequences(FORMS["grouped"], torch.float32)
    rows = PagedRows([sequences.slots[0][:150], sequences.slots[1][:1]], CPU)
    q_BHC = torch.stack([sequences.q[0][149], sequences.q[1][0]])
    expected = torch.stack([sequences.by_definition(0, 149), sequences.by_definition(1, 0)])
    torch.testing.assert_close(paged_attention(q_BHC, sequences.cache, rows, 0.2).double(), expected, atol=1e-5, rtol=0)
    assert ops(Backend.NATIVE).paged_attention is paged_attention


def test_no_rows() -> None:
    sequences = Sequences(FORMS["grouped"], torch.float32)
    none = PagedSegments([], [], [], np.empty(0, dtype=np.int64))
    assert segment_attention(torch.empty(0, 6, 8), sequences.cache, none, 0.2).shape == (0, 6, 8)


@pytest.mark.parametrize("slot", [-1, 790])
def test_slots_that_are_not_there_are_refused(slot: int) -> None:
    sequences = Sequences(FORMS["grouped"], torch.float32)
    rows = PagedRows([np.array([3, slot])], CPU)
    with pytest.raises(IndexError, match="not all among the cache's 790"):
        paged_attention(torch.zeros(1, 6, 8), sequences.cache, rows, 0.2)


@pytest.mark.parametrize(
    ("rows", "since", "first"), [([0], 0, []), ([3], 0, [0, 0, 0]), ([1], 5, [4]), ([1], 5, [7]), ([1], 0, [0, 0])]
)
def test_segments_that_do_not_fit_are_refused(rows: list[int], since: int, first: list[int]) -> None:
    with pytest.raises(ValueError, match="segment"):
        PagedSegments([np.array([0, 1])], rows, [since], np.array(first, dtype=np.int64))


@pytest.mark.parametrize(
    ("q", "match"),
    [
        (torch.zeros(2, 6, 8), "do not fit 1 rows"),
        (torch.zeros(1, 6, 9), "do not fit"),
        (torch.zeros(1, 5, 8), "do not fit"),
        (torch.zeros(1, 6, 8, dtype=torch.bfloat16), "one float dtype"),
        (torch.zeros(1, 8, 6).transpose(1, 2), "side by side"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(q: Tensor, match: str) -> None:
    sequences = Sequences(FORMS["grouped"], torch.float32)
    with pytest.raises(ValueError, match=match):
        paged_attention(q, sequences.cache, PagedRows([np.array([0])], CPU), 0.2)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_products_by_head(dtype: torch.dtype) -> None:
    """As defined, from rows and into rows with gaps, and each row's bits are its own."""
    draw = torch.Generator().manual_seed(2)
    w_HOI = torch.randn(5, 33, 19, generator=draw).to(dtype)
    x_MHI = torch.randn(40, 5, 30, generator=draw).to(dtype)[..., 3:22]
    prepared, out_MHO = prepare_heads(w_HOI), torch.zeros(40, 5, 50, dtype=dtype)
    torch.set_num_threads(2)
    linear_heads(x_MHI, prepared, out_MHO[..., :33])
    expected = torch.einsum("mhi,hoi->mho", x_MHI.double(), w_HOI.double())
    error = (out_MHO[..., :33].double() - expected).abs().max()
    assert error <= TOLERANCE[dtype] * expected.abs().max()
    assert not out_MHO[..., 33:].any()
    alone_1HO = torch.zeros(1, 5, 33, dtype=dtype)
    linear_heads(x_MHI[7:8], prepared, alone_1HO)
    assert torch.equal(alone_1HO[0], out_MHO[7, :, :33])
    with pytest.raises(ValueError, match="do not fit"):
        linear_heads(x_MHI[:, :4], prepared, alone_1HO)
