"""What a command does when nobody reads what it prints any more: it ends in silence, as `head` and its like expect."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TextIO

# What a shell shows of a process that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141


def until_nobody_reads(work: Callable[[], int]) -> int:
    """Run `work` and write out all that it printed; return its exit code, or 141 if the reader has gone.

    Python ignores SIGPIPE, and a server must: a client that hangs up is no reason to end.
    """
    try:
        try:
            return work()
        finally:
            _flush(sys.stdout)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _give_up(stream)
        return EXIT_BROKEN_PIPE


def _flush(stream: TextIO | None) -> None:
    """Write out what is left, here and not when the interpreter ends, where nobody could catch the error."""
    if stream is not None and not stream.closed:
        stream.flush()


def _give_up(stream: TextIO | None) -> None:
    """Let a stream that nobody reads lead nowhere: the interpreter will try to write out what is left in it."""
    try:
        _flush(stream)
    except BrokenPipeError:
        assert stream is not None
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
