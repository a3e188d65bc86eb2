"""The least time that a step can take on a machine: what it must read and what it must compute. Pure arithmetic.

A step reads each weight that any of its rows needs once, and the keys and values of their contexts. It multiplies each
row with the weights that this row needs. A machine does both at once at best, so the floor is the larger of both times.
The products of attention itself (about 4% of the work at 512 tokens) and norms are not counted as work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.native.limits import Limits


@dataclass(frozen=True)
class Sizes:
    """What a model's step is made of.

    Args:
        dense_bytes: weights that every step reads: all of the router's but the embedding table.
        dense_weights: weights of the router's matrices that every row is multiplied with, without the head.
        head_weights: those of the head, which only rows with a next token to draw are multiplied with.
        expert_bytes, expert_weights: of one expert.
        layers: layers with experts.
        experts, top_k: of a layer, and how many of them each row takes.
        cache_bytes: keys and values of a token in all layers.
    """

    dense_bytes: float
    dense_weights: float
    head_weights: float
    expert_bytes: float
    expert_weights: float
    layers: int
    experts: int
    top_k: int
    cache_bytes: float


@dataclass(frozen=True)
class Work:
    """Bytes to read and operations to compute; a multiplication with an addition is two."""

    bytes: float
    operations: float

    def seconds(self, limits: Limits) -> float:
        """The least time on a machine of these limits."""
        return max(self.bytes / limits.bytes_per_second, self.operations / limits.operations_per_second)


def expected_experts(experts: int, top_k: int, rows: int) -> float:
    """How many different experts `rows` rows touch if each takes `top_k` of `experts` at random, on average."""
    return experts * (1.0 - (1.0 - top_k / experts) ** rows)


def distinct_experts(rows: Iterable[Sequence[Sequence[int]]]) -> float:
    """How many different experts of a layer the rows of one step touched, on average over layers.

    Args:
        rows: for each row, for each layer, the experts that it went to.
    """
    by_layer = [len({expert for chosen in layer for expert in chosen}) for layer in zip(*rows, strict=True)]
    return sum(by_layer) / len(by_layer)


def decode_work(sizes: Sizes, rows: int, context: float, touched: float | None = None) -> Work:
    """One step of `rows` sequences with `context` tokens each.

    `touched` is how many experts of a layer they touch together, expected of random routing if it is not given.
    """
    touched = expected_experts(sizes.experts, sizes.top_k, rows) if touched is None else touched
    weights = sizes.dense_bytes + sizes.layers * touched * sizes.expert_bytes
    of_row = sizes.dense_weights + sizes.head_weights + sizes.layers * sizes.top_k * sizes.expert_weights
    return Work(weights + rows * context * sizes.cache_bytes, 2.0 * rows * of_row)


def prefill_work(sizes: Sizes, tokens: int) -> Work:
    """A prompt of `tokens` tokens alone, up to its first token: the head works for the last position only."""
    reading = decode_work(sizes, tokens, 0.0)
    of_row = sizes.dense_weights + sizes.layers * sizes.top_k * sizes.expert_weights
    return replace(reading, operations=2.0 * (tokens * of_row + sizes.head_weights))


def sizes_of(directory: Path, packed: bool = True) -> Sizes:
    """Read them off a checkpoint's headers; quantized matrices are kept so, or in the model's dtype."""
    from cluster.config import ModelConfig
    from cluster.planner.model import open_model
    from cluster.planner.sizes import kv_bytes_per_token, router_bytes
    from experts.config import WeightsConfig

    model = open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig("packed" if packed else "dequantized"))
    spec, tensors = model.plan.spec, model.plan.tensors
    table = tensors.router["embed"].elements
    head = table
    return Sizes(
        dense_bytes=router_bytes(tensors, model.dtype, packed) - _table_bytes(spec, table, model.dtype),
        dense_weights=tensors.router_elements - (head if spec.tied_embeddings else table + head),
        head_weights=head,
        expert_bytes=tensors.experts.bytes_per_expert(model.dtype, packed),
        expert_weights=tensors.experts.elements_per_expert,
        layers=len(spec.moe_layers),
        experts=spec.gate.experts,
        top_k=spec.gate.top_k,
        cache_bytes=kv_bytes_per_token(spec, model.dtype),
    )


def _table_bytes(spec: Any, table: int, dtype: Any) -> int:
    """A table that is the head too is read whole."""
    return 0 if spec.tied_embeddings else table * dtype.itemsize
