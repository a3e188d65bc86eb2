"""The process in which a checkpoint's chat templates are compiled and rendered.

`python -m router_service.text.templates.worker` starts it.

A template is untrusted code. jinja2's sandbox keeps it from the interpreter but limits neither time nor memory: one
multiplication or one `center` can use all memory. So resource limits of the kernel bound this process, and the Front
bounds its reply. Standard input is a socket to the Front; when it closes, this process ends.
"""

import math
import resource
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from router_service.text.templates.continuation import render_open
from router_service.text.templates.environment import template_environment
from router_service.text.templates.probe import probe
from router_service.text.templates.wire import receive, send

CPU_SECONDS = 1
MEMORY_BYTES = 512 << 20
MAX_OUTPUT_CHARACTERS = 16 << 20
SHOWN_CHARACTERS = 1000


def main() -> None:
    """Compile the templates of the first message, then answer the messages that follow."""
    link = socket.socket(fileno=0)
    _bound_memory_and_files()
    try:
        setup = receive(link)
        answer, templates = _compile(setup["sources"])
        send(link, answer)
        while templates:
            send(link, _answer(templates, receive(link), setup))
    except (EOFError, OSError):
        return


def _compile(sources: dict[str, str]) -> tuple[dict[str, str], dict[str, jinja2.Template]]:
    _bound_time()
    try:
        return {}, {name: template_environment().from_string(source) for name, source in sources.items()}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}, {}
    except Exception as error:
        return {"error": _described(error)}, {}


def _answer(templates: dict[str, jinja2.Template], question: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """Render the conversation of `question`, or, if it has none, find out what its template takes."""
    name, conversation = question["template"], question.get("conversation")

    def render(variables: Mapping[str, Any]) -> str:
        return _joined(templates[name].generate({**setup["special_tokens"], **variables}))

    _bound_time()
    try:
        if conversation is None:
            return {"traits": probe(render)}
        if conversation.pop("continue_final_message"):
            return {"text": render_open(render, conversation, setup["sources"][name])}
        return {"text": render(conversation)}
    except Exception as error:  # whatever it raises rejects the messages
        return {"error": _described(error)}


def _joined(pieces: Iterable[str]) -> str:
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_OUTPUT_CHARACTERS:
            raise ValueError(f"it writes more than {MAX_OUTPUT_CHARACTERS} characters")
        kept.append(piece)
    return "".join(kept)


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if isinstance(error, RecursionError):
        return "it nests or recurs too deeply"
    text = str(error)[:SHOWN_CHARACTERS]
    plain = isinstance(error, jinja2.TemplateError | ValueError | TypeError)
    return text if plain else f"{type(error).__name__}: {text}"


def _bound_memory_and_files() -> None:
    """Limit the address space to its current size plus MEMORY_BYTES; allow no written files and no core dump."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _bound_time() -> None:
    """Allow CPU_SECONDS of CPU time from now on; then the kernel kills this process."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)


def _limit(which: int, value: int) -> None:
    """Set the soft limit, as far as the hard one allows."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
