"""Checkpoints in INT4 groups, in the layouts of three publishers, and the values that they stand for.

Worked out a word at a time, without the loaders' means. Legend: O outputs, I inputs, G groups, W words of 32 bits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support.quantize import change_config, change_tensors, set_weights

# The output that each four bits of AWQ's words hold, from the lowest on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Int4:
    """`codes_OI` 0..15, `scales_OG`, `zeros_OG` 0..15, `group_I` the group of each input."""

    codes_OI: Tensor
    scales_OG: Tensor
    zeros_OG: Tensor
    group_I: Tensor

    def dense(self) -> Tensor:
        """The matrix in float64."""
        scales, zeros = self.scales_OG.double()[:, self.group_I], self.zeros_OG[:, self.group_I]
        return (self.codes_OI - zeros) * scales


def round_int4(
    w_OI: Tensor,
    group: int,
    scale_dtype: torch.dtype,
    zeros: bool = False,
    shuffled: bool = False,
) -> Int4:
    """Round a matrix; with `zeros` each group has its own zero point, `shuffled` puts any inputs into a group."""
    outputs, inputs = w_OI.shape
    group_I = torch.arange(inputs) // group
    if shuffled:
        group_I = group_I[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]
    groups = int(group_I.max()) + 1
    codes_OI = torch.empty(outputs, inputs, dtype=torch.int64)
    scales_OG, zeros_OG = torch.empty(outputs, groups), torch.full((outputs, groups), 8)
    for number in range(groups):
        part = w_OI[:, group_I == number].float()
        low, high = part.amin(1, keepdim=True).clamp_max(0), part.amax(1, keepdim=True).clamp_min(0)
        scale = ((high - low) / 15 if zeros else torch.maximum(-low, high) / 7.5).clamp_min(1e-4)
        scale = scale.to(scale_dtype).float()
        zero = (-low / scale).round().clamp(0, 15) if zeros else torch.full_like(scale, 8)
        codes_OI[:, group_I == number] = (part / scale + zero).round().clamp(0, 15).long()
        scales_OG[:, number], zeros_OG[:, number] = scale[:, 0], zero[:, 0].long()
    return Int4(codes_OI, scales_OG.to(scale_dtype), zeros_OG, group_I)


def words(codes_RN: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Eight codes of a row an int32; the one at `order[n]` takes bits 4n to 4n+3. Rows are filled with zeros."""
    rows, count = codes_RN.shape
    padded = np.zeros((rows, -(-count // 8), 8), dtype=np.uint32)
    padded.reshape(rows, -1)[:, :count] = codes_RN.numpy()
    made = np.zeros(padded.shape[:2], dtype=np.uint32)
    for place, code in enumerate(order):
        made |= padded[:, :, code] << np.uint32(4 * place)
    return torch.from_numpy(made.view(np.int32))


def compressed_tensors(name: str, w: Int4, zeros: bool = False, ordered: bool = False) -> Tensors:
    """`pack-quantized`."""
    tensors = {
        f"{name}_packed": words(w.codes_OI),
        f"{name}_scale": w.scales_OG,
        f"{name}_shape": torch.tensor(w.codes_OI.shape),
    }
    if zeros:
        tensors[f"{name}_zero_point"] = words(w.zeros_OG.T).T
    return tensors | ({f"{name}_g_idx": w.group_I.int()} if ordered else {})


def gptq(name: str, w: Int4, v1: bool = True, indexed: bool = True) -> Tensors:
    """GPTQ; v1 stores zero points less one, borrowing from the next code where one is 0."""
    prefix, zeros = name.removesuffix("weight"), words(w.zeros_OG.T).numpy().view(np.uint32)
    stored = torch.from_numpy((zeros - np.uint32(0x11111111 if v1 else 0)).view(np.int32))
    tensors = {"qweight": words(w.codes_OI).T, "qzeros": stored, "scales": w.scales_OG.T}
    return {prefix + key: tensor for key, tensor in tensors.items()} | (
        {f"{prefix}g_idx": w.group_I.int()} if indexed else {}
    )


def awq(name: str, w: Int4) -> Tensors:
    """AutoAWQ's `gemm`."""
    prefix = name.removesuffix("weight")
    return {
        f"{prefix}qweight": words(w.codes_OI.T, AWQ_ORDER),
        f"{prefix}qzeros": words(w.zeros_OG.T, AWQ_ORDER),
        f"{prefix}scales": w.scales_OG.T,
    }


def pack_quantized_config(group: int, **weights: Any) -> dict[str, Any]:
    """As Kimi K2 Thinking's config.json has it; its experts alone are quantized."""
    args = {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": group, "num_bits": 4,
        "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int",
    }  # fmt: skip
    one = {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": args | weights}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": one}, "kv_cache_scheme": None,
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    }  # fmt: skip


def write_int4(path: Path, model: Any, form: str, group: int, **options: Any) -> None:
    """Store projections of a checkpoint in INT4, and give `model` the values that they stand for.

    `form` is `compressed-tensors` (experts alone, as Kimi), `gptq`, `gptq_v2` or `awq`; `options` are `zeros` and
    `shuffled` of `round_int4`.
    """
    dense: Tensors = {}
    kimi = form == "compressed-tensors"
    zeros, shuffled = options.get("zeros", False), options.get("shuffled", False)

    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if "_proj" in n and n.endswith(".weight")]:
            if kimi and ".experts." not in name:
                continue
            w_OI = tensors.pop(name)
            one = round_int4(w_OI, group, torch.bfloat16 if kimi else torch.float16, zeros, shuffled)
            dense[name] = one.dense()
            if kimi:
                tensors |= compressed_tensors(name, one, zeros, shuffled)
            else:
                tensors |= awq(name, one) if form == "awq" else gptq(name, one, v1=form == "gptq")

    change_tensors(path, change)
    set_weights(model, dense)
    change_config(path, quantization_config=int4_config(form, group, zeros, shuffled))


def int4_config(form: str, group: int, zeros: bool = False, shuffled: bool = False) -> dict[str, Any]:
    """`quantization_config` as the publisher writes it; see `write_int4`."""
    if form == "compressed-tensors":
        return pack_quantized_config(group, symmetric=not zeros, actorder="group" if shuffled else None)
    if form == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    changes = {} if form == "gptq" else {"checkpoint_format": "gptq_v2"}
    made = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": shuffled, "sym": not zeros}
    return made | {"true_sequential": True, "damp_percent": 0.01} | changes
