"""Attention by blocks of rows against its definition in float64: every kind of view, any part of a sequence."""

from itertools import product

import pytest
import torch
from torch import Tensor

from router_service.models.attention import attend as module
from router_service.models.attention.attend import attend
from router_service.models.view import View

HEADS, KV_HEADS, SIZE, VALUE = 6, 2, 8, 8
VIEWS = {
    "full": View(),
    "window 1": View(window=1),
    "window 7": View(window=7),
    "chunk 1": View(chunk=1),
    "chunk 5": View(chunk=5),
    "chunk 16": View(chunk=16),
}
# Rows, of a context of so many positions: one, a prompt, the end of a sequence; below, on and above a block of rows.
PARTS = [(1, 1), (1, 2), (1, 40), (2, 2), (16, 16), (40, 40), (3, 40), (16, 17), (17, 40), (39, 40)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)


def by_definition(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float, sinks: Tensor | None) -> Tensor:
    """Each row and head on its own, softmax written out."""
    rows, context, out = len(q), len(k), torch.zeros(len(q), HEADS, v.shape[2], dtype=torch.float64)
    q, k, v = q.double(), k.double(), v.double()
    for row, head in product(range(rows), range(HEADS)):
        position = context - rows + row
        seen = [p for p in range(position + 1) if visible(p, position, view)]
        kv_head = head // (HEADS // KV_HEADS)
        logits = torch.stack([q[row, head] @ k[p, kv_head] * scale for p in seen])
        shares = logits.exp()
        total = shares.sum() + (0.0 if sinks is None else sinks[head].double().exp())
        out[row, head] = sum(s * v[p, kv_head] for s, p in zip(shares / total, seen, strict=True))
    return out


def visible(key: int, position: int, view: View) -> bool:
    if view.window is not None and key <= position - view.window:
        return False
    return view.chunk is None or key // view.chunk == position // view.chunk


def draw(rows: int, context: int, value: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows * 100 + context)
    shapes = ((rows, HEADS, SIZE), (context, KV_HEADS, SIZE), (context, KV_HEADS, value))
    q, k, v = (torch.randn(shape, generator=random).to(dtype) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize("sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_rows_of_a_sequence(part: tuple[int, int], kind: str, sinks: bool) -> None:
    q, k, v = draw(*part, VALUE, torch.float32)
    sinks_H = torch.randn(HEADS, generator=torch.Generator().manual_seed(1)) if sinks else None
    expected = by_definition(q, k, v, VIEWS[kind], 0.3, sinks_H)
    actual = attend(q, k, v, VIEWS[kind], 0.3, sinks_H)
    assert actual.dtype == q.dtype
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [3, 8, 11])
@pytest.mark.parametrize("part", [(1, 40), (40, 40), (17, 40)], ids=str)
def test_values_of_another_size_than_keys(part: tuple[int, int], value: int) -> None:
    q, k, v = draw(*part, value, torch.float32)
    expected = by_definition(q, k, v, VIEWS["full"], 0.3, None)
    torch.testing.assert_close(attend(q, k, v, VIEWS["full"], 0.3).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "window 7", "chunk 5"])
@pytest.mark.parametrize("part", [(1, 40), (40, 40), (17, 40)], ids=str)
def test_bfloat16_with_sinks(part: tuple[int, int], kind: str) -> None:
    q, k, v = draw(*part, VALUE, torch.bfloat16)
    sinks_H = torch.tensor([-30.0, -1.0, 0.0, 1.0, 5.0, 30.0])
    expected = by_definition(q, k, v, VIEWS[kind], 0.3, sinks_H)
    error = (attend(q, k, v, VIEWS[kind], 0.3, sinks_H).double() - expected).abs().max()
    assert error < 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_no_mask_is_larger_than_a_block_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt through a short window costs rows times window, not rows times rows."""
    seen = []
    mask = module._mask
    monkeypatch.setattr(module, "_mask", lambda *args: seen.append(mask(*args)) or seen[-1])
    q, k, v = draw(100, 100, VALUE, torch.float32)
    attend(q, k, v, VIEWS["window 7"], 0.3)
    assert len(seen) == 7
    assert max(m.numel() for m in seen) <= 16 * (16 + 6)
