"""How commands say what is wrong: one line on stderr, and an exit code."""

import sys

EXIT_FAILED = 1  # nothing is wrong with what was asked, and another try may do
EXIT_ERROR = 2  # as argparse's own
EXIT_INTERRUPTED = 130  # 128 + SIGINT


def fail(message: str, code: int = EXIT_ERROR) -> int:
    """Print an error and return its exit code."""
    print(f"expertmesh: {one_line(message)}", file=sys.stderr)
    return code


def one_line(text: str) -> str:
    """Return `text` without line breaks, and with what a terminal would obey made visible: it may quote a stranger."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
