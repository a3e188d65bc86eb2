"""The shapes of published models that come with ExpertMesh: facts of their config.json by name, without weights."""

from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_file import read_json

# In an installed wheel, and in a checkout.
PLACES = (Path(__file__).parents[1] / "models", Path(__file__).parents[2] / "deploy" / "models")


def published_names() -> list[str]:
    """The names, sorted."""
    return sorted({file.stem for place in PLACES for file in place.glob("*.json")})


def published_config(name: str) -> tuple[dict[str, Any], str]:
    """Return the configuration of a published model and the file that errors name.

    Raises:
        CheckpointError: no model of this name.
    """
    if name in published_names():  # and not by building a path from it: a name may contain slashes
        file = next(file for place in PLACES if (file := place / f"{name}.json").is_file())
        return read_json(file), str(file)
    known = ", ".join(published_names())
    raise CheckpointError(
        f"{name}: neither a checkpoint directory nor a known model; give a directory or one of {known}"
    )
