"""A command whose reader has gone, such as `head`, ends silently."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TextIO

from cluster.cli.failing import fail

# 128 + SIGPIPE: what a shell reports of a process that this signal ended.
EXIT_BROKEN_PIPE = 141


def end_on_broken_pipe(work: Callable[[], int]) -> int:
    """Run `work` and write out all that it printed; return its exit code, or 141 if the reader has gone.

    Python ignores SIGPIPE, and a server must: a client that hangs up is no reason to end. Output that
    cannot be written otherwise, as on a full disk, is an error in one line.
    """
    try:
        try:
            return work()
        finally:
            _flush(sys.stdout)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _discard(stream)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _discard(sys.stdout)
        return fail(str(error))


def _flush(stream: TextIO | None) -> None:
    """Write out what is left, here and not when the interpreter ends, where nobody could catch the error."""
    if stream is not None and not stream.closed:
        stream.flush()


def _discard(stream: TextIO | None) -> None:
    """Redirect a stream that nobody reads to /dev/null: the interpreter flushes it again when it ends."""
    try:
        _flush(stream)
    except OSError:
        assert stream is not None
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
