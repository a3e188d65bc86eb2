"""Tiny random checkpoints written by transformers, the oracle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging

from experts.checkpoint import Checkpoint
from router_service.models.registry import ModelPlan, plan_model

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
FAMILIES = {
    "mixtral": (MixtralConfig, MixtralForCausalLM, MIXTRAL),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, QWEN3),
}


def write_checkpoint(path: Path, family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Write a random checkpoint with a tokenizer to `path` and return transformers' model of it."""
    config_class, model_class, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**COMMON, **sizes, **changes})).to(dtype).eval()
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
