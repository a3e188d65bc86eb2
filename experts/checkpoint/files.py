"""How the files of a checkpoint directory are opened: they are untrusted data, of any size and kind.

Symbolic links are followed: Hugging Face's own cache consists of links out of the directory. Whoever can put a link
there can put the file as well; what is read goes into tensors, a tokenizer or a template, and is never sent out as is.
"""

import stat
from pathlib import Path

from experts.checkpoint.errors import CheckpointError

# Of configurations and indices: the largest published index has 15 MB, and Python needs up to 24 times a file's size.
MAX_JSON_BYTES = 64 << 20


def check_file(path: Path, most: int) -> None:
    """Look at a file before it is read.

    Raises:
        CheckpointError: it is no ordinary file (a device has no end, a pipe may never begin), or has over `most` bytes.
        FileNotFoundError: there is none.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path}: no ordinary file")
    if found.st_size > most:
        raise CheckpointError(f"{path}: has {found.st_size} bytes, at most {most} ({most >> 20} MiB) are read")


def read_bytes(path: Path, most: int) -> bytes:
    """Return what a file holds, at most `most` bytes even if it grows meanwhile.

    Raises:
        CheckpointError, FileNotFoundError: see `check_file`.
    """
    check_file(path, most)
    with path.open("rb") as stream:
        return stream.read(most)  # the size was checked before, and the file may grow


def read_text(path: Path, most: int) -> str:
    """Return the text of a UTF-8 file; see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")
