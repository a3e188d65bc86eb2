"""llama.cpp's names for the tensors of our checkpoints."""

from collections.abc import Mapping
from typing import Any

ARCHITECTURES = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "deepseek_v3": "deepseek2"}

# Its name, then ours.
OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

# Its name, then ours in the families that have it, without the layer's prefix.
LAYER_NAMES = {
    "attn_norm.weight": ("input_layernorm.weight",),
    "ffn_norm.weight": ("post_attention_layernorm.weight",),
    "attn_q.weight": ("self_attn.q_proj.weight",),
    "attn_k.weight": ("self_attn.k_proj.weight",),
    "attn_v.weight": ("self_attn.v_proj.weight",),
    "attn_output.weight": ("self_attn.o_proj.weight",),
    "attn_q_norm.weight": ("self_attn.q_norm.weight",),
    "attn_k_norm.weight": ("self_attn.k_norm.weight",),
    "attn_kv_a_mqa.weight": ("self_attn.kv_a_proj_with_mqa.weight",),
    "attn_kv_a_norm.weight": ("self_attn.kv_a_layernorm.weight",),
    "ffn_gate_inp.weight": ("mlp.gate.weight", "block_sparse_moe.gate.weight"),
    "exp_probs_b.bias": ("mlp.gate.e_score_correction_bias",),
    "ffn_gate_shexp.weight": ("mlp.shared_experts.gate_proj.weight",),
    "ffn_up_shexp.weight": ("mlp.shared_experts.up_proj.weight",),
    "ffn_down_shexp.weight": ("mlp.shared_experts.down_proj.weight",),
}
SINGLE_PRECISION = ("ffn_gate_inp.weight",)

EXPERT_PARTS = ("gate", "up", "down")
MIXTRAL_PARTS = {"gate": "w1", "up": "w3", "down": "w2"}


def expert_name(config: Mapping[str, Any], layer: int, expert: int, part: str) -> str:
    """Our name of an expert's matrix."""
    if config["model_type"] == "mixtral":
        return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{MIXTRAL_PARTS[part]}.weight"
    return f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
