"""Matrices rounded to INT4 and INT8: bounds of the error, against a search that tries every scale, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.formats import rounding
from kernels.formats.rounding import int4_of, int8_of
from tests.unit.kernels.kernel_cases import DTYPES

FORMS = {"int4": (int4_of, 8), "int8": (int8_of, 128)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def relative_error(w: Tensor, made: Tensor) -> float:
    return float((made - w).norm() / w.norm())


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(sorted(FORMS)),
    st.integers(1, 60),
    st.integers(1, 150),
    st.sampled_from([1, 7, 32, 128]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_no_value_is_further_off_than_its_step(form, outputs, inputs, group, dtype, seed):
    """A step is the largest of the group by 8 or 128. A value near minus the largest has no code and is a step off;
    INT4's clipping and fitted scale may cost the largest two. Scales are within 2^-8 of what they should be.
    """
    make, half = FORMS[form]
    w = normal(outputs, inputs, seed=seed).to(dtype)
    made = make(w, group)
    assert (made.shape, made.dtype, made.scales_OG.dtype) == (w.shape, dtype, torch.bfloat16)
    for start in range(0, inputs, group):
        part = w[:, start : start + group].float()
        largest = part.abs().amax(1, keepdim=True)
        allowed = largest * ((2.0 if form == "int4" else 1.0) / half + 2**-8 + torch.finfo(dtype).eps)
        assert ((made.dense()[:, start : start + group].float() - part).abs() <= allowed).all()


@pytest.mark.parametrize(("group", "allowed"), [(32, 0.085), (128, 0.1)])
def test_int4_is_nearly_as_good_as_any_symmetric_scale(group, allowed):
    w = normal(64, 512)
    made = relative_error(w, int4_of(w, group).dense())
    assert made < allowed
    values = w.view(64, -1, group)
    steps = values.abs().amax(2, keepdim=True) / 8
    # Every scale between half and 1.3 times the widest, with either sign.
    errors = []
    for factor in np.concatenate([np.linspace(0.5, 1.3, 81), -np.linspace(0.5, 1.3, 81)]):
        scales = steps * float(factor)
        errors.append(((values / scales).round().clamp(-8, 7) * scales - values).square().sum(2))
    best = float(torch.stack(errors).amin(0).sum().sqrt() / w.norm())
    assert best <= made <= 1.05 * best


@pytest.mark.parametrize(("group", "allowed"), [(32, 0.0057), (128, 0.0068)])
def test_the_error_of_int8(group, allowed):
    w = normal(64, 512)
    assert relative_error(w, int8_of(w, group).dense()) < allowed


@pytest.mark.parametrize("form", FORMS)
def test_what_the_codes_can_express_is_kept(form):
    """The largest in size is as exact as a scale in bfloat16 may be, whatever its sign; zeros stay."""
    w = torch.tensor([[-16.0, 0, 2, 4], [16, 0, -2, -4], [0, 0, 0, 0]])
    assert FORMS[form][0](w, 4).dense().tolist() == w.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_a_piece_does_not_matter(form, monkeypatch):
    make, w = FORMS[form][0], normal(50, 70)
    whole = make(w, 32).dense()
    monkeypatch.setattr(rounding, "_ELEMENTS", 100)
    monkeypatch.setattr(rounding, "_ELEMENTS_SHARED", 300)
    assert torch.equal(make(w, 32).dense(), whole)


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_independent_and_strides_do_not_matter(form):
    make, w = FORMS[form][0], normal(9, 64)
    whole = make(w, 32).dense()
    assert torch.equal(make(w[4:5], 32).dense(), whole[4:5])
    assert torch.equal(make(w.T.contiguous().T, 32).dense(), whole)


@pytest.mark.parametrize("form", FORMS)
def test_values_too_small_for_a_scale_become_zero(form):
    w = torch.full((2, 32), 1e-42)
    w[1] = 1.0
    assert FORMS[form][0](w, 32).dense().tolist() == [[0.0] * 32, [1.0] * 32]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(form, value):
    w = normal(4, 64)
    w[3, 40] = value
    with pytest.raises(ValueError, match=r"not finite.*weights\.quantize"):
        FORMS[form][0](w, 32)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_group_is_refused(form):
    with pytest.raises(ValueError, match="groups of 0"):
        FORMS[form][0](normal(2, 4), 0)
