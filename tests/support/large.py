"""DeepSeek-V3's real tensor list on disk: names, shapes and dtypes as published, holes instead of 689 GB of data.

The names are written out here from the published index, not taken from the code that is tested with them.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "topk_method": "noaux_tc",
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "hidden_act": "silu",
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}
BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
FILES = 163
Row = tuple[str, str, tuple[int, ...]]


def tensors() -> Iterator[Row]:
    """Name, dtype and shape of every tensor, in the order of the layers."""
    yield "model.embed_tokens.weight", "BF16", (129280, 7168)
    for layer in range(62):
        yield from _layer(f"model.layers.{layer}", layer)
    yield "model.norm.weight", "BF16", (7168,)
    yield "lm_head.weight", "BF16", (129280, 7168)


def _layer(prefix: str, layer: int) -> Iterator[Row]:
    attention = f"{prefix}.self_attn"
    yield from _matrix(f"{attention}.q_a_proj", 1536, 7168)
    yield f"{attention}.q_a_layernorm.weight", "BF16", (1536,)
    yield from _matrix(f"{attention}.q_b_proj", 24576, 1536)
    yield from _matrix(f"{attention}.kv_a_proj_with_mqa", 576, 7168)
    yield f"{attention}.kv_a_layernorm.weight", "BF16", (512,)
    yield from _matrix(f"{attention}.kv_b_proj", 32768, 512)
    yield from _matrix(f"{attention}.o_proj", 7168, 16384)
    yield f"{prefix}.input_layernorm.weight", "BF16", (7168,)
    yield f"{prefix}.post_attention_layernorm.weight", "BF16", (7168,)
    if layer < 3:
        yield from _feed_forward(f"{prefix}.mlp", 18432)
        return
    yield f"{prefix}.mlp.gate.weight", "BF16", (256, 7168)
    yield f"{prefix}.mlp.gate.e_score_correction_bias", "F32", (256,)
    yield from _feed_forward(f"{prefix}.mlp.shared_experts", 2048)
    for expert in range(256):
        yield from _feed_forward(f"{prefix}.mlp.experts.{expert}", 2048)
    if layer == 61:
        yield from _prediction(prefix)


def _prediction(prefix: str) -> Iterator[Row]:
    yield f"{prefix}.embed_tokens.weight", "BF16", (129280, 7168)
    yield f"{prefix}.enorm.weight", "BF16", (7168,)
    yield f"{prefix}.hnorm.weight", "BF16", (7168,)
    yield f"{prefix}.eh_proj.weight", "BF16", (7168, 14336)
    yield f"{prefix}.shared_head.norm.weight", "BF16", (7168,)
    yield f"{prefix}.shared_head.head.weight", "BF16", (129280, 7168)


def _feed_forward(prefix: str, ffn: int) -> Iterator[Row]:
    yield from _matrix(f"{prefix}.gate_proj", ffn, 7168)
    yield from _matrix(f"{prefix}.up_proj", ffn, 7168)
    yield from _matrix(f"{prefix}.down_proj", 7168, ffn)


def _matrix(name: str, rows: int, columns: int) -> Iterator[Row]:
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))


def write(path: Path, rows: list[Row] | None = None) -> dict[str, str]:
    """Write the checkpoint to `path`, without its tokenizer; return the index's map."""
    rows = rows or list(tensors())
    each = -(-len(rows) // FILES)
    files = {
        f"model-{n // each + 1:05d}-of-{FILES:06d}.safetensors": rows[n : n + each] for n in range(0, len(rows), each)
    }
    for name, held in files.items():
        write_file(path / name, held)
    weight_map = {row[0]: name for name, held in files.items() for row in held}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps(CONFIG))
    return weight_map


def write_file(file: Path, rows: list[Row]) -> None:
    """A header, and behind it a hole as long as the data would be."""
    header, at = {}, 0
    for name, dtype, shape in rows:
        end = at + BYTES[dtype] * _elements(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with file.open("r+b") as stream:
        stream.truncate(8 + len(text) + at)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
