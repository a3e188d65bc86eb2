"""Native norms and activations against torch's formulas; a row's bits do not depend on its place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels import elements
from kernels.native.library import available

if not available():
    pytest.skip("the native kernels were not built", allow_module_level=True)

from kernels.native import elements as native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Two roundings of the dtype.
TOLERANCE = {dtype: 2 * torch.finfo(dtype).eps for dtype in DTYPES} | {torch.float32: 1e-6}


def rows(size: int, dtype: torch.dtype) -> Tensor:
    """Rows with gaps, from tiny to large ones."""
    drawn = (
        torch.randn(37, size + 5, generator=torch.Generator().manual_seed(size)) * torch.logspace(-4, 3, 37)[:, None]
    )
    return drawn.to(dtype)[:, 2 : size + 2]


def weight(size: int, dtype: torch.dtype) -> Tensor:
    return torch.linspace(-1, 2, size).to(dtype)


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "norm": (lambda x: native.rms_norm(x, None, 1e-6), lambda x: elements.rms_norm(x, None, 1e-6)),
    "weighted norm": (
        lambda x: native.rms_norm(x, weight(x.shape[1], x.dtype), 1e-5),
        lambda x: elements.rms_norm(x, weight(x.shape[1], x.dtype), 1e-5),
    ),
    "norm rounded last": (
        lambda x: native.rms_norm(x, weight(x.shape[1], x.dtype), 1e-5, True),
        lambda x: elements.rms_norm(x, weight(x.shape[1], x.dtype), 1e-5, True),
    ),
    "silu": (native.silu_mul, elements.silu_mul),
    "sigmoid": (native.sigmoid, torch.sigmoid),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 30, 64, 1024, 1546])
@pytest.mark.parametrize("name", WAYS)
def test_as_torch_does_it(name: str, size: int, dtype: torch.dtype) -> None:
    ours, torchs = WAYS[name]
    x = rows(size, dtype)
    actual, expected = ours(x), torchs(x)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 1e-3)
    for row in (0, 20, 36):
        assert torch.equal(ours(x[row : row + 1])[0], actual[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_at_the_edges(dtype: torch.dtype) -> None:
    infinity = float("inf")
    x = torch.tensor([[-infinity, infinity, float("nan"), -0.0, 60000.0, -60000.0, 1e-7, -200.0]]).to(dtype)
    torch.testing.assert_close(native.sigmoid(x), torch.sigmoid(x), equal_nan=True)
    torch.testing.assert_close(native.silu_mul(x), elements.silu_mul(x), equal_nan=True)


@pytest.mark.parametrize("angles", ["own", "float32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("size", [2, 14, 64, 128])
def test_heads_turn_as_torch_turns_them(
    size: int, normed: bool, interleaved: bool, dtype: torch.dtype, angles: str
) -> None:
    draw = torch.Generator().manual_seed(size)
    x_TNC = torch.randn(19, 5, size + 3, generator=draw).to(dtype)[:, 1:4, 3:]
    weight_NC = torch.randn(3, size, generator=draw).to(dtype) if normed else None
    kept = dtype if angles == "own" else torch.float32
    cos, sin = (torch.randn(19, 1, size, generator=draw).to(kept) for _ in range(2))
    actual = native.turned_heads(x_TNC, weight_NC, 1e-6, cos, sin, interleaved)
    expected = elements.turned_heads(x_TNC, weight_NC, 1e-6, cos, sin, interleaved)
    assert actual.dtype == dtype
    if normed:
        # The norm's own sum may round another way, and then the product with the weight.
        torch.testing.assert_close(actual, expected, rtol=4 * TOLERANCE[dtype], atol=16 * TOLERANCE[dtype])
    else:
        assert torch.equal(actual, expected)
    assert torch.equal(native.turned_heads(x_TNC[7:8], weight_NC, 1e-6, cos[7:8], sin[7:8], interleaved)[0], actual[7])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit rows of 8"):
        native.rms_norm(torch.zeros(3, 8), torch.ones(7), 1e-6)
    with pytest.raises(ValueError, match="need rows"):
        native.rms_norm(torch.zeros(2, 3, 8), None, 1e-6)
    with pytest.raises(ValueError, match="and angles"):
        native.turned_heads(torch.zeros(2, 3, 8), None, 1e-6, torch.zeros(2, 1, 6), torch.zeros(2, 1, 6), False)
    with pytest.raises(ValueError, match="does not fit 3 heads of 8"):
        native.turned_heads(torch.zeros(2, 3, 8), torch.ones(3, 7), 1e-6, *(torch.zeros(2, 1, 8) for _ in "cs"), False)
