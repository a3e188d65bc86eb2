"""The process in which a checkpoint's chat template is compiled and rendered.

`python -m router_service.front.text.templates.worker` starts it.

A template is a program of strangers. jinja2's sandbox keeps it from the interpreter; how long it computes and what it
builds up, the sandbox cannot know: one multiplication or one `center` is enough for all memory. So the kernel bounds
this process, and the Front its answer. Its standard input is a socket to the Front; its end ends this process.
"""

import math
import resource
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import jinja2

from router_service.front.text.templates.environment import template_environment
from router_service.front.text.templates.wire import receive, send

CPU_SECONDS = 1
MEMORY_BYTES = 512 << 20
MAX_OUTPUT_CHARACTERS = 16 << 20
SHOWN_CHARACTERS = 1000


def main() -> None:
    """Compile what comes first, then render what comes after it."""
    link = socket.socket(fileno=0)
    _bound_memory_and_files()
    try:
        setup = receive(link)
        answer, template = _compile(setup["source"])
        send(link, answer)
        while template is not None:
            send(link, _render(template, receive(link)["messages"], setup["special_tokens"]))
    except (EOFError, OSError):
        return


def _compile(source: str) -> tuple[dict[str, str], jinja2.Template | None]:
    _bound_time()
    try:
        return {}, template_environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}, None
    except Exception as error:
        return {"error": _described(error)}, None


def _render(
    template: jinja2.Template, messages: list[dict[str, str]], special_tokens: dict[str, str]
) -> dict[str, str]:
    _bound_time()
    try:
        pieces = template.generate(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **special_tokens
        )
        return {"text": _joined(pieces)}
    except Exception as error:  # whatever it raises is its own way to refuse the messages
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
    """No more address space than this process has now and MEMORY_BYTES; no file written, no core left."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _bound_time() -> None:
    """From now on, so many seconds of processor time; then the kernel ends this process."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)


def _limit(which: int, value: int) -> None:
    """Set the soft limit, as far as the hard one allows."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
