"""Reads config.json, whose keys vary with the version that wrote it, with errors that name the key."""

from collections.abc import Mapping, Sequence
from typing import Any

from experts.checkpoint.errors import CheckpointError
from router_service.models.spec import Rope

# What each kind of scaled rope needs, and what it may have besides.
ROPE_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
}


class ConfigReader:
    """`config` is the text model's part of the configuration, `where` the file that errors name."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self.where = where

    def get(self, *keys: str, default: Any = None) -> Any:
        """Return the first of `keys` that is set, else `default`."""
        return next((self._config[key] for key in keys if self._config.get(key) is not None), default)

    def error(self, key: str, value: object, wanted: str) -> CheckpointError:
        """An error that names the file, the key and the value."""
        return CheckpointError(f"{self.where}: {key} is {value!r}, {wanted}")

    def positive(self, *keys: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            CheckpointError: none of `keys` is set and there is no default, or the value is not a positive integer.
        """
        value = self.get(*keys, default=default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(" or ".join(keys), value, "it must be a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, value, "it must be a number")
        return float(value)

    def must_be(self, key: str, allowed: Sequence[Any]) -> None:
        """Refuse a variant of the architecture that is not implemented.

        Raises:
            CheckpointError: `key` is set to something that is not in `allowed`.
        """
        value = self.get(key, default=allowed[0])
        if value not in allowed:
            raise self.error(key, value, f"supported: {', '.join(map(repr, allowed))}")

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """Return a list with an item for each layer, None where the key is not set or empty.

        Raises:
            CheckpointError: it is something else, or too short.
        """
        value = self.get(key, default=[])
        if not isinstance(value, list) or 0 < len(value) < layers:
            raise self.error(key, value, f"it must be a list with an item for each of the {layers} layers")
        return value[:layers] or None

    def rope(self, dim: int, theta: float, interleaved: bool = False, float32: bool = False) -> Rope:
        """Return the rope of `dim` elements, from `rope_parameters` or the older `rope_theta` and `rope_scaling`.

        Raises:
            CheckpointError: an odd `dim`, which cannot be paired, a kind that is not implemented, or one of its numbers
                is missing.
        """
        if dim % 2:
            raise self.error("the head size that rope turns", dim, "it must be even")
        key = "rope_parameters" if self.get("rope_parameters") else "rope_scaling"
        written = self.get(key, default={})
        kind = written.get("rope_type", written.get("type", "default"))
        if kind not in ROPE_KINDS:
            raise self.error(f"{key}: rope_type", kind, f"supported: {', '.join(map(repr, ROPE_KINDS))}")
        if written.get("partial_rotary_factor", 1.0) != 1.0:
            raise self.error(f"{key}: partial_rotary_factor", written["partial_rotary_factor"], "supported: 1.0")
        needed, optional = ROPE_KINDS[kind]
        for name in needed:
            if not isinstance(written.get(name), int | float):
                raise self.error(f"{key}: {name}", written.get(name), f"{kind} rope needs a number")
        numbers = tuple((n, float(written[n])) for n in (*needed, *optional) if written.get(n) is not None)
        base = float(written.get("rope_theta", self.get("rope_theta", default=theta)))
        return Rope(dim, base, kind, numbers, interleaved, float32)

    def eos(self) -> tuple[int, ...]:
        """Return the end-of-sequence ids, given as a number, a list or not at all."""
        value = self.get("eos_token_id", default=[])
        return tuple(value) if isinstance(value, list) else (int(value),)

    def dtype(self) -> str:
        """Return the dtype that the configuration names, bfloat16 when it names none."""
        return str(self.get("dtype", "torch_dtype", default="bfloat16")).removeprefix("torch.")
