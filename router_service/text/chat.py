"""A checkpoint's chat template: formats a conversation as the text that the model was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_checks import is_valid_unicode
from experts.checkpoint.json_reader import JsonReader, open_json
from router_service.text.checkpoint_files import read_text
from router_service.text.templates.process import TemplateError, TemplateProcess

ROLES = ("system", "user", "assistant", "tool")
# Names that transformers knows; a model may have others.
USUAL_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class ChatError(ValueError):
    """The template rejects the conversation."""


class ChatTemplate:
    """A compiled template. It is untrusted, so it runs in a process of its own (`templates/process.py`)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; `special_tokens` (bos_token, eos_token, ...) are variables of the template.

        Raises:
            TemplateError: `source` does not compile, or not within the limits.
        """
        self.sources = {"default": source}
        self._process = TemplateProcess(source, special_tokens)

    @property
    def pid(self) -> int | None:
        """The template's process, None while there is none."""
        return self._process.pid

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of `messages` (role, content) up to the start of the assistant's answer.

        Blocks, for a few seconds at most. Safe to call from several threads.

        Raises:
            ChatError: the template raises, cannot render these messages, or exceeds the limits.
        """
        try:
            return self._process.render([dict(message) for message in messages])
        except TemplateError as error:
            raise ChatError(f"the chat template refuses these messages: {error}") from error


def load_chat_template(directory: Path) -> ChatTemplate | None:
    """Read the chat template of a checkpoint; None if it has none.

    Looked for in chat_template.jinja, chat_template.json, tokenizer_config.json, in this order.

    Raises:
        CheckpointError: a file is unreadable or its template does not compile.
    """
    found = _find_source(directory)
    if found is None:
        return None
    path, source = found
    try:
        return ChatTemplate(source, load_special_tokens(directory))
    except TemplateError as error:
        raise CheckpointError(f"{path}: chat_template: {error}") from error


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


def _find_source(directory: Path) -> tuple[Path, str] | None:
    path = directory / "chat_template.jinja"
    if (source := read_text(path)) is not None:
        return path, source
    for file in ("chat_template.json", "tokenizer_config.json"):
        reader = open_json(directory / file, optional=True)
        if reader.get("chat_template") is not None:
            return directory / file, _default_of(reader)
    return None


def _default_of(reader: JsonReader) -> str:
    """Return the template, or the one named `default` of a list of templates."""
    value = reader.get("chat_template")
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict) and entry.get("name") == "default"]
        default = entries[-1].get("template") if entries else None
    else:
        default = value
    if not isinstance(default, str) or not is_valid_unicode(default):
        raise reader.error("chat_template", value, "it must be a template or a list with one named default")
    return default
