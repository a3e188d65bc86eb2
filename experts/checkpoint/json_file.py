"""Reads a checkpoint's JSON file, which is untrusted: bounded in size, an object, no key twice."""

import json
from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import MAX_JSON_BYTES, read_text
from experts.host.unique_keys import unique_keys


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice.

    Raises:
        CheckpointError: no such file, not JSON, or not an object.
    """
    try:
        value = json.loads(read_text(file, MAX_JSON_BYTES), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise CheckpointError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}, not a JSON object")
    return value
