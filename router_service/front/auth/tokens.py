"""Bearer tokens, with their roles and limits. The file holds only their hashes.

A token is 256 random bits, so one SHA-256 suffices against guessing. A password chosen by a person would need a slow
hash, so create tokens by `new_token`.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml

from experts.host.unique_keys import DuplicateKeyError, load_yaml, unique_keys

NAME_CHARACTERS = 64
TOKEN_PREFIX = "em_"


class Role(StrEnum):
    """What a token allows; `admin` includes `inference`."""

    INFERENCE = "inference"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, and the limits of all its calls together; None is no limit."""

    name: str
    role: Role
    max_concurrent_streams: int | None = None
    requests_per_minute: int | None = None
    max_request_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """An entry of the file. The token is refused from `expires` on."""

    digest: bytes
    caller: Caller
    expires: datetime | None


class _Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An entry as written in the file."""

    name: str
    sha256: str
    role: Role
    max_concurrent_streams: int | None = None
    requests_per_minute: int | None = None
    max_request_bytes: int | None = None
    expires: str | None = None


def new_token(name: str, role: Role) -> tuple[str, str]:
    """Return a new token, and its line for the file.

    Raises:
        ValueError: the name is invalid.
    """
    _check_name(name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, json.dumps({"name": name, "sha256": digest_of(token).hex(), "role": str(role)})


def digest_of(token: str) -> bytes:
    """Return the hash by which a token is known."""
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).digest()


def find_token(tokens: Sequence[Token], presented: str) -> Token | None:
    """Return the entry of a presented token. Takes as long whichever entry it is, or none."""
    digest, found = digest_of(presented), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a tokens file: a YAML list of entries, or one JSON object a line.

    Raises:
        ValueError: it cannot be read or an entry is wrong; the message names file, entry and field.
    """
    where = f"front.tokens_file: {path}"
    try:
        text = path.read_text(encoding="utf-8")
        entries = _json_lines(text) if text.lstrip().startswith("{") else load_yaml(text) or []
    except OSError as error:
        raise ValueError(f"{where}: cannot be read: {error.strerror}") from error
    except DuplicateKeyError as error:
        raise ValueError(f"{where}: {error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{where}: neither YAML nor JSON lines: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{where}: must be a list of entries, each with name, sha256 and role")
    tokens = tuple(_token(f"{where}: entry {index}", entry) for index, entry in enumerate(entries, start=1))
    _check_unique(where, tokens)
    return tokens


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line, object_pairs_hook=unique_keys) for line in text.splitlines() if line.strip()]


def _token(where: str, written: Any) -> Token:
    try:
        entry = msgspec.convert(_with_plain_dates(written), _Entry)
        _check_name(entry.name)
        _check_limits(entry)
        return Token(_digest(entry.sha256), _caller(entry), _expiry(entry.expires))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _with_plain_dates(written: Any) -> Any:
    """YAML reads a date where JSON has its text."""
    if not isinstance(written, dict):
        return written
    return {key: value.isoformat() if isinstance(value, date) else value for key, value in written.items()}


def _caller(entry: _Entry) -> Caller:
    return Caller(
        name=entry.name,
        role=entry.role,
        max_concurrent_streams=entry.max_concurrent_streams,
        requests_per_minute=entry.requests_per_minute,
        max_request_bytes=entry.max_request_bytes,
    )


def _check_name(name: str) -> None:
    if not name.isprintable() or not 1 <= len(name) <= NAME_CHARACTERS:
        raise ValueError(f"name: must be 1 to {NAME_CHARACTERS} printable characters, is {name[:NAME_CHARACTERS]!r}")


def _check_limits(entry: _Entry) -> None:
    for field in ("max_concurrent_streams", "requests_per_minute", "max_request_bytes"):
        if (value := getattr(entry, field)) is not None and value < 1:
            raise ValueError(f"{field}: must be at least 1, is {value}; leave it out for no limit")


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size or len(text) != 2 * len(digest):
        # Not shown: somebody may have written the token itself here.
        raise ValueError(
            "sha256: must be the 64 hexadecimal digits of the token's SHA-256, as `expertmesh token` prints"
        )
    return digest


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expires: must be a date like 2030-01-31, or a time of ISO 8601, is {text!r}") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _check_unique(where: str, tokens: Sequence[Token]) -> None:
    for field, values in (
        ("name", [token.caller.name for token in tokens]),
        ("sha256", [token.digest.hex() for token in tokens]),
    ):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ValueError(f"{where}: {field} {twice!r} stands there twice")
