"""Which tokens end an answer: those that any file of the checkpoint calls so."""

from collections.abc import Callable, Iterator
from pathlib import Path

from experts.checkpoint.json_reader import JsonReader, open_json
from router_service.text.checkpoint_files import load_special_tokens
from router_service.text.tokenizer_files import find_tokenizer, load_tokenizer

# Under which config.json has the text model's part, where the model has others: for images, audio or speech.
TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
KEY = "eos_token_id"


def end_token_ids(directory: Path, id_of: Callable[[str], int | None]) -> tuple[int, ...]:
    """Return the ids that generation_config.json, config.json and the tokenizer name, in this order, each once.

    The files often differ: one has the end of a turn, another that of a document, and a model may write either.
    Transformers takes the first file that has any. An id may be outside of the model's vocabulary.

    Args:
        directory: the checkpoint.
        id_of: the id of a token by its content. Called for the tokenizer's eos_token, if it has one.

    Raises:
        CheckpointError: a file is unreadable, or a value is not an id, a list of them, or a token.
    """
    generation = open_json(directory / "generation_config.json", optional=True)
    configs = _sections(open_json(directory / "config.json", optional=True))
    ids = [id for reader in (generation, *configs) for id in reader.token_ids(KEY) or ()]
    named = load_special_tokens(directory).get("eos_token")
    own = id_of(named) if named else None
    return tuple(dict.fromkeys(ids if own is None else [*ids, own]))


def checkpoint_end_tokens(directory: Path) -> tuple[int, ...]:
    """As `end_token_ids`, where no tokenizer is loaded: it is only if the checkpoint has one and names its eos_token.

    Raises:
        CheckpointError: see `end_token_ids` and `load_tokenizer`.
    """
    return end_token_ids(directory, lambda token: _id_in(directory, token))


def _id_in(directory: Path, token: str) -> int | None:
    return load_tokenizer(directory).id_of(token) if find_tokenizer(directory) else None


def _sections(config: JsonReader) -> Iterator[JsonReader]:
    """Yield a configuration and those of the text model within it."""
    waiting = [config]
    while waiting:
        section = waiting.pop(0)
        yield section
        waiting += [section.object(key) for key in TEXT_SECTIONS if section.get(key) is not None]
