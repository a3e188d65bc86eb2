"""Checks of all kernels but the expert FFN: the formats' codes, the gate, grouping and sums, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import torch

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.mxfp4 import Mxfp4
from kernels.ops import Backend, Ops
from kernels.reference import SigmoidGate
from tests.benchmarks.gpu_check import exact
from tests.benchmarks.gpu_check.ffn_checks import as_fp8, share
from tests.benchmarks.gpu_check.part import Setting
from tests.unit.kernels.kernel_cases import TOLERANCE
from tests.unit.kernels.paged_cases import TOLERANCE as ATTENTION_TOLERANCE
from tests.unit.kernels.paged_cases import Case as PagedCase

Error = Callable[[Ops, torch.device], float]
LENGTHS = [1, 17, 256, 257, 1000, 3000]
SMALL_LENGTHS = [1, 20]


@dataclass(frozen=True)
class OtherCheck:
    """`error` is a share of what is allowed."""

    name: str
    error: Error


def other_checks(setting: Setting) -> Iterator[OtherCheck]:
    """Those of a device, or the few of the interpreter."""
    yield OtherCheck("every FP8 code", fp8_codes)
    yield OtherCheck("every MXFP4 code and power", mxfp4_codes)
    yield OtherCheck("grouping and sums", grouping)
    for normalize in (False, True):
        yield OtherCheck(f"gate_topk normalize={normalize}", gate(5 if setting.small else 4099, normalize))
    yield OtherCheck("gate_sigmoid", sigmoid_gate(5 if setting.small else 4099))
    forms = {"grouped": (6, 2, 16, 16, False)} if setting.small else ATTENTION_FORMS
    lengths = SMALL_LENGTHS if setting.small else LENGTHS
    for name, form in forms.items():
        for dtype in (torch.bfloat16,) if setting.small else ATTENTION_TOLERANCE:
            yield OtherCheck(f"paged_attention {name} {dtype}", attention(*form, dtype, lengths, name == "gpt-oss"))
        yield OtherCheck(f"paged_attention {name}: rows alone and together", alone(*form, lengths))


# H heads, J key-value heads, sizes of a key and of a value, whether values are a part of the keys.
ATTENTION_FORMS = {
    "Mixtral": (32, 8, 128, 128, False),
    "Qwen3": (64, 4, 128, 128, False),
    "gpt-oss": (64, 8, 64, 64, False),
    "DeepSeek": (128, 1, 576, 512, True),
    "odd": (15, 3, 80, 40, False),
}


def parts_of(ops: Ops) -> ModuleType:
    """What a backend's `expert_ffn` is made of, which is no op of its own."""
    return import_module("kernels.reference" if ops.backend is Backend.REFERENCE else f"kernels.{ops.backend}.ops")


def fp8_codes(ops: Ops, device: torch.device) -> float:
    """A product with the identity says what each code is decoded to, exactly; NaN codes take a column each."""
    w = BlockFp8.empty((256, 256), torch.float32, device)
    w.values_OI.view(torch.uint8).copy_(torch.arange(256)[:, None].expand(256, 256))
    w.scales_BC.copy_(torch.tensor([[1.0, 0.5], [2.0, 3.0]]))
    return share(_down(ops, w), exact.matrix(w).T, 1e-30)


def mxfp4_codes(ops: Ops, device: torch.device) -> float:
    """Each pair of codes with each power that float32 holds."""
    w = Mxfp4.empty((256, 256), torch.float32, device)
    codes = (torch.arange(256)[:, None] + torch.arange(128)) % 256
    w.blocks_OGH.copy_(codes.view(w.blocks_OGH.shape))
    w.scales_OG.copy_((torch.arange(256)[:, None] + torch.arange(8)) % 251)  # six times a larger one is no float32
    w.scales_OG[3, 2] = 255
    expected, actual = exact.matrix(w).T.clone(), _down(ops, w)
    expected[:, 3] = float("nan")  # the identity's zeros times a NaN
    size = expected.nan_to_num(0.0).abs().amax(0, keepdim=True).clamp(min=1e-45)
    return share(actual.double() / size, expected / size, 1e-7)


def _down(ops: Ops, w_OI: BlockFp8 | Mxfp4) -> torch.Tensor:
    outputs, inputs = w_OI.shape
    gate_up = as_fp8(torch.zeros(2 * inputs, outputs, device=w_OI.device))
    weights = ops.prepare_weights((gate_up,), (w_OI,))
    one_N = torch.ones(inputs, device=w_OI.device)
    offsets = torch.tensor([0, inputs], device=w_OI.device)
    return parts_of(ops).down(torch.eye(inputs, device=w_OI.device), weights, offsets, one_N)


def grouping(ops: Ops, device: torch.device) -> float:
    """The stable order, the counts, and sums by token."""
    parts = parts_of(ops)
    ids = torch.randint(70, (300,), generator=torch.Generator().manual_seed(1)).to(device)
    order, offsets = parts.group_by_expert(ids, 70)
    right = torch.equal(order, ids.argsort(stable=True))
    right &= torch.equal(offsets[1:], torch.bincount(ids, minlength=70).cumsum(0))
    y = torch.randn(300, 40, generator=torch.Generator().manual_seed(2)).to(device)
    expected = torch.zeros(70, 40, dtype=torch.float64, device=device).index_add_(0, ids, y.double())
    return share(parts.sum_rows(y, ids, 70), expected, TOLERANCE[torch.float32]) if right else float("inf")


def gate(tokens: int, normalize: bool) -> Error:
    """The experts, which are distinct, and their weights."""

    def error(ops: Ops, device: torch.device) -> float:
        draw = torch.rand(tokens, 128, generator=torch.Generator().manual_seed(tokens))
        logits = (draw.argsort(1).bfloat16() / 16).to(device)
        weights, ids = ops.gate_topk(logits, 8, normalize)
        expected, expected_ids = exact.gate_topk(logits, 8, normalize)
        return share(weights, expected, TOLERANCE[torch.float32]) if torch.equal(ids, expected_ids) else float("inf")

    return error


def sigmoid_gate(tokens: int) -> Error:
    """DeepSeek-V3's, with distinct scores."""

    def error(ops: Ops, device: torch.device) -> float:
        draw, rule = torch.Generator().manual_seed(tokens), SigmoidGate(8, groups=8, top_groups=4, scale=2.5)
        logits = (torch.rand(tokens, 256, generator=draw).argsort(1).float() / 64 - 2).to(device)
        correction = torch.randn(256, generator=draw).to(device)
        weights, ids = ops.gate_sigmoid(logits, correction, rule)
        expected, expected_ids = exact.gate_sigmoid(logits, correction, rule)
        order = ids.argsort(1)
        if not torch.equal(ids.gather(1, order), expected_ids):
            return float("inf")
        return share(weights.gather(1, order), expected, TOLERANCE[torch.float32])

    return error


def attention(
    heads: int, kv_heads: int, key: int, value: int, latent: bool, dtype: torch.dtype, lengths: list[int], sinks: bool
) -> Error:
    """All rows of a step, of lengths around the size of a part."""

    def error(ops: Ops, device: torch.device) -> float:
        case = PagedCase(lengths, heads, kv_heads, dtype, latent, key=key, value=value, device=device)
        sinks_H = torch.linspace(-5, 5, heads, device=device).to(dtype) if sinks else None
        actual = ops.paged_attention(case.q_BHC, case.cache, case.rows(), key**-0.5, sinks_H)
        return share(actual, case.by_definition(key**-0.5, sinks_H), ATTENTION_TOLERANCE[dtype])

    return error


def alone(heads: int, kv_heads: int, key: int, value: int, latent: bool, lengths: list[int]) -> Error:
    """A row has the same bits whatever rows it is computed with."""

    def error(ops: Ops, device: torch.device) -> float:
        case = PagedCase(lengths, heads, kv_heads, torch.bfloat16, latent, key=key, value=value, device=device)
        together = ops.paged_attention(case.q_BHC, case.cache, case.rows(), 0.1)
        for row in range(len(lengths)):
            single = ops.paged_attention(case.q_BHC[[row]], case.cache, case.rows([row]), 0.1)
            if not torch.equal(single[0], together[row]):
                return float("inf")
        return 0.0

    return error
