"""The small text files of a checkpoint directory."""

from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_text as text_within

# Of chat templates: published ones have 20 KB.
MAX_TEXT_BYTES = 1 << 20


def read_text(path: Path) -> str | None:
    """Return the text of `path`, None if there is no such file.

    Raises:
        CheckpointError: it cannot be read, or is too large.
    """
    if not path.exists():
        return None
    try:
        return text_within(path, MAX_TEXT_BYTES)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
