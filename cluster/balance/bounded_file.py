"""A file of the user's that is read as a whole, if it is not far too large to be what it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Read = TypeVar("Read")


def load(file: Path, most_bytes: int, read: Callable[[bytes], Read], error: type[ValueError]) -> Read:
    """Return what `read` makes of the file's bytes, of which it gets at most one more than `most_bytes`.

    Raises:
        ValueError: of the type `error`, naming the file: it cannot be opened, or `read` has raised an `error`.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(most_bytes + 1)
    except OSError as fault:
        raise error(f"{file}: cannot be read: {fault.strerror or fault}") from fault
    try:
        return read(content)
    except error as fault:
        raise error(f"{file}: {fault}") from fault
