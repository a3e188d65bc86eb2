"""Expert layers of published models, timed beside torch's grouped product: shares of what the device can do.

Legend: T tokens, K experts per token, E experts, N rows, D hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.mxfp4 import Mxfp4
from kernels.ops import Ops
from tests.benchmarks.gpu_check.limits import Call, Limits, Timer
from tests.benchmarks.gpu_check.part import Setting

TOKENS = (1, 8, 64, 4096)
BF16 = torch.bfloat16
# Of what is free on the device, for one layer's weights.
MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class Layer:
    """A model's experts in one layer; `packed` is the format in which they are published, if not in bfloat16."""

    name: str
    experts: int
    hidden: int
    ffn: int
    top_k: int
    packed: str = ""

    @property
    def matrix_elements(self) -> int:
        """Of one expert."""
        return 3 * self.hidden * self.ffn

    def that_fits(self, free_bytes: float) -> Layer:
        """With half of the experts, a quarter and so on, until the weights in bfloat16 fit; K is then no larger."""
        layer = self
        while layer.experts > 1 and 2 * layer.experts * layer.matrix_elements > free_bytes * MEMORY_SHARE:
            layer = replace(layer, experts=layer.experts // 2)
        return replace(layer, top_k=min(layer.top_k, layer.experts))


LAYERS = (
    Layer("Mixtral 8x7B", 8, 4096, 14336, 2),
    Layer("Qwen3-235B", 128, 4096, 1536, 8, "fp8"),
    Layer("DeepSeek-V3", 256, 7168, 2048, 8, "fp8"),
    Layer("gpt-oss-120b", 128, 2880, 2880, 4, "mxfp4"),
)
SMALL_LAYERS = (Layer("small", 4, 64, 32, 2, "fp8"),)

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def dense_weights(layer: Layer, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random gate-up [E, 2F, D] and down [E, D, F], drawn on the device expert by expert."""
    shapes = (2 * layer.ffn, layer.hidden), (layer.hidden, layer.ffn)
    stacks = tuple(torch.empty(layer.experts, *shape, dtype=BF16, device=device) for shape in shapes)
    for stack in stacks:
        for w in stack:
            w.normal_(std=0.02)
    return stacks[0], stacks[1]


def packed_weights(layer: Layer, device: torch.device) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Random bytes in the layer's format that are no NaN."""
    shapes = (2 * layer.ffn, layer.hidden), (layer.hidden, layer.ffn)
    made = tuple(tuple(_packed(layer.packed, shape, device) for _ in range(layer.experts)) for shape in shapes)
    return made[0], made[1]


def _packed(form: str, shape: tuple[int, int], device: torch.device) -> BlockFp8 | Mxfp4:
    if form == "mxfp4":
        mxfp4 = Mxfp4.empty(shape, BF16, device)
        mxfp4.blocks_OGH.random_(256)
        mxfp4.scales_OG.fill_(120)
        return mxfp4
    fp8 = BlockFp8.empty(shape, BF16, device)
    fp8.values_OI.view(torch.uint8).random_(0, 112)
    fp8.scales_BC.fill_(1e-3)
    return fp8


def make_rows(layer: Layer, tokens: int, device: torch.device) -> Rows:
    """Tokens and an even routing: x_TD, token, expert and weight of each row."""
    weight_TK, ids_TK = torch.rand(tokens, layer.experts, device=device).topk(layer.top_k)
    token_N = torch.arange(tokens, device=device).repeat_interleave(layer.top_k)
    x_TD = torch.randn(tokens, layer.hidden, device=device).to(BF16)
    return x_TD, token_N, ids_TK.flatten(), weight_TK.flatten()


def grouped_mm(gate_up_E2FD: Tensor, down_EDF: Tensor) -> Form:
    """Sorting and torch's grouped product, as the libraries that use it do; all of it can be recorded in a graph."""
    product = F.grouped_mm
    gate_up, down, experts = gate_up_E2FD.transpose(1, 2), down_EDF.transpose(1, 2), len(gate_up_E2FD)

    def run(x_TD: Tensor, token_N: Tensor, expert_N: Tensor, weight_N: Tensor) -> Tensor:
        order = expert_N.argsort(stable=True)
        counts = torch.zeros(experts, dtype=torch.int32, device=x_TD.device)
        ends = counts.index_add_(0, expert_N, torch.ones_like(expert_N, dtype=torch.int32)).cumsum(0).int()
        gate, up = product(x_TD[token_N[order]], gate_up, offs=ends).chunk(2, dim=-1)
        y = product(F.silu(gate) * up, down, offs=ends).float() * weight_N[order, None]
        return torch.zeros(x_TD.shape, device=x_TD.device).index_add_(0, token_N[order], y)

    return run


def forms_of(layer: Layer, ops: Ops, device: torch.device) -> Iterator[tuple[str, Form, float]]:
    """Name, form and bytes of a weight, one after the other."""
    dense = dense_weights(layer, device)
    yield "bf16", _ours(ops, ops.prepare_weights(*dense)), 2.0
    if hasattr(F, "grouped_mm"):
        yield "grouped_mm", grouped_mm(*dense), 2.0
    if layer.packed:
        yield layer.packed, _ours(ops, ops.prepare_weights(*packed_weights(layer, device))), _weight_bytes(layer.packed)


def _ours(ops: Ops, weights: Any) -> Form:
    return lambda x_TD, token_N, expert_N, weight_N: ops.expert_ffn(x_TD, weights, token_N, expert_N, weight_N)


def _weight_bytes(form: str) -> float:
    return 0.5 + 1 / 32 if form == "mxfp4" else 1.0


def time_layer(
    layer: Layer, ops: Ops, setting: Setting, timer: Timer, limits: Limits, tokens: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """A row for each number of tokens and form."""
    forms = {name: (form, size) for name, form, size in forms_of(layer, ops, setting.device)}
    for count in tokens:
        rows = make_rows(layer, count, setting.device)
        calls: dict[str, Call] = {name: partial(form, *rows) for name, (form, _) in forms.items()}
        touched = len(rows[2].unique()) * layer.matrix_elements
        for name, seconds in timer.medians(calls).items():
            operations = 2 * len(rows[2]) * layer.matrix_elements
            yield {
                "layer": layer.name, "experts": layer.experts, "tokens": count, "form": name, "seconds": seconds,
                "share_of_copy": touched * forms[name][1] / seconds / limits.copied,
                "share_of_dense": operations / seconds / limits.dense,
            }  # fmt: skip
