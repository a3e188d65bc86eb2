"""How the files of a checkpoint directory are opened: they are untrusted data, of any size and kind.

Symbolic links are followed: Hugging Face's own cache consists of links out of the directory. Whoever can put a link
there can put the file as well; what is read goes into tensors, a tokenizer or a template, and is never sent out as is.
"""

import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from experts.checkpoint.errors import CheckpointError

# Of configurations and indices: the largest published index has 15 MB, and Python needs up to 24 times a file's size.
MAX_JSON_BYTES = 64 << 20
# The first bytes of a pointer file, which stands for one that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path, most: int | None = None) -> BufferedReader:
    """Open a file for reading. It never waits, whatever the name stands for.

    Raises:
        CheckpointError: it is no ordinary file (a device has no end, a pipe may never begin), or has over `most` bytes.
        FileNotFoundError: there is none.
    """
    # Before the open, which can make a device do something; and after it, as the name may stand for another by then.
    _check(path, path.stat(), most)
    file: BufferedReader = BufferedReader(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)))
    try:
        _check(path, os.fstat(file.fileno()), most)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, most: int) -> bytes:
    """Return what a file holds, at most `most` bytes even if it grows meanwhile.

    Raises:
        CheckpointError, FileNotFoundError: see `open_file`; or it is a pointer of Git LFS.
    """
    with open_file(path, most) as file:
        content = file.read(most)
    check_fetched(path, content, "the file itself")
    return content


def check_fetched(path: Path, beginning: bytes, what: str) -> None:
    """Refuse a file that begins as a pointer of Git LFS in place of `what`.

    Raises:
        CheckpointError: it is one.
    """
    if beginning.startswith(LFS_POINTER):
        raise CheckpointError(f"{path}: a pointer of Git LFS, not {what}: run `git lfs pull` where it was cloned")


def _check(path: Path, found: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(found.st_mode)), "something else")
        raise CheckpointError(f"{path}: no ordinary file: it is {kind}")
    if most is not None and found.st_size > most:
        raise CheckpointError(f"{path}: has {found.st_size} bytes, at most {most} ({most >> 20} MiB) are read")


def read_text(path: Path, most: int) -> str:
    """Return the text of a UTF-8 file; see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")
