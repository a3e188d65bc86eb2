"""Checkpoints rewritten as makers publish them: FP8 and MXFP4 blocks, fused experts, older spellings of config.json."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SINGLE = "model.safetensors"
FP8 = torch.float8_e4m3fn
MXFP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def fp8_blocks(w_OI: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Values and scales of a matrix, a scale for each block: its largest value becomes E4M3's largest, 448."""
    scales = torch.empty(*(-(-size // step) for size, step in zip(w_OI.shape, block, strict=True)))
    values = torch.empty(w_OI.shape, dtype=FP8)
    for row, column in ((r, c) for r in range(scales.shape[0]) for c in range(scales.shape[1])):
        part = (slice(row * block[0], (row + 1) * block[0]), slice(column * block[1], (column + 1) * block[1]))
        scales[row, column] = w_OI[part].abs().max() / 448
        values[part] = (w_OI[part] / scales[row, column]).to(FP8)
    return values, scales


def fp8_dense(values: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """The matrix in float64, an element at a time in effect."""
    rows, columns = (torch.arange(size) // step for size, step in zip(values.shape, block, strict=True))
    return values.double() * scales.double()[rows[:, None], columns[None, :]]


def mxfp4_blocks(w_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes [..., O, I/32, 16] and scales [..., O, I/32] of a matrix: powers of two, the nearest of 16 values."""
    groups = w_OI.unflatten(-1, (-1, 32))
    exponent = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30).log2().floor() - 2
    codes = ((groups / 2**exponent)[..., None] - MXFP4_VALUES).abs().argmin(-1).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent.squeeze(-1) + 127).to(torch.uint8)


def mxfp4_dense(blocks: Tensor, scales: Tensor) -> Tensor:
    """The matrix in float64."""
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2).long()
    return (MXFP4_VALUES.double()[codes] * 2.0 ** (scales.double() - 127)[..., None]).flatten(-2)


def change_tensors(path: Path, change: Any) -> None:
    """Rewrite the weights of a checkpoint of one file."""
    tensors = load_file(path / SINGLE)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / SINGLE)


def change_config(path: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    config = json.loads((path / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None or key not in changes}
    (path / "config.json").write_text(json.dumps(kept))


def write_fp8(path: Path, model: Any, block: tuple[int, int]) -> None:
    """Store every projection of a checkpoint in FP8 and give `model` the values that this stands for."""
    dense: dict[str, Tensor] = {}

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if "_proj" in n and n.endswith(".weight")]:
            values, scales = fp8_blocks(tensors[name].float(), block)
            tensors |= {name: values, f"{name}_scale_inv": scales}
            dense[name] = fp8_dense(values, scales, block)

    change_tensors(path, change)
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    change_config(path, quantization_config=quantization | {"weight_block_size": list(block)})
    set_weights(model, dense)


@torch.no_grad()
def set_weights(model: Any, dense: dict[str, Tensor]) -> None:
    """Give transformers' model weights by their published names; it holds each layer's experts in one tensor."""
    for name, parameter in model.named_parameters():
        if name in dense:
            parameter.copy_(dense[name])
        elif not any(written.startswith(name.rpartition(".")[0]) for written in dense):
            continue
        elif name.endswith("experts.gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            for expert in range(len(parameter)):
                both = torch.cat([dense[f"{prefix}{expert}.{part}_proj.weight"] for part in ("gate", "up")])
                parameter[expert].copy_(both if both.shape == parameter.shape[1:] else both.T)  # turned in Llama 4
        elif name.endswith("experts.down_proj"):
            prefix = name.removesuffix("down_proj")
            for expert in range(len(parameter)):
                down = dense[f"{prefix}{expert}.down_proj.weight"]
                parameter[expert].copy_(down if down.shape == parameter.shape[1:] else down.T)


@torch.no_grad()
def write_mxfp4(path: Path, model: Any) -> None:
    """Store gpt-oss's experts in MXFP4 as published, outputs first, and give `model` the values that it stands for."""
    parameters = dict(model.named_parameters())

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            blocks, scales = mxfp4_blocks(tensors.pop(name).float().transpose(1, 2))
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            parameters[name].copy_(mxfp4_dense(blocks, scales).transpose(1, 2))

    change_tensors(path, change)
    change_config(
        path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    )


def write_apart(path: Path) -> None:
    """Store Llama 4's experts one by one, outputs first, as llm-compressor does."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith("experts.gate_up_proj")]:
            prefix = name.removesuffix("gate_up_proj")
            gate, up = tensors.pop(name).transpose(1, 2).chunk(2, 1)
            down = tensors.pop(f"{prefix}down_proj").transpose(1, 2)
            for part, of_all in (("gate", gate), ("up", up), ("down", down)):
                tensors |= {f"{prefix}{number}.{part}_proj.weight": one for number, one in enumerate(of_all)}

    change_tensors(path, change)


def write_fused(path: Path, model: Any) -> None:
    """Store the tensors under the names that transformers computes with."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path / SINGLE)


def publish_config(path: Path, **changes: Any) -> None:
    """Spell config.json as the models' makers did: rope_theta and rope_scaling, torch_dtype, no new keys."""
    config = json.loads((path / "config.json").read_text())
    nested = [config["text_config"]] if "text_config" in config else []
    for part in (config, *nested):
        rope = part.pop("rope_parameters", None)
        if rope is not None:
            part["rope_theta"] = rope.pop("rope_theta")
            kind = rope.pop("rope_type")
            old = {"rope_type" if kind == "llama3" else "type": kind} | rope
            part["rope_scaling"] = None if kind == "default" else old
        if "dtype" in part:
            part["torch_dtype"] = part.pop("dtype")
        part.pop("layer_types", None)
    (path / "config.json").write_text(json.dumps(config))
    change_config(path, **changes)
