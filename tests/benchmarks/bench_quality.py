"""What `weights.quantize` costs in quality: the bundled model's held-out loss, and the error of layers of experts.

    python -m tests.benchmarks.bench_quality
    python -m tests.benchmarks.bench_quality --windows 1000

The loss is of the text that training held out (deploy/training/corpus.py), by the engine's own log-probabilities:
windows of the context, every token of them but the first predicted once, computed in float32. A third of the 147
windows is taken; the text is that of the Python that runs this. A layer's error is that of its output, the norm of the
difference by the norm, for normal inputs and weights in the benchmarks' shapes, and for the bundled model's weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.config import BUNDLED
from cluster.planner.quantize import rounding_of
from cluster.table import table
from experts.config import WeightsConfig
from kernels import select
from kernels.formats.quantized import Matrix
from kernels.formats.rounding import Rounding
from router_service.text.text_model import load_text_model
from tests.benchmarks.harness.checkpoints import SHAPES
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

CORPUS = Path(__file__).parents[2] / "deploy" / "training" / "corpus.py"
END_OF_TEXT = "<|endoftext|>"
ROWS = 64


def settings() -> Iterator[WeightsConfig]:
    """None, then both forms in both sizes of groups, and the smallest in everything."""
    yield WeightsConfig("dequantized")
    for form, group in (("int8", 32), ("int8", 128), ("int4", 32), ("int4", 128)):
        yield WeightsConfig("dequantized", form, group)  # type: ignore[arg-type]
    yield WeightsConfig("dequantized", "int4", 32, "all")


def name_of(weights: WeightsConfig) -> str:
    """As in the table."""
    rounding = rounding_of(weights)
    return "none" if rounding is None else f"{rounding}{', projections too' * (weights.quantize_scope == 'all')}"


def held_out_tokens() -> list[int]:
    """All held-out documents, an end-of-text token before each and at the end."""
    spec = spec_from_file_location("corpus", CORPUS)  # the scripts of that folder are no package
    assert spec is not None
    assert spec.loader is not None
    corpus = module_from_spec(spec)
    sys.modules["corpus"] = corpus  # where its dataclasses look for their module
    spec.loader.exec_module(corpus)
    tokenizer = load_text_model(BUNDLED).tokenizer
    texts = [document.text for document in corpus.all_documents() if document.held_out]
    return tokenizer.encode("".join(END_OF_TEXT + text for text in texts) + END_OF_TEXT, True)


def loss(tokens: list[int], weights: WeightsConfig, windows: int, directory: Path = BUNDLED) -> tuple[float, int]:
    """Nats a token, and how many tokens were predicted: in at most so many windows, spread evenly over the text.

    Windows overlap by a token, the first of each being given.
    """
    total, count = 0.0, 0
    with SteppedEngine(directory, dtype="float32", weights=weights, prefix_caching=False) as engine:
        length = engine.context - 1  # a request has an answer
        starts = range(0, len(tokens) - 1, length - 1)
        for start in starts[:: -(-len(starts) // windows)]:
            scores = scored(engine, tokens[start : start + length])
            total, count = total - sum(scores), count + len(scores)
    return total / count, count


def scored(engine: SteppedEngine, tokens: list[int]) -> list[float]:
    """The log-probability of each token but the first."""
    engine.submit(tokens, 1, prompt_logprobs=0)
    scores: list[float] = []
    while not engine.engine.idle():
        for event in engine.step():
            scores += [score.chosen.logprob for score in event.prompt_logprobs or []]
    return scores[1:]  # nothing predicts the first


@dataclass(frozen=True)
class Layer:
    """A layer of experts: `gate_up` E of [2F, D], `down` E of [D, F]; each token goes to `top_k` of them."""

    gate_up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]
    top_k: int

    def output(self, rounding: Rounding | None) -> Tensor:
        """What the layer makes of normal inputs with equal weights, in float32 throughout."""
        ops, rng = select.ops("cpu", torch.device("cpu")), torch.Generator().manual_seed(0)

        def prepared(matrices: tuple[Tensor, ...]) -> tuple[Matrix, ...]:
            return tuple(ops.prepare_matrix(w if rounding is None else rounding.of(w)) for w in matrices)

        weights = ops.prepare_weights(prepared(self.gate_up), prepared(self.down))
        x_TD = torch.randn(ROWS, self.down[0].shape[0], generator=rng)
        chosen_TK = torch.rand(ROWS, len(self.down), generator=rng).topk(self.top_k).indices
        token_N = torch.arange(ROWS).repeat_interleave(self.top_k)
        shares_N = torch.full((len(token_N),), 1 / self.top_k)
        return ops.expert_ffn(x_TD, weights, token_N, chosen_TK.flatten(), shares_N)

    def error(self, rounding: Rounding) -> float:
        """The relative error of the output."""
        exact = self.output(None)
        return float((self.output(rounding) - exact).norm() / exact.norm())


def random_layer(settings: Mapping[str, Any]) -> Layer:
    """Normal weights that keep the size of normal inputs."""
    hidden, top_k = settings["hidden_size"], settings["num_experts_per_tok"]
    ffn = settings.get("moe_intermediate_size") or settings["intermediate_size"]
    experts = next(settings[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in settings)
    rng = torch.Generator().manual_seed(1)
    gate_up = (torch.randn(2 * ffn, hidden, generator=rng) / math.sqrt(hidden) for _ in range(experts))
    down = (torch.randn(hidden, ffn, generator=rng) / math.sqrt(ffn) for _ in range(experts))
    return Layer(tuple(gate_up), tuple(down), top_k)


def bundled_layers(directory: Path = BUNDLED) -> list[Layer]:
    """The bundled model's layers, in float32."""
    stored, config = load_file(directory / "model.safetensors"), json.loads((directory / "config.json").read_text())

    def matrix(layer: int, expert: int, part: str) -> Tensor:
        return stored[f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"].float()

    experts = range(config["num_experts"])
    return [
        Layer(
            tuple(torch.cat((matrix(layer, n, "gate"), matrix(layer, n, "up"))) for n in experts),
            tuple(matrix(layer, n, "down") for n in experts),
            config["num_experts_per_tok"],
        )
        for layer in range(config["num_hidden_layers"])
    ]


def losses(windows: int) -> str:
    """The table of held-out losses."""
    tokens, rows, plain, count = held_out_tokens(), [], 0.0, 0
    for weights in settings():
        nats, count = loss(tokens, weights, windows)
        plain = plain or nats
        rows.append([name_of(weights), f"{nats:.4f}", f"{nats - plain:+.4f}", f"{nats / plain - 1:+.2%}"])
    return table((f"held-out loss, {count} tokens", "nats/token", "more", "relative"), rows)


def errors() -> str:
    """The table of layers' errors."""
    layers = {f"{name}-like": random_layer(shape.settings) for name, shape in SHAPES.items()}
    layers |= {f"bundled, layer {n}": layer for n, layer in enumerate(bundled_layers())}
    chosen = [rounding for weights in settings() if (rounding := rounding_of(weights))][:4]
    rows = [[name, *(f"{layer.error(rounding):.4f}" for rounding in chosen)] for name, layer in layers.items()]
    return table(("relative error of a layer's output", *map(str, chosen)), rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=49, help="at most so many windows of held-out text")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(errors(), losses(args.windows), sep="\n\n")


if __name__ == "__main__":
    main()
