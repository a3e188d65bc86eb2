"""The deployment's secret: fixed bytes, or a file with the secret on the first line and maybe the previous one below.

Rotation without a restart: write the new secret above the old one, wait until every process has read it (a second,
plus what the platform needs to bring the file to each node), then remove the old line.
"""

import time
from collections.abc import Callable
from pathlib import Path

from experts.host.watched_files import WatchedFiles

# The new one and the previous one, while it is rotated.
MAX_SECRETS = 2
MIN_SECRET_CHARACTERS = 16


class SecretFile:
    """The secrets of a file, read again when it changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read `path`; by `clock` it is looked at once a second.

        Raises:
            ValueError: see `read_secrets`.
        """
        self._file = WatchedFiles(f"cluster.secret_file {path}", [path], lambda: read_secrets(path), clock)

    def current(self) -> tuple[bytes, ...]:
        """The secrets that are valid now, the newest first."""
        return self._file.current()


Secret = bytes | SecretFile


def good_secrets(secret: Secret) -> tuple[bytes, ...]:
    """The secrets that a peer may prove now, the newest first."""
    return (secret,) if isinstance(secret, bytes) else secret.current()


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Return the secrets of a file, one a line, the newest first; blank lines do not count.

    Raises:
        ValueError: it cannot be read, or does not hold one or two secrets of at least 16 characters.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ValueError(f"cluster.secret_file: {path}: cannot be read: {error.strerror}") from error
    secrets = tuple(line for line in lines if line)
    if not 1 <= len(secrets) <= MAX_SECRETS:
        rule = "it must hold the secret on one line, and during a rotation the previous one on a second"
        raise ValueError(f"cluster.secret_file: {path}: holds {len(secrets)} secrets; {rule}")
    if any(len(secret) < MIN_SECRET_CHARACTERS for secret in secrets):
        rule = f"use at least {MIN_SECRET_CHARACTERS}, for instance of `openssl rand -hex 32`"
        raise ValueError(f"cluster.secret_file: {path}: a secret has too few characters; {rule}")
    return secrets
