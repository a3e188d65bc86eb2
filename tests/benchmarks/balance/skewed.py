"""A small checkpoint whose experts are as unequal as Zipf's law, in each layer others.

    python -m tests.benchmarks.balance.skewed DIR

One dimension of the residual stream has the same value for every token: the embedding sets it, and no layer writes it.
The gates read it, so a column of theirs is a bias, which transformers' Qwen3-MoE has none of. The rest of a row of a
gate is noise, large enough that tokens differ.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.benchmarks.harness.checkpoints import SHAPES, Shape, write

LAYERS, HIDDEN, EXPERTS, TOP, VOCABULARY = 4, 128, 64, 4, 2048
CONSTANT = 4.0
# The noise of a gate's logits; that of Gumbel's distribution draws experts in proportion to exp(bias).
NOISE = math.pi / math.sqrt(6)
# Without it normal noise, whose tail is thinner, makes loads steeper than that.
FLATTER = 0.85


def skewed_shape() -> Shape:
    """A Qwen3-MoE that costs a CPU next to nothing."""
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_experts": EXPERTS, "num_experts_per_tok": TOP}
    words = {"vocab_size": VOCABULARY, "max_position_embeddings": 4096}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    none = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"))
    return SHAPES["qwen3"].changed(**sizes, **words, **heads, **none, moe_intermediate_size=32)


def write_skewed(directory: Path, exponent: float = 1.0, seed: int = 0) -> Path:
    """Write the checkpoint, with loads of about rank ** -exponent; return its directory."""
    write(skewed_shape(), directory, seed)
    draw = torch.Generator().manual_seed(seed)
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        save_file({name: _skewed(name, one, exponent, draw) for name, one in tensors.items()}, file, {"format": "pt"})
    return directory


def _skewed(name: str, one: Tensor, exponent: float, draw: torch.Generator) -> Tensor:
    if name.endswith("embed_tokens.weight"):
        made = torch.randn(one.shape, generator=draw)
        made[:, 0] = CONSTANT
        return made.to(one.dtype)
    if name.endswith("mlp.gate.weight"):
        return _gate(one.shape, exponent, draw).to(one.dtype)
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        one[0] = 0.0  # or the constant would not stay one
    return one


def _gate(shape: torch.Size, exponent: float, draw: torch.Generator) -> Tensor:
    """Rows of noise, and the bias in the column that reads the constant, which a norm has made about as large again."""
    experts, hidden = shape
    scale = math.sqrt(1 + CONSTANT**2 / hidden)
    gate = torch.randn(shape, generator=draw) * NOISE * scale / math.sqrt(hidden)
    rank = torch.randperm(experts, generator=draw) + 1
    gate[:, 0] = -FLATTER * exponent * torch.log(rank.float()) * scale / CONSTANT
    return gate


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--exponent", type=float, default=1.0)
    args = parser.parse_args()
    write_skewed(args.directory, args.exponent)


if __name__ == "__main__":
    main()
