"""A tiktoken vocabulary file: a token's bytes in base64 and its rank on each line.

The package's own reader caches a copy of every file, local ones too, by path alone, and does not report which line is
invalid. So the file is read here.
"""

import base64
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_bytes

# The largest published ones have 4 MB.
MAX_VOCABULARY_BYTES = 64 << 20
SHOWN_BYTES = 60
REMEDY = "fetch the file again"


def read_ranks(path: Path) -> dict[bytes, int]:
    """Return the rank of each token. The ranks are 0 to their number less 1, and every byte is a token.

    Raises:
        CheckpointError: the file cannot be read, or is not a valid vocabulary.
    """
    try:
        lines = read_bytes(path, MAX_VOCABULARY_BYTES).splitlines()
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    ranks: dict[bytes, int] = {}
    line_of: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        if line:
            _add(f"{path}: line {number}", number, line, ranks, line_of)
    _check_holes(path, line_of)
    _check_bytes(path, ranks)
    return ranks


def _add(where: str, number: int, line: bytes, ranks: dict[bytes, int], line_of: dict[int, int]) -> None:
    """Add what `line` says to `ranks`, and its `number` to the lines by rank."""
    token, rank = _parse(where, line)
    if token in ranks:
        raise CheckpointError(f"{where}: token {_shown(token)} is on line {line_of[ranks[token]]} too; {REMEDY}")
    if rank in line_of:
        raise CheckpointError(f"{where}: rank {rank} is on line {line_of[rank]} too; {REMEDY}")
    ranks[token] = rank
    line_of[rank] = number


def _parse(where: str, line: bytes) -> tuple[bytes, int]:
    try:
        encoded, digits = line.split()
        token = base64.b64decode(encoded, validate=True)
        if not token or not digits.isdigit():
            raise ValueError
        return token, int(digits)
    except ValueError as error:
        expected = "expected a token in base64 and its rank"
        raise CheckpointError(f"{where}: {expected}, found {_shown(line)}; {REMEDY}") from error


def _check_holes(path: Path, line_of: dict[int, int]) -> None:
    for expected, rank in enumerate(sorted(line_of)):
        if rank != expected:
            problem = f"rank {rank}, but no line has rank {expected}"
            raise CheckpointError(f"{path}: line {line_of[rank]}: {problem}; {REMEDY}")


def _check_bytes(path: Path, ranks: dict[bytes, int]) -> None:
    # Text with a byte that is no token could not be encoded.
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        problem = f"{len(ranks)} lines, but {len(missing)} of the 256 bytes are no token, 0x{missing[0]:02X} the first"
        raise CheckpointError(f"{path}: {problem}; {REMEDY}")


def _shown(value: bytes) -> str:
    return repr(value[:SHOWN_BYTES]) + ("..." if len(value) > SHOWN_BYTES else "")
