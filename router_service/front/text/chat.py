"""A checkpoint's chat template: a conversation to the text that the model was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from router_service.front.text.checkpoint_files import read_json, read_text
from router_service.front.text.templates.process import TemplateError, TemplateProcess

ROLES = ("system", "user", "assistant", "tool")


class ChatError(ValueError):
    """The template refuses the conversation."""


class ChatTemplate:
    """A compiled template. It came with a checkpoint, so it runs in a process of its own (`template_process.py`)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; `special_tokens` (bos_token, eos_token, ...) are variables of the template.

        Raises:
            TemplateError: `source` is no template, or cannot be compiled within the limits.
        """
        self._process = TemplateProcess(source, special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of `messages` (role, content) up to the start of the assistant's answer.

        Blocks until it is there, for a few seconds at most. Safe to call from several threads.

        Raises:
            ChatError: the template raises, cannot render these messages, or exceeds the limits.
        """
        try:
            return self._process.render([dict(message) for message in messages])
        except TemplateError as error:
            raise ChatError(f"the chat template refuses these messages: {error}") from error


def load_chat_template(directory: Path) -> ChatTemplate | None:
    """Read the chat template of a checkpoint, None where it has none.

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
        CheckpointError: a file is unreadable.
    """
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_json(directory / file).items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                named[key] = content
    return named


def _find_source(directory: Path) -> tuple[Path, str] | None:
    path = directory / "chat_template.jinja"
    if (source := read_text(path)) is not None:
        return path, source
    for file in ("chat_template.json", "tokenizer_config.json"):
        path = directory / file
        if (value := read_json(path).get("chat_template")) is not None:
            return path, _default_of(path, value)
    return None


def _default_of(path: Path, value: object) -> str:
    """Return the template, or of a list of named ones that called default."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if not isinstance(value, str):
        raise CheckpointError(f"{path}: chat_template: expected a template or a list with one named default")
    return value
