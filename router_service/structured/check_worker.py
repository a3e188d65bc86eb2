"""The process in which a Front finds out whether a grammar compiles.

`python -m router_service.structured.check_worker` starts it.

What callers send is untrusted, and no limit of a library bounds the time and memory that all of it may take. So limits
of the kernel bound this process, and the Front bounds its reply. Standard input is a socket to the Front; when it
closes, this process ends.
"""

import math
import resource
import socket
import time
from pathlib import Path

from router_service.protocol.messages import Structured
from router_service.structured.grammar import GrammarError, compiled
from router_service.structured.matcher import Matcher
from router_service.structured.vocabulary import TokenSource
from router_service.text.templates.wire import receive, send

CPU_SECONDS = 2
MEMORY_BYTES = 512 << 20
# Some grammars turn out too complex once an answer has begun.
TRIED_TOKENS = 8


def main() -> None:
    """Read the vocabulary, then compile what the further messages say, each for itself."""
    link = socket.socket(fileno=0)
    try:
        setup = receive(link)
        checker = _Checker(list(map(bytes.fromhex, setup["tokens"])), setup["special"], setup["ends"])
        send(link, {})
        _bound_memory()
        while True:
            question = receive(link)
            send(link, {"error": checker.error(Structured(question["kind"], question["text"]))})
    except (EOFError, OSError):
        return


class _Checker:
    def __init__(self, tokens: list[bytes], special: list[int], ends: list[int]) -> None:
        self._size, self._ends = len(tokens), [id for id in ends if id < len(tokens)]
        self._vocabulary = TokenSource(tokens, special, ends).vocabulary

    def error(self, structured: Structured) -> str:
        """Why `structured` cannot be compiled, or its answers cannot begin; "" if they can."""
        # From now on; then the kernel ends this process.
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)
        try:
            matcher = Matcher(compiled(structured, self._vocabulary), self._size, self._ends)
            matcher.start()
            for _ in range(TRIED_TOKENS):
                if matcher.error or (token := matcher.first()) is None:
                    break
                matcher.advance(token)
            return matcher.error
        except GrammarError as error:
            return str(error)
        except Exception as error:
            return f"cannot be compiled ({type(error).__name__})"


def _bound_memory() -> None:
    """Limit the address space to its current size plus MEMORY_BYTES; allow no written files and no core dump."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(which: int, value: int) -> None:
    """Set the soft limit, as far as the hard one allows."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
