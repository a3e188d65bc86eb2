"""What a checkpoint's generation_config.json says for sampling fields that a request leaves unset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from router_service.front.text.chat import load_special_tokens
from router_service.front.text.checkpoint_files import read_json
from router_service.front.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for unset fields; `max_tokens` None is all that the context leaves."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def load_defaults(directory: Path, tokenizer: Tokenizer) -> SamplingDefaults:
    """Read generation_config.json of `directory`; an absent file or a null leaves the built-in value.

    End-of-sequence tokens come from there, else from config.json, else from the tokenizer's eos_token.

    Raises:
        CheckpointError: a value has the wrong type or is out of bounds.
    """
    path = directory / "generation_config.json"
    config = {key: value for key, value in read_json(path).items() if value is not None}
    greedy = config.get("do_sample") is False
    return SamplingDefaults(
        temperature=0.0 if greedy else _number(path, config, "temperature", 1.0, 0.0, float("inf")),
        top_k=_integer(path, config, "top_k", 0, 0) or 0,
        top_p=_number(path, config, "top_p", 1.0, 0.0, 1.0),
        min_p=_number(path, config, "min_p", 0.0, 0.0, 1.0),
        repetition_penalty=_number(path, config, "repetition_penalty", 1.0, 1e-6, float("inf")),
        max_tokens=_integer(path, config, "max_new_tokens", None, 1),
        eos_token_ids=_eos(directory, path, config, tokenizer),
    )


def _number(path: Path, config: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(f"{path}: {key}: expected a number from {low:g} to {high:g}, found {value!r}")
    return float(value)


def _integer(path: Path, config: Mapping[str, Any], key: str, default: int | None, low: int) -> int | None:
    if key not in config:
        return default
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise CheckpointError(f"{path}: {key}: expected an integer of at least {low}, found {value!r}")
    return int(value)


def _eos(directory: Path, path: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    if (value := config.get("eos_token_id")) is None:
        path = directory / "config.json"
        value = read_json(path).get("eos_token_id")
    if value is None:
        named = load_special_tokens(directory).get("eos_token")
        value = tokenizer.id_of(named) if named else None
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(id, bool) or not isinstance(id, int) or id < 0 for id in ids):
        raise CheckpointError(f"{path}: eos_token_id: expected a token id or a list of them, found {value!r}")
    return tuple(dict.fromkeys(ids))
