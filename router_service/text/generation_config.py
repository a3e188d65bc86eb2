"""A checkpoint's defaults for sampling fields that a request leaves unset, from generation_config.json."""

from dataclasses import dataclass
from pathlib import Path

from experts.checkpoint.json_checks import MAX_INT32
from experts.checkpoint.json_reader import JsonReader, open_json
from router_service.protocol.messages import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from router_service.text.chat import load_special_tokens
from router_service.text.tokenizer import Tokenizer

# Factors are sent and computed with as float32, which must not overflow.
MAX_FACTOR = 1e30


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for unset fields; `max_tokens` None allows all that is left of the context."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def load_defaults(directory: Path, tokenizer: Tokenizer) -> SamplingDefaults:
    """Read generation_config.json of `directory`; a missing file or null keeps the built-in value.

    End-of-sequence tokens come from there, else from config.json, else from the tokenizer's eos_token.

    Raises:
        CheckpointError: a value has the wrong type or is out of bounds.
    """
    config = open_json(directory / "generation_config.json", optional=True)
    # Validated even if do_sample is false and it is not used.
    temperature = config.number("temperature", 1.0, least=0, most=MAX_FACTOR)
    return SamplingDefaults(
        temperature=temperature if config.flag("do_sample", True) else 0.0,
        top_k=config.integer("top_k", default=0, most=MAX_INT32),
        top_p=config.number("top_p", 1.0, least=0, most=1),
        min_p=config.number("min_p", 0.0, least=0, most=1),
        repetition_penalty=config.number(
            "repetition_penalty", 1.0, least=MIN_REPETITION_PENALTY, most=MAX_REPETITION_PENALTY
        ),
        max_tokens=config.integer("max_new_tokens", default=None, least=1, most=MAX_INT32),
        eos_token_ids=_eos(directory, config, tokenizer),
    )


def _eos(directory: Path, config: JsonReader, tokenizer: Tokenizer) -> tuple[int, ...]:
    ids = config.token_ids("eos_token_id")
    if ids is None:
        ids = open_json(directory / "config.json", optional=True).token_ids("eos_token_id")
    if ids is not None:
        return ids
    named = load_special_tokens(directory).get("eos_token")
    id = tokenizer.id_of(named) if named else None
    return () if id is None else (id,)
