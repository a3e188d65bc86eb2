"""A benchmark's checkpoint as a GGUF file, in bfloat16, for llama.cpp to be measured on the same weights.

Covers the three shapes of `harness.checkpoints`: Mixtral (llama.cpp's architecture `llama`), Qwen3-MoE (`qwen3moe`) and
DeepSeek-V3 without a query latent (`deepseek2`). It has no vocabulary: the programs that measure draw random tokens.
Needs PyPI's `gguf`.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tests.benchmarks.llama_cpp.names import (
    ARCHITECTURES,
    EXPERT_PARTS,
    LAYER_NAMES,
    OUTER_NAMES,
    SINGLE_PRECISION,
    expert_name,
)

MISSING = "--llama-bench needs PyPI's gguf to write what llama.cpp reads: pip install gguf"


class Checkpoint:
    """Tensors of a checkpoint of several files, by name."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self._places = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
        self._directory = directory

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._directory / self._places[name], "pt") as file:
            return file.get_tensor(name)


def write_gguf(directory: Path, path: Path) -> None:
    """Write the whole checkpoint.

    Raises:
        ValueError: the package gguf is not installed, or the model is of another family.
    """
    if find_spec("gguf") is None:
        raise ValueError(MISSING)
    import gguf

    checkpoint = Checkpoint(directory)
    model_type = checkpoint.config["model_type"]
    if model_type not in ARCHITECTURES:
        raise ValueError(f"{directory}: no GGUF for {model_type}, only for {', '.join(ARCHITECTURES)}")
    writer = gguf.GGUFWriter(str(path), ARCHITECTURES[model_type])
    _add_settings(writer, checkpoint.config)
    for name, tensor in tensors(checkpoint):
        if tensor.dtype is torch.float32:
            writer.add_tensor(name, tensor.numpy())
        else:
            bytes_ = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name, bytes_, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by llama.cpp's name: float32 for vectors and the gate, bfloat16 for matrices."""
    for theirs, ours in OUTER_NAMES.items():
        yield theirs, _typed(theirs, checkpoint[ours])
    for layer in range(checkpoint.config["num_hidden_layers"]):
        for theirs, tensor in _layer(checkpoint, layer):
            name = f"blk.{layer}.{theirs}"
            yield name, _typed(name, tensor)


def _layer(checkpoint: Checkpoint, layer: int) -> Iterator[tuple[str, Tensor]]:
    config, prefix = checkpoint.config, f"model.layers.{layer}."
    for theirs, candidates in LAYER_NAMES.items():
        for ours in candidates:
            if prefix + ours in checkpoint:
                yield theirs, _rotated(config, ours, checkpoint[prefix + ours])
    if (both := f"{prefix}self_attn.kv_b_proj.weight") in checkpoint:
        yield from _split(config, checkpoint[both])
    for part in EXPERT_PARTS:
        names = (expert_name(config, layer, expert, part) for expert in range(_experts(config)))
        yield f"ffn_{part}_exps.weight", torch.stack([checkpoint[name] for name in names])


def _typed(name: str, tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dim() == 1 or name.endswith(SINGLE_PRECISION) else tensor.bfloat16()


def _rotated(config: Mapping[str, Any], name: str, w_OI: Tensor) -> Tensor:
    """llama.cpp's `llama` rotates neighbouring outputs of a head, transformers those half a head apart."""
    heads = {"self_attn.q_proj.weight": "num_attention_heads", "self_attn.k_proj.weight": "num_key_value_heads"}
    if config["model_type"] != "mixtral" or name not in heads:
        return w_OI
    return w_OI.unflatten(0, (config[heads[name]], 2, -1)).transpose(1, 2).flatten(0, 2)


def _split(config: Mapping[str, Any], w_OI: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Latents' matrix of keys and values by head: keys [head, latent, key], values [head, value, latent]."""
    sizes = [config["qk_nope_head_dim"], config["v_head_dim"]]
    keys, values = w_OI.unflatten(0, (config["num_attention_heads"], -1)).split(sizes, dim=1)
    yield "attn_k_b.weight", keys.transpose(1, 2)
    yield "attn_v_b.weight", values


def _experts(config: Mapping[str, Any]) -> int:
    return int(next(config[key] for key in ("num_local_experts", "num_experts", "n_routed_experts") if key in config))


def _add_settings(writer: Any, config: Mapping[str, Any]) -> None:
    size = config.get("moe_intermediate_size", config["intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(size)
    writer.add_expert_count(_experts(config))
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    (_add_latent_settings if config["model_type"] == "deepseek_v3" else _add_head_settings)(writer, config)


def _add_head_settings(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])


def _add_latent_settings(writer: Any, config: Mapping[str, Any]) -> None:
    import gguf

    latent, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(0)
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rotated)
    writer.add_value_length(latent)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotated)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotated)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
