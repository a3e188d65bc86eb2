"""The small text files of a checkpoint directory."""

from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_text as text_within
from experts.checkpoint.json_reader import JsonReader, open_json

# Names that transformers knows; a model may have others.
USUAL_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Of chat templates: published ones have 20 KB.
MAX_TEXT_BYTES = 1 << 20


def read_text(path: Path) -> str | None:
    """Return the text of `path`, None if there is no such file.

    Raises:
        CheckpointError: it cannot be read, or is too large.
    """
    if not path.exists():
        return None
    try:
        return text_within(path, MAX_TEXT_BYTES)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_special_tokens(directory: Path) -> dict[str, str]:
    """Return a checkpoint's named special tokens (`eos_token`: its content, and so on).

    Raises:
        CheckpointError: a file is unreadable, or one of `USUAL_TOKENS` is not a token.
    """
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        reader = open_json(directory / file, optional=True)
        # Other keys have this suffix too, such as the flag `add_bos_token`, so other values are no error.
        named |= {key: value for key in reader.values if key.endswith("_token") and (value := _content(reader, key))}
    return named


def _content(reader: JsonReader, key: str) -> str | None:
    value = reader.get(key)
    if isinstance(value, str):
        return reader.text(key, default=None)
    if isinstance(value, dict):
        return reader.object(key).text("content", default=None)
    if value is not None and key in USUAL_TOKENS:
        raise reader.error(key, value, "it must be a string, or an object with its content")
    return None
