"""FP8 and INT8 with a scale for each output or one for all; what is common to all formats is in `test_quantized.py`."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.formats.scaled import Int8Channel, ScaledFp8
from tests.unit.kernels.kernel_cases import DTYPES
from tests.unit.kernels.quantized_cases import any_scaled, assert_same, exact


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("columns", [256, 255])
@pytest.mark.parametrize("kind", [ScaledFp8, Int8Channel])
def test_every_code_of_one_byte(kind, columns, per_tensor, dtype):
    w = any_scaled(kind, (2, columns), dtype, seed=0, per_tensor=per_tensor)
    w.values_OI.view(torch.uint8).copy_(torch.stack((torch.arange(columns), 255 - torch.arange(columns))))
    w.scales_R1.fill_(1)
    assert_same(w.dense(), exact(w), dtype)
    if kind is Int8Channel:
        assert w.dense()[0, 126:130].tolist() == [126, 127, -128, -127]


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.5, 0.0, 1e-45, 3e38])
@pytest.mark.parametrize("kind", [ScaledFp8, Int8Channel])
def test_a_strange_scale_is_that_of_its_row_only(kind, scale):
    w = any_scaled(kind, (3, 64), torch.float32, seed=7)
    w.scales_R1.copy_(torch.tensor([[1.0], [scale], [2.0]]))
    assert_same(w.dense(), exact(w), torch.float32)


def test_bytes():
    for kind in (ScaledFp8, Int8Channel):
        assert kind.empty((8, 160), torch.bfloat16).nbytes == 8 * 160 + 4 * 8
        assert kind.empty((8, 160), torch.bfloat16, per_tensor=True).nbytes == 8 * 160 + 4


@pytest.mark.parametrize(("kind", "name"), [(ScaledFp8, "float8_e4m3fn"), (Int8Channel, "int8")])
def test_bad_scaled_matrices_are_refused(kind, name):
    values, scales = torch.zeros(6, 4).to(kind.KIND), torch.zeros(6, 1)
    bad = {
        f"a matrix of {name}": [(values.float(), scales), (values[0], scales), (values[:0], scales)],
        "must be float32": [(values, scales[:2]), (values, scales.double()), (values, scales.flatten())],
        "contiguous": [(values.T.contiguous().T, scales)],
        "meta": [(values, scales.to("meta"))],
    }
    for words, cases in bad.items():
        for case in cases:
            with pytest.raises(ValueError, match=words):
                kind(*case, torch.bfloat16)
    with pytest.raises(ValueError, match="float64"):
        kind(values, scales, torch.float64)
