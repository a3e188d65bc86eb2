"""The small text and JSON files of a checkpoint directory."""

import json
from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import MAX_JSON_BYTES
from experts.checkpoint.files import read_text as text_within

# Of chat templates: published ones have 20 KB.
MAX_TEXT_BYTES = 1 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; an absent file is an empty object.

    Raises:
        CheckpointError: it cannot be read, is too large, or is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(text_within(path, MAX_JSON_BYTES))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_text(path: Path) -> str | None:
    """Return the text of `path`, None where there is no such file.

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
