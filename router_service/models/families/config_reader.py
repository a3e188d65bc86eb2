"""Reads config.json, whose keys vary with the version that wrote it."""

from collections.abc import Mapping, Sequence
from typing import Any

from experts.checkpoint.json_checks import MAX_INT32
from experts.checkpoint.json_reader import JsonReader
from router_service.models.spec import Rope

# An object is created for each, so a hostile value must not exhaust the memory.
MAX_LAYERS = 1024
MAX_EXPERTS = 1 << 13
# Required and optional numbers of each kind of rope.
ROPE_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
}
# Bounds of rope's numbers: far beyond published values, and within them no angle overflows.
ROPE_BOUNDS: dict[str, tuple[float, float]] = {
    "original_max_position_embeddings": (1, MAX_INT32),
    "mscale": (0, 1e6),
    "mscale_all_dim": (0, 1e6),
}
OTHER_ROPE_BOUNDS = (1e-6, 1e6)


class ConfigReader(JsonReader):
    """`values` is the text model's part of the configuration; keys of its own section are in `inner`."""

    def __init__(self, values: Mapping[str, Any], where: str, inner: Mapping[str, Any] | None = None) -> None:
        super().__init__(values, where)
        self._inner = inner or {}

    def name(self, key: str) -> str:
        """A key as named in errors: a multimodal configuration has the text model's keys in a section."""
        return f"text_config.{key}" if key in self._inner else key

    def layers(self) -> int:
        """Return the number of layers.

        Raises:
            CheckpointError: it is missing, or not within bounds.
        """
        return self.positive("num_hidden_layers", most=MAX_LAYERS)

    def window(self, key: str) -> int | None:
        """Return the size of a layer's attention window in tokens, None without a limit.

        Raises:
            CheckpointError: it is not a positive integer.
        """
        return self.integer(key, default=None, least=1, most=MAX_INT32)

    def per_layer(self, key: str, layers: int, allowed: Sequence[str | int]) -> list[Any] | None:
        """Return a list with an item of `allowed` for each layer, None if the key is missing or empty.

        Raises:
            CheckpointError: it is not a list, too short, or has another item.
        """
        value = self.get(key, default=[])
        if not isinstance(value, list) or 0 < len(value) < layers:
            raise self.error(key, value, f"it must be a list with an item for each of the {layers} layers")
        for layer, item in enumerate(value[:layers]):
            if not isinstance(item, str | int) or item not in allowed:
                raise self.error(f"{key}[{layer}]", item, f"supported: {', '.join(map(repr, allowed))}")
        return value[:layers] or None

    def rope(
        self, dim: int, theta: float, interleaved: bool = False, float32: bool = False, dim_key: str = "head_dim"
    ) -> Rope:
        """Return the rope of `dim` elements, from `rope_parameters` or the older `rope_theta` and `rope_scaling`.

        Raises:
            CheckpointError: `dim` is odd and cannot be paired, the kind is not implemented, or one of its numbers
                is missing or out of bounds.
        """
        if dim % 2:
            raise self.error(dim_key, dim, "it must be even, as rope turns pairs")
        written = self.object("rope_parameters")
        written = written if written.values else self.object("rope_scaling")
        kind_key = "rope_type" if written.get("rope_type") is not None else "type"
        written.must_be(kind_key, list(ROPE_KINDS))
        written.must_be("partial_rotary_factor", [1.0])
        kind = str(written.get(kind_key, default="default"))
        base = self.number("rope_theta", theta, above=1, most=1e15)
        base = written.number("rope_theta", base, above=1, most=1e15)
        return Rope(
            dim=dim,
            theta=base,
            kind=kind,
            scaling=tuple(_rope_numbers(written, kind)),
            interleaved=interleaved,
            float32=float32,
        )

    def dtype(self) -> str:
        """Return the configured dtype, bfloat16 by default."""
        return self.text("dtype", "torch_dtype", default="bfloat16").removeprefix("torch.")


def _rope_numbers(written: JsonReader, kind: str) -> list[tuple[str, float]]:
    needed, optional = ROPE_KINDS[kind]
    numbers = []
    for name in (*needed, *optional):
        least, most = ROPE_BOUNDS.get(name, OTHER_ROPE_BOUNDS)
        value = written.number(name, None, least, most)
        if value is not None:
            numbers.append((name, value))
        elif name in needed:
            raise written.error(name, value, f"{kind} rope needs a number")
    if kind == "yarn":
        numbers.append(("truncate", float(written.flag("truncate", True))))
    return numbers
