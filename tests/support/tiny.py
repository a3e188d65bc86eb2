"""Tiny random checkpoints written by transformers, the oracle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.utils import logging

from experts.checkpoint.directory import Checkpoint
from router_service.models.families.registry import ModelPlan, plan_model

logging.disable_progress_bar()

COMMON: dict[str, Any] = {
    "vocab_size": 260,
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
QWEN2: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "intermediate_size": 56,
    "shared_expert_intermediate_size": 40,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "mlp_only_layers": [1],
}
OLMOE: dict[str, Any] = {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3, "pad_token_id": None}
# The original context is short, so that a test passes it.
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DEEPSEEK: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 28,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 24,
    "intermediate_size": 56,
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-5,
    "rope_parameters": YARN,
}
LLAMA4: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "intermediate_size": 40,
    "intermediate_size_mlp": 56,
    "num_local_experts": 6,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "attn_scale": 0.3,
    "pad_token_id": None,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
GPT_OSS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 9,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    },
}
# Family to configuration class, model class and sizes.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", MIXTRAL),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", QWEN3),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", QWEN2),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", OLMOE),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", DEEPSEEK),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", LLAMA4),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", GPT_OSS),
}


def make_config(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model."""
    config_class, model_class, sizes = FAMILIES[family]
    return getattr(transformers, config_class)(**{**COMMON, **sizes, **changes}, architectures=[model_class])


def make_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A random model of transformers. What it starts at zero or one is random too, else mistakes would not show."""
    torch.manual_seed(seed)
    model = getattr(transformers, FAMILIES[family][1])(make_config(family, **changes))
    randomize(model)
    return model.to(dtype).eval()


@torch.no_grad()
def randomize(model: Any) -> None:
    """Draw biases and norms, which transformers starts at zeros and ones."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("bias"):
            tensor.normal_(std=0.3)
        elif "norm" in name:
            tensor.normal_(mean=1.0, std=0.2)


def write_checkpoint(path: Path, family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Write a random checkpoint with a tokenizer to `path` and return transformers' model of it."""
    model = make_model(family, dtype, seed, **changes)
    model.save_pretrained(path)
    write_tokenizer(path)
    return model


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer whose tokens are the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def random_prompts(count: int, longest: int = 40, seed: int = 1, vocabulary: int = 256) -> list[list[int]]:
    """Prompts of 1 to `longest` random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return answer[0, len(prompt) :].tolist()


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
