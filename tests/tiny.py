"""Tiny random checkpoints written by transformers, the oracle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging

from experts.checkpoint import Checkpoint
from router_service.models.registry import ModelPlan, plan_model

logging.disable_progress_bar()

COMMON: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": None,
    "initializer_range": 0.35,
}
MIXTRAL: dict[str, Any] = {"intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 2}
QWEN3: dict[str, Any] = {
    "head_dim": 16,
    "moe_intermediate_size": 24,
    "intermediate_size": 56,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "mlp_only_layers": [1],
}
FAMILIES = {
    "mixtral": (MixtralConfig, MixtralForCausalLM, MIXTRAL),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, QWEN3),
}


def write_checkpoint(path: Path, family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Write a random checkpoint to `path` and return transformers' model of it."""
    config_class, model_class, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**COMMON, **sizes, **changes})).to(dtype).eval()
    model.save_pretrained(path)
    return model


@dataclass(frozen=True)
class Tiny:
    """A checkpoint, transformers' model of it, and ours."""

    path: Path
    oracle: Any
    plan: ModelPlan


def make_tiny(path: Path, family: str, **changes: Any) -> Tiny:
    """Write a random checkpoint and plan it."""
    model = write_checkpoint(path, family, **changes)
    return Tiny(path, model, plan_model(Checkpoint(path)))
