"""A tiny model of two halves that never meet: who goes to one shard's experts once stays with them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint.directory import Checkpoint
from router_service.models.families.registry import plan_model
from tests.support.tiny import Tiny, make_tiny

HERE, THERE = 3, 200  # tokens whose experts all live on shard 0, and on shard 1


def make_divided(path: Path) -> Tiny:
    """Write and plan it: a token goes to the experts of shard 0 or of shard 1, and so do all behind it.

    Embeddings and head share a marked direction: the gate reads it in the residual stream, the head copies it.
    """
    make_tiny(path, "mixtral", initializer_range=0.02)
    tensors = load_file(path / "model.safetensors")
    mark = torch.ones(len(tensors["lm_head.weight"]))
    mark[len(mark) // 2 :] = -1
    tensors["model.embed_tokens.weight"][:, 0] = 4 * mark
    tensors["lm_head.weight"] += torch.randn(len(mark), 48) * 0.2
    tensors["lm_head.weight"][:, 0] = 4 * mark
    side = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    for layer in range(3):
        tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"][:, 0] = 2 * side
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert json.loads((path / "config.json").read_text())["num_local_experts"] == 6
    return Tiny(path, None, plan_model(Checkpoint(path)))
