"""NVFP4 with its two levels of scales; what is common to all formats is in `test_quantized.py`."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.formats.nvfp4 import Nvfp4
from tests.unit.kernels.kernel_cases import DTYPES
from tests.unit.kernels.quantized_cases import any_nvfp4, assert_same, exact


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_nvfp4_scale_with_every_value(dtype):
    w = any_nvfp4((256, 16), dtype, seed=0)
    w.packed_OH.copy_(torch.tensor([low | low + 1 << 4 for low in range(0, 16, 2)], dtype=torch.uint8).repeat(256, 1))
    w.scales_OG.view(torch.uint8).copy_(torch.arange(256)[:, None])
    for scale in (1.0, 3e-39, 1.7e36, 0.1):
        w.scale_1.fill_(scale)
        assert_same(w.dense(), exact(w), dtype)


def test_nvfp4_is_values_times_both_scales():
    w = Nvfp4.empty((1, 32), torch.float32)
    w.packed_OH.fill_(0x1F)  # -6, then 0.5
    w.scales_OG.copy_(torch.tensor([[2.0, math.nan]]))
    w.scale_1.fill_(0.25)
    assert w.dense()[0, :4].tolist() == [-3.0, 0.25, -3.0, 0.25]
    assert w.dense()[0].isnan().tolist() == [False] * 16 + [True] * 16


def test_bytes():
    assert Nvfp4.empty((8, 160), torch.bfloat16).nbytes == 8 * 160 // 2 + 8 * 10 + 4


def test_bad_nvfp4_is_refused():
    packed, scales = torch.zeros(3, 16, dtype=torch.uint8), torch.zeros(3, 2).to(torch.float8_e4m3fn)
    one = torch.ones(1)
    bad = {
        "uint8": [(packed.int(), scales, one), (packed[0], scales, one), (packed[:0], scales, one)],
        "whole groups of 16, got 30": [(packed[:, :15], scales, one)],
        "must be float8_e4m3fn": [(packed, scales.float(), one), (packed, scales[:, :1], one)],
        "must be float32": [(packed, scales, one.double()), (packed, scales, torch.ones(2))],
        "contiguous": [(packed.T.contiguous().T, scales, one)],
        "meta": [(packed, scales, one.to("meta"))],
    }
    for words, cases in bad.items():
        for case in cases:
            with pytest.raises(ValueError, match=words):
                Nvfp4(*case, torch.bfloat16)
    with pytest.raises(ValueError, match="float64"):
        Nvfp4(packed, scales, one, torch.float64)
    with pytest.raises(ValueError, match="groups of 16"):
        Nvfp4.empty((3, 40), torch.bfloat16)
