"""Paths as users write them: `~` is a home directory."""

from pathlib import Path

from experts.host.shown import shown


def user_path(text: str, name: str) -> Path:
    """Return the absolute path that `text` means; `name` says in errors what it is a path of.

    Raises:
        ValueError: it can be none: a user without a home directory, a NUL in it, links that lead in a circle.
    """
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is {shown(text)}, which is no path here: {error}") from error
