"""The Triton backend's attention against its definition in float64. `test_triton.py` runs this in a process of its own.

Not collected by name, see `triton_suite.py`.
"""

from __future__ import annotations

import pytest
import torch

from kernels.attention.paged import LayerCache
from kernels.select import ops
from kernels.triton import attention
from tests.unit.kernels.paged_cases import TOLERANCE, Case

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of heads: grouped, each for itself, all sharing one, more than a program takes; sizes that no power of two is.
FORMS = {
    "grouped": {"heads": 6, "kv_heads": 2},
    "separate": {"heads": 3, "kv_heads": 3, "key": 17, "value": 5},
    "wide": {"heads": 40, "kv_heads": 1, "key": 24, "value": 16},
    "latent": {"heads": 20, "kv_heads": 1, "latent": True, "key": 24, "value": 16},
    "unequal latent": {"heads": 5, "kv_heads": 1, "latent": True, "key": 12, "value": 8},
}
LENGTHS = [1, 70, 33, 16, 5]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    """Few positions already are several parts."""
    monkeypatch.setattr(attention, "PART", 32)
    monkeypatch.setattr(attention, "LATENT_PART", 48)


@pytest.fixture(scope="module")
def attend():
    return ops("triton", DEVICE).paged_attention


def make(form: str, dtype: torch.dtype, lengths: list[int] = LENGTHS) -> Case:
    return Case(lengths, dtype=dtype, device=DEVICE, **FORMS[form])


@pytest.mark.parametrize("sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_row_as_defined(attend, form, dtype, sinks):
    case = make(form, dtype)
    sinks_H = torch.linspace(-20, 20, case.heads, device=DEVICE).to(dtype) if sinks else None
    expected = case.by_definition(0.3, sinks_H)
    actual = attend(case.q_BHC, case.cache, case.rows(), 0.3, sinks_H)
    assert actual.dtype == dtype
    assert (actual.double() - expected).abs().max() <= TOLERANCE[dtype] * max(1.0, expected.abs().max())


@pytest.mark.parametrize("form", ["grouped", "latent"])
def test_rows_do_not_depend_on_each_other(attend, form):
    """The same bits alone and among others, and again."""
    case = make(form, torch.bfloat16)
    together = attend(case.q_BHC, case.cache, case.rows(), 0.3, None)
    for chosen in ([1], [4, 2], [2, 1, 0]):
        some = attend(case.q_BHC[chosen], case.cache, case.rows(chosen), 0.3, None)
        assert torch.equal(some, together[chosen])


def test_a_layer_of_a_shared_storage(attend):
    """Layers lie behind each other, and heads of a token beside each other: strides are not those of one layer."""
    case = make("grouped", torch.float32)
    assert case.cache.values_SJV is not None
    stored = torch.stack([case.cache.keys_SJC, case.cache.values_SJV], dim=1)
    cache = LayerCache(stored[:, 0], stored[:, 1], case.value)
    assert torch.equal(
        attend(case.q_BHC, cache, case.rows(), 0.3, None), attend(case.q_BHC, case.cache, case.rows(), 0.3, None)
    )


def test_elements_that_lie_apart_are_refused(attend):
    case = make("grouped", torch.float32)
    apart = LayerCache(case.cache.keys_SJC.transpose(1, 2).contiguous().transpose(1, 2), case.cache.values_SJV, 8)
    with pytest.raises(ValueError, match="side by side"):
        attend(case.q_BHC, apart, case.rows(), 0.3, None)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN):RuntimeWarning")  # numpy, in the interpreter
def test_a_broken_row_stays_alone(attend):
    """A NaN in one row's query is in its result and in no other; a part of logits of -inf has no share."""
    case = make("grouped", torch.float32)
    query = case.q_BHC.clone()
    query[1] = torch.nan
    assert case.cache.values_SJV is not None
    keys = case.cache.keys_SJC.clone()
    # The first part of the third row, whose query is made positive: its logits are -inf.
    keys[torch.from_numpy(case.slots[2][:32])] = -torch.inf
    query[2] = query[2].abs()
    out = attend(query, LayerCache(keys, case.cache.values_SJV, 8), case.rows(), 0.3, None)
    assert out[1].isnan().all()
    assert not out[[0, 2, 3, 4]].isnan().any()
    assert torch.allclose(out[2], case.cache.values_SJV[int(case.slots[2][32])].repeat_interleave(3, 0))
