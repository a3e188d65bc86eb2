"""Attention of single rows over a paged cache: the CPU path and the reference against the definition in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import cpu, reference
from kernels.attention.paged import PagedRows, in_place, padded_length
from kernels.ops import Backend
from kernels.select import ops
from tests.unit.kernels.paged_cases import CPU, TOLERANCE, Case, of_form


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few short rows fill a group, and longer ones are read in place."""
    monkeypatch.setattr(cpu, "_GROUP_BYTES", 1 << 13)
    monkeypatch.setattr(cpu, "_COPIED_BYTES", 1 << 13)
    monkeypatch.setattr(cpu, "_COPIED_LATENT_BYTES", 1 << 12)


heads_of = st.sampled_from([(6, 2), (4, 4), (8, 1), (3, 3)])


@pytest.mark.usefixtures("small_groups")
@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=24),
    heads=heads_of,
    dtype=st.sampled_from(list(TOLERANCE)),
    form=st.sampled_from(["plain", "sinks", "latent"]),
    scattered=st.booleans(),
)
def test_every_row_as_defined(
    lengths: list[int], heads: tuple[int, int], dtype: torch.dtype, form: str, scattered: bool
) -> None:
    case = of_form(form, lengths, heads, dtype, scattered)
    sinks_H = torch.linspace(-20, 20, heads[0]).to(dtype) if form == "sinks" else None
    expected = case.by_definition(0.3, sinks_H)
    for way in (reference.paged_attention, cpu.paged_attention):
        actual = way(case.q_BHC, case.cache, case.rows(), 0.3, sinks_H)
        assert actual.dtype == dtype
        assert (actual.double() - expected).abs().max() <= TOLERANCE[dtype] * max(1.0, expected.abs().max())


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("form", ["plain", "sinks", "latent"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_rows_do_not_depend_on_each_other(dtype: torch.dtype, form: str) -> None:
    """The same bits alone, among rows of the same length, and among others: padding follows from a row's own length."""
    case = of_form(form, [1, 16, 17, 100, 100, 100, 113, 199, 60, 3], (6, 2), dtype)
    sinks_H = torch.linspace(-3, 3, 6).to(dtype) if form == "sinks" else None
    together = cpu.paged_attention(case.q_BHC, case.cache, case.rows(), 0.3, sinks_H)
    for chosen in ([0], [3], [7], [5, 3], [9, 8, 7, 6, 5]):
        some = cpu.paged_attention(case.q_BHC[chosen], case.cache, case.rows(chosen), 0.3, sinks_H)
        assert torch.equal(some, together[chosen])


def test_a_long_row_costs_the_short_ones_nothing() -> None:
    """Padding adds at most a quarter and 15 slots to a row, and no group exceeds its limit unless by one row."""
    lengths = [20] * 50 + [4000, 300, 3000]
    plan = PagedRows([np.arange(length) for length in lengths], CPU).plan(1000, 3500, torch.float32)
    sizes = [len(group.slots_BP) for group in plan.padded]
    assert plan.alone == (50,)
    assert sum(group.last - group.first for group in plan.padded) == 52
    assert max(sizes[:-1]) <= 1000
    assert sum(sizes) <= sum(1.25 * length + 15 for length in lengths if length < 4000)
    assert len(plan.padded) == 4


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=9), size=st.integers(1, 40))
def test_parts_cover_each_row_in_order(lengths: list[int], size: int) -> None:
    """Each slot once, in the row's order; every part but a row's last is full."""
    case = of_form("plain", lengths, (1, 1), torch.float32)
    parts = case.rows().parts(size)
    for row, slots in enumerate(case.slots):
        own = parts.parts_Q3[parts.offsets_B1[row] : parts.offsets_B1[row + 1]].tolist()
        assert [part[0] for part in own] == [row] * len(own)
        assert [last - first for _, first, last in own[:-1]] == [size] * (len(own) - 1)
        assert torch.cat([parts.slots_N[first:last] for _, first, last in own]).tolist() == slots.tolist()
    assert len(parts.parts_Q3) == parts.offsets_B1[-1]


@given(st.integers(1, 10**6))
def test_padded_lengths(length: int) -> None:
    assert length <= padded_length(length) < 1.25 * length + 16
    assert padded_length(padded_length(length)) == padded_length(length)


def test_all_rows_of_a_length_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of calls follows from the bytes read, not from the number of rows."""
    calls, fused = [], cpu.fused_attention
    monkeypatch.setattr(cpu, "fused_attention", lambda *args, **more: calls.append(1) or fused(*args, **more))
    case = Case([100] * 64, 6, 2, torch.float32)
    cpu.paged_attention(case.q_BHC, case.cache, case.rows(), 0.3)
    assert len(calls) == 1


def test_contiguous_slots_are_read_in_place() -> None:
    assert in_place(np.array([3, 4, 5]), CPU) == slice(3, 6)
    # As many as from the first to the last, but out of order.
    assert torch.equal(in_place(np.array([3, 5, 4, 6]), CPU), torch.tensor([3, 5, 4, 6]))


def test_the_backends_ops() -> None:
    assert ops(Backend.CPU).paged_attention is cpu.paged_attention
    assert ops(Backend.REFERENCE).paged_attention is reference.paged_attention
