"""Random checkpoints large enough to measure with, in the three shapes of the project's notes, and in two packed ones.

    python -m tests.benchmarks.harness.checkpoints --shape qwen3 --out DIR

One file a layer, so that no more than a layer is in memory at a time. The weights mean nothing, but the names, the
shapes and the tokenizer are those of a real checkpoint, and transformers loads it too.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from tests.benchmarks.harness.packed import QUANTIZATION, random_packed, stored_shapes

STD = 0.02
VOCABULARY = 32000
ATTENTION = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
MLA = {
    "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 256,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "first_k_dense_replace": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model to make: transformers' configuration class, its settings, and how its experts are called on disk.

    `experts` formats (layer, expert, matrix), and is empty where they are stored fused; `matrices` names gate, up and
    down, `renamed` is what else differs; `packed` is fp8 or mxfp4 where matrices are stored so.
    """

    config: str
    architecture: str
    settings: Mapping[str, Any]
    experts: str = "model.layers.{}.mlp.experts.{}.{}_proj.weight"
    matrices: tuple[str, str, str] = ("gate", "up", "down")
    renamed: tuple[str, str] = ("", "")
    packed: str = ""

    def changed(self, **settings: Any) -> "Shape":
        """The same family in other sizes."""
        return replace(self, settings={**self.settings, **settings})


SHAPES = {
    "mixtral": Shape(
        "MixtralConfig",
        "MixtralForCausalLM",
        {
            "num_hidden_layers": 12, "hidden_size": 1024, "num_local_experts": 8, "intermediate_size": 3584,
            "num_experts_per_tok": 2, **ATTENTION,
        },
        "model.layers.{}.block_sparse_moe.experts.{}.{}.weight",
        ("w1", "w3", "w2"),
        (".mlp.gate.", ".block_sparse_moe.gate."),
    ),
    "qwen3": Shape(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "num_hidden_layers": 16, "hidden_size": 1024, "num_experts": 64, "moe_intermediate_size": 384,
            "num_experts_per_tok": 8, "norm_topk_prob": True, **ATTENTION,
        },
    ),
    "deepseek": Shape(
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            "num_hidden_layers": 16, "hidden_size": 1024, "n_routed_experts": 64, "moe_intermediate_size": 384,
            "num_experts_per_tok": 8, "norm_topk_prob": True, **MLA,
        },
    ),
}  # fmt: skip
PACKED_SHAPES = {
    "qwen3-fp8": replace(SHAPES["qwen3"], packed="fp8"),
    "gpt-oss": Shape(
        "GptOssConfig",
        "GptOssForCausalLM",
        {
            "num_hidden_layers": 16, "hidden_size": 1024, "num_local_experts": 64, "intermediate_size": 384,
            "num_experts_per_tok": 8, "sliding_window": 128, **ATTENTION,
        },
        experts="",
        packed="mxfp4",
    ),
}  # fmt: skip
SMALL = {"num_hidden_layers": 2, "hidden_size": 128, "vocab_size": 512}
SMALL_EXPERTS = {
    "mixtral": {"num_local_experts": 4, "intermediate_size": 96},
    "qwen3": {"num_experts": 8, "moe_intermediate_size": 48, "num_experts_per_tok": 4},
    "deepseek": {"n_routed_experts": 8, "moe_intermediate_size": 48, "num_experts_per_tok": 4},
    "qwen3-fp8": {"num_experts": 8, "moe_intermediate_size": 48, "num_experts_per_tok": 4},
    "gpt-oss": {"num_local_experts": 8, "intermediate_size": 64, "num_experts_per_tok": 4},
}


def shape_of(name: str, scale: str = "full") -> Shape:
    """One of the shapes, at the size of the notes or at one for smoke tests."""
    shape = (SHAPES | PACKED_SHAPES)[name].changed(
        vocab_size=VOCABULARY, max_position_embeddings=4096, eos_token_id=None, bos_token_id=None, pad_token_id=None
    )
    return shape if scale == "full" else shape.changed(**SMALL, **SMALL_EXPERTS[name])


def default_directory(name: str, scale: str) -> Path:
    """Where `ensure` keeps a checkpoint between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "expertmesh" / "benchmarks" / f"{name}-{scale}"


def ensure(name: str, scale: str, directory: Path | None = None) -> Path:
    """Return the directory of a whole checkpoint of this shape, written now if it is not there yet."""
    directory = directory or default_directory(name, scale)
    if not (directory / "config.json").exists():
        print(f"writing a random {name} checkpoint to {directory}", flush=True)
        write(shape_of(name, scale), directory)
    return directory


def write(shape: Shape, directory: Path, seed: int = 0) -> None:
    """Write the checkpoint; config.json comes last and says that the rest is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = _config(shape)
    index = _write_files(_by_file(_disk_shapes(shape, config)), directory)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    _tokenizer(shape.settings["vocab_size"]).save(str(directory / "tokenizer.json"))
    with tempfile.TemporaryDirectory(dir=directory) as whole:
        config.save_pretrained(whole)
        os.replace(Path(whole) / "config.json", directory / "config.json")


def _config(shape: Shape) -> Any:
    import transformers

    config = getattr(transformers, shape.config)(**shape.settings)
    config.architectures, config.dtype = [shape.architecture], torch.bfloat16
    if shape.packed:
        config.quantization_config = dict(QUANTIZATION[shape.packed])
    return config


def _disk_shapes(shape: Shape, config: Any) -> dict[str, torch.Size]:
    """Every tensor's name and shape as written on disk: transformers fuses the experts when it loads them."""
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, shape.architecture)(config)
    shapes: dict[str, torch.Size] = {}
    for name, value in model.state_dict().items():
        if ".mlp.experts." in name and shape.experts:
            shapes |= _experts(shape, name, value.shape)
        else:
            shapes[name.replace(*shape.renamed)] = value.shape
    return stored_shapes(shape.packed, shapes)


def _experts(shape: Shape, name: str, fused: torch.Size) -> Iterator[tuple[str, torch.Size]]:
    layer, (experts, rows, columns) = name.split(".")[2], fused
    gate, up, down = shape.matrices
    parts = (gate, up) if name.endswith("gate_up_proj") else (down,)
    for expert, part in product(range(experts), parts):
        yield shape.experts.format(layer, expert, part), torch.Size((rows // len(parts), columns))


def _by_file(shapes: Mapping[str, torch.Size]) -> dict[str, dict[str, torch.Size]]:
    """One file a layer, and one for what belongs to none."""
    files: dict[str, dict[str, torch.Size]] = {}
    for name, size in shapes.items():
        part = f"layer-{int(name.split('.')[2]):03d}" if name.startswith("model.layers.") else "outside"
        files.setdefault(f"model-{part}.safetensors", {})[name] = size
    return files


def _write_files(files: Mapping[str, Mapping[str, torch.Size]], directory: Path) -> dict[str, Any]:
    """Write each file and return the index."""
    places: dict[str, str] = {}
    total = 0
    for file, shapes in files.items():
        tensors = {name: _random(name, size, shapes) for name, size in shapes.items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": places}


def _random(name: str, size: torch.Size, shapes: Mapping[str, torch.Size]) -> Tensor:
    """Norms are ones, a gate's correction bias is zeros in float32, all else is noise."""
    if (packed := random_packed(name, size, shapes, STD)) is not None:
        return packed
    if name.endswith("correction_bias"):
        return torch.zeros(size)
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0.0, STD)


def _tokenizer(vocabulary: int) -> Tokenizer:
    """Bytes, then made-up words, so that every id has text; without merges only the bytes are ever encoded to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Ġ" + "".join(letters) for letters in product(ascii_lowercase, repeat=4))
    tokens = [*alphabet, *(word for word, _ in zip(words, range(vocabulary - len(alphabet))))]
    tokenizer = Tokenizer(models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main() -> None:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES | PACKED_SHAPES, default="qwen3")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small is for smoke tests")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    write(shape_of(args.shape, args.scale), args.out)
    print(f"wrote {sum(file.stat().st_size for file in args.out.iterdir()) / 1e9:.2f} GB to {args.out}")


if __name__ == "__main__":
    main()
