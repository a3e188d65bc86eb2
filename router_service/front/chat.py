"""A checkpoint's chat template: a conversation to the text that the model was trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from experts.checkpoint_error import CheckpointError
from router_service.front.checkpoint_files import read_json, read_text

ROLES = ("system", "user", "assistant", "tool")


class ChatError(ValueError):
    """The template refuses the conversation."""


class ChatTemplate:
    """A compiled template. Templates come with checkpoints, so they run in a sandbox."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; `special_tokens` (bos_token, eos_token, ...) are variables of the template.

        Raises:
            jinja2.TemplateSyntaxError: `source` is no template.
        """
        self._template = _environment().from_string(source)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of `messages` (role, content) up to the start of the assistant's answer.

        Raises:
            ChatError: the template raises, or cannot render these messages.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
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
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"{path}: chat_template: line {error.lineno}: {error.message}") from error


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


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: templates mark what is trained on with it; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012, jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Return a block that renders its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
