"""A checkpoint's chat template: formats a conversation as the text that the model was trained on."""

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_checks import is_valid_unicode
from experts.checkpoint.json_reader import JsonReader, open_json
from experts.host.user_path import user_path
from router_service.protocol import inference_pb2 as pb
from router_service.text.chats.conversation import ROLES, Conversation, Traits, conversation_of, has_tools
from router_service.text.checkpoint_files import load_special_tokens, read_text
from router_service.text.templates.pool import TemplatePool
from router_service.text.templates.process import TemplateError

# transformers' names of templates: the usual one, and the one that is taken if there are tools.
DEFAULT, TOOL_USE = "default", "tool_use"
# Without one of these words in its source, a template takes neither calls nor parts, and there is nothing to find out.
PROBED = ("tool_calls", "text")
# Of wall time, while the rest of the server starts too.
PROBE_SECONDS = 60.0
QUOTED_NAME = re.compile(r"""(["'])([A-Za-z][A-Za-z0-9_-]{0,63})\1""")

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class ChatError(ValueError):
    """The template rejects the conversation."""


class ChatTemplate:
    """Compiled templates. They are untrusted, so they run in processes of their own (`templates/pool.py`)."""

    def __init__(
        self,
        sources: str | Mapping[str, str],
        special_tokens: Mapping[str, str],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Compile `sources`, one template or several by name, of which one is `default`.

        `special_tokens` (bos_token, eos_token, ...) are variables of the templates, and `kwargs` those of the server.

        Raises:
            TemplateError: a template does not compile, or not within the limits.
        """
        self.sources = {DEFAULT: sources} if isinstance(sources, str) else dict(sources)
        self._special_tokens = dict(special_tokens)
        self._kwargs = dict(kwargs or {})
        self._pool = TemplatePool(self.sources, special_tokens)
        self._traits = {name: self._traits_of(name, source) for name, source in self.sources.items()}

    @property
    def pid(self) -> int | None:
        """A process of the templates, None while there is none that waits."""
        return next(iter(self._pool.pids), None)

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run `work`, which renders, beside others; see `TemplatePool`."""
        return self._pool.submit(work)

    def name_for(self, tools: bool) -> str:
        """Return the name of the template for a conversation with or without tools."""
        return TOOL_USE if tools and TOOL_USE in self.sources else DEFAULT

    def traits(self, tools: bool = False) -> Traits:
        """Return what that template takes."""
        return self._traits[self.name_for(tools)]

    def conversation(self, chat: pb.Chat) -> Conversation:
        """Return a chat as `render` takes it.

        Raises:
            ChatFieldError: a field has not the form that it must have.
        """
        return conversation_of(chat, self.traits(has_tools(chat)), self._kwargs, self._special_tokens)

    def render(self, conversation: Conversation) -> str:
        """Return the text of a conversation.

        Blocks, for a few seconds at most, unless all processes are busy. Safe to call from several threads.

        Raises:
            ChatError: the template raises, cannot render these messages, or exceeds the limits.
        """
        name = self.name_for(conversation.tools is not None)
        variables = conversation.kwargs | {
            key: getattr(conversation, key)
            for key in ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
        }
        try:
            text: str = self._pool.ask({"template": name, "conversation": variables}).get("text", "")
        except TemplateError as error:
            raise ChatError(f"the chat template refuses these messages: {error}") from error
        return text

    def _traits_of(self, name: str, source: str) -> Traits:
        found: dict[str, Any] = {}
        if any(word in source for word in PROBED):
            try:
                found = dict(self._pool.ask({"template": name}, PROBE_SECONDS)["traits"])
            except TemplateError as error:
                # Where it exceeds the limits even with these few words, each request will hear so.
                logger.warning("what the chat template takes was not found out, so it gets texts only: %s", error)
        named = frozenset(match[2] for match in QUOTED_NAME.finditer(source))
        return Traits(
            text_roles=frozenset(found.get("text_roles", ROLES)),
            part_roles=frozenset(found.get("part_roles", ())),
            arguments_text=found.get("arguments_text", False),
            no_content=found.get("no_content", "missing"),
            more_roles=named,
            developer="developer" in named,
        )


def load_chat_template(directory: Path, file: str = "", kwargs: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Read the chat template of a checkpoint, or that of `file` instead; None if there is none.

    Looked for in chat_template.jinja, chat_template.json, tokenizer_config.json, in this order. `kwargs` are variables
    for all conversations.

    Raises:
        CheckpointError: a file is unreadable or its template does not compile.
    """
    found = _read_file(file) if file else _find_sources(directory)
    if found is None:
        return None
    where, sources = found
    special_tokens = load_special_tokens(directory)
    for name in sorted(special_tokens.keys() & dict(kwargs or {}).keys()):
        raise CheckpointError(f"front.chat_template_kwargs: {name} is a special token of the model; leave it out")
    try:
        return ChatTemplate(sources, special_tokens, kwargs)
    except TemplateError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _read_file(file: str) -> tuple[str, dict[str, str]]:
    path = user_path(file, "front.chat_template")
    where = f"front.chat_template: {path}"
    try:
        source = read_text(path)
    except CheckpointError as error:
        raise CheckpointError(f"front.chat_template: {error}") from error
    if source is None:
        raise CheckpointError(f"{where}: no such file; give the path of a Jinja template")
    return where, {DEFAULT: source}


def _find_sources(directory: Path) -> tuple[str, dict[str, str]] | None:
    path = directory / "chat_template.jinja"
    if (source := read_text(path)) is not None:
        more = directory / "additional_chat_templates" / f"{TOOL_USE}.jinja"
        tool_use = read_text(more)
        return f"{path}: chat_template", {DEFAULT: source} | ({} if tool_use is None else {TOOL_USE: tool_use})
    for file in ("chat_template.json", "tokenizer_config.json"):
        reader = open_json(directory / file, optional=True)
        if reader.get("chat_template") is not None:
            return f"{directory / file}: chat_template", _named(reader)
    return None


def _named(reader: JsonReader) -> dict[str, str]:
    """Return the template, or those of a list that are used; one of them must be named `default`."""
    value = reader.get("chat_template")
    sources = {DEFAULT: value}
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict) and entry.get("name") in (DEFAULT, TOOL_USE)]
        sources = {entry["name"]: entry.get("template") for entry in entries}
    texts = [source for source in sources.values() if isinstance(source, str) and is_valid_unicode(source)]
    if DEFAULT not in sources or len(texts) != len(sources):
        raise reader.error("chat_template", value, "it must be a template or a list with one named default")
    return sources
