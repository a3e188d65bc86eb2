"""A file that is written once its contents are there, but whose place is tried before."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def saved_to(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes the file's text, whole or not at all; without a path it does nothing.

    What cannot be written there is an error before anything else is begun.

    Raises:
        OSError: it cannot be written.
    """
    if path is None:
        yield lambda _: None
        return
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield lambda text: _put(part, path, text)
    finally:
        part.unlink(missing_ok=True)


def _put(part: Path, path: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
    part.replace(path)
