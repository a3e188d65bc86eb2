"""A checkpoint's defaults for sampling fields that a request leaves unset, from generation_config.json."""

from dataclasses import dataclass
from pathlib import Path

from experts.checkpoint.json_checks import MAX_INT32, is_valid_unicode
from experts.checkpoint.json_reader import JsonReader, open_json
from router_service.protocol.messages import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from router_service.text.end_tokens import end_token_ids
from router_service.text.ignored_settings import ignored_settings
from router_service.text.tokenizer import Tokenizer

# Factors are sent and computed with as float32, which must not overflow.
MAX_FACTOR = 1e30
# Of stop strings, a request's and a checkpoint's: each is looked for in all text.
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for unset fields; `max_tokens` None allows all that is left of the context."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    # Of the prompt and the answer together, where the answer's own length is not given.
    max_length: int | None = None
    min_tokens: int | None = None
    min_length: int = 0
    stop: tuple[str, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    # What the file asks for besides, and would change answers.
    ignored: tuple[str, ...] = ()

    def longest(self, prompt_tokens: int, left: int) -> int:
        """Return the most tokens of an answer to a prompt of `prompt_tokens`, of which `left` fit into the context."""
        if self.max_tokens is not None or self.max_length is None:
            return min(left, self.max_tokens or left)
        # As in transformers, a prompt that is too long by itself is answered with one token.
        return min(left, max(1, self.max_length - prompt_tokens))

    def shortest(self, prompt_tokens: int, most: int) -> int:
        """Return the fewest tokens of an answer to a prompt of `prompt_tokens` that has at most `most`."""
        least = self.min_length - prompt_tokens if self.min_tokens is None else self.min_tokens
        return min(most, max(0, least))


def load_defaults(directory: Path, tokenizer: Tokenizer) -> SamplingDefaults:
    """Read generation_config.json of `directory`; a missing file or null keeps the built-in value.

    End-of-sequence tokens are those of all files, see `end_token_ids`.

    Raises:
        CheckpointError: a value has the wrong type or is out of bounds.
    """
    config = open_json(directory / "generation_config.json", optional=True)
    # Validated even if do_sample is false and it is not used.
    temperature = config.number("temperature", 1.0, least=0, most=MAX_FACTOR)
    return SamplingDefaults(
        temperature=temperature if config.flag("do_sample", True) else 0.0,
        # -1 keeps all tokens in vLLM, and 0 does in transformers.
        top_k=max(0, config.integer("top_k", default=0, least=-1, most=MAX_INT32)),
        top_p=config.number("top_p", 1.0, least=0, most=1),
        min_p=config.number("min_p", 0.0, least=0, most=1),
        repetition_penalty=config.number(
            "repetition_penalty", 1.0, least=MIN_REPETITION_PENALTY, most=MAX_REPETITION_PENALTY
        ),
        max_tokens=config.integer("max_new_tokens", default=None, least=1, most=MAX_INT32),
        max_length=config.integer("max_length", default=None, least=1, most=MAX_INT32),
        min_tokens=config.integer("min_new_tokens", default=None, most=MAX_INT32),
        min_length=config.integer("min_length", default=0, most=MAX_INT32),
        stop=_stop_strings(config),
        eos_token_ids=end_token_ids(directory, tokenizer.id_of),
        ignored=ignored_settings(config),
    )


def _stop_strings(config: JsonReader) -> tuple[str, ...]:
    """Return `stop_strings`: one, a list, or none."""
    value = config.get("stop_strings", default=[])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(_is_stop(stop) for stop in stops) or len(stops) > MAX_STOPS:
        allowed = f"it must be a string of 1 to {MAX_STOP_CHARACTERS} characters, or a list of at most {MAX_STOPS}"
        raise config.error("stop_strings", value, allowed)
    return tuple(dict.fromkeys(stops))


def _is_stop(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_STOP_CHARACTERS and is_valid_unicode(value)
