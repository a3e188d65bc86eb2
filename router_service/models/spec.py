"""What the engine must know of a model, whatever its family's configuration calls it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experts.checkpoint_error import CheckpointError
from experts.manifest import ExpertManifest

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """How a token's experts are chosen: `experts` E, `top_k` K, whether the K weights are made to sum to 1."""

    experts: int
    top_k: int
    normalize: bool


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only MoE transformer. Sizes in elements; `moe_layers` are those with experts, the others are dense.

    `sliding_window` None attends to everything. `qk_norm` normalizes each head's query and key before rope.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_theta: float
    norm_eps: float
    moe_layers: tuple[int, ...]
    expert_ffn: int
    dense_ffn: int
    gate: Gate
    tied_embeddings: bool
    attention_bias: bool
    qk_norm: bool
    sliding_window: int | None
    eos_token_ids: tuple[int, ...]
    dtype: str

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of key and value that one token occupies over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class ParamSource:
    """A router parameter made of checkpoint tensors stacked along their first dimension."""

    shape: Shape
    parts: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True, slots=True)
class TensorMap:
    """From checkpoint names to what they are: the router's parameters by our name, and the experts'."""

    router: Mapping[str, ParamSource]
    experts: ExpertManifest

    def expected(self) -> dict[str, Shape]:
        """Every tensor that the checkpoint must hold, with its shape."""
        names = {name: shape for source in self.router.values() for name, shape in source.parts}
        return names | self.experts.shapes()


class ConfigReader:
    """Reads config.json, whose keys vary with the version that wrote it, with errors that name the key."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where

    def get(self, *keys: str, default: Any = None) -> Any:
        """Return the first of `keys` that is set, else `default`."""
        return next((self._config[key] for key in keys if self._config.get(key) is not None), default)

    def positive(self, *keys: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            CheckpointError: none of `keys` is set and there is no default, or the value is not a positive integer.
        """
        value = self.get(*keys, default=default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self._where}: {' or '.join(keys)} is {value!r}, it must be a positive integer")
        return value

    def must_be(self, key: str, allowed: Sequence[Any]) -> None:
        """Refuse a variant of the architecture that is not implemented.

        Raises:
            CheckpointError: `key` is set to something that is not in `allowed`.
        """
        value = self.get(key, default=allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{self._where}: {key} is {value!r}, supported: {', '.join(map(repr, allowed))}")

    def rope_theta(self, default: float) -> float:
        """Return the base of plain rope, from `rope_theta` or the newer `rope_parameters`.

        Raises:
            CheckpointError: the rope is of a scaled kind.
        """
        rope = self.get("rope_parameters", "rope_scaling", default={})
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise CheckpointError(f"{self._where}: rope_type is {kind!r}, supported: 'default'")
        return float(rope.get("rope_theta", self.get("rope_theta", default=default)))

    def eos(self) -> tuple[int, ...]:
        """Return the end-of-sequence ids, given as a number, a list or not at all."""
        value = self.get("eos_token_id", default=[])
        return tuple(value) if isinstance(value, list) else (int(value),)

    def dtype(self) -> str:
        """Return the dtype that the configuration names, bfloat16 when it names none."""
        return str(self.get("dtype", "torch_dtype", default="bfloat16")).removeprefix("torch.")
