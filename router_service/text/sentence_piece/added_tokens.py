"""The tokens that a checkpoint adds to a SentencePiece model, or whose pieces it calls special."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_checks import MAX_SIZE, is_integer, is_valid_unicode
from experts.checkpoint.json_reader import JsonReader, open_json
from experts.host.shown import shown
from router_service.text.checkpoint_files import load_special_tokens


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in a text before the model encodes what lies between.

    `lstrip` and `rstrip` take the white space before and behind it away; a `single_word` has no letter beside it.
    """

    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def read_added(directory: Path, pieces: Mapping[str, int]) -> dict[int, AddedToken]:
    """Return the added tokens of a checkpoint by id; `pieces` are the model's.

    From `added_tokens_decoder` of tokenizer_config.json, and from added_tokens.json of older checkpoints, which does
    not say what is special: those with a name (`eos_token`) and `additional_special_tokens` are.

    Raises:
        CheckpointError: a file is unreadable, or an entry is no id or no token, or two have one content.
    """
    config = open_json(directory / "tokenizer_config.json", optional=True)
    older = open_json(directory / "added_tokens.json", optional=True)
    special = _special_contents(directory, config)
    added = {pieces[content]: AddedToken(content, special=True) for content in special if content in pieces}
    for content, id in older.values.items():
        added[_checked_id(older, content, id)] = AddedToken(_checked_content(older, content), content in special)
    entries = config.object("added_tokens_decoder")
    for key in entries.values:
        added[_id_of(entries, key)] = _token(entries.object(key))
    _check_contents(directory, added)
    return added


def _special_contents(directory: Path, config: JsonReader) -> set[str]:
    """Return what the checkpoint calls special by name."""
    found = set(load_special_tokens(directory).values())
    for reader in (open_json(directory / "special_tokens_map.json", optional=True), config):
        listed = reader.get("additional_special_tokens", default=[])
        entries = listed if isinstance(listed, list) else []
        found |= {text for entry in entries if isinstance(text := _content(entry), str)}
    return found


def _content(entry: Any) -> Any:
    return entry.get("content") if isinstance(entry, dict) else entry


def _id_of(entries: JsonReader, key: str) -> int:
    id = int(key) if key.isdecimal() and len(key) < 10 else -1
    if str(id) != key:  # one spelling for each id
        raise CheckpointError(f"{entries.where}: {entries.name(key)}: the key must be a token id; correct it")
    return _checked_id(entries, key, id)


def _checked_id(reader: JsonReader, key: str, id: object) -> int:
    if not is_integer(id, 0, MAX_SIZE):
        raise reader.error(key, id, f"it must be a token id, 0 to {MAX_SIZE}")
    return int(str(id))


def _checked_content(reader: JsonReader, content: str) -> str:
    if not content or not is_valid_unicode(content):
        raise CheckpointError(f"{reader.where}: {shown(content)} is no token: it must be a text; correct it")
    return content


def _token(entry: JsonReader) -> AddedToken:
    flags = {name: entry.flag(name, False) for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(_checked_content(entry, entry.text("content", default="")), **flags)


def _check_contents(directory: Path, added: Mapping[int, AddedToken]) -> None:
    id_of: dict[str, int] = {}
    for id, token in added.items():
        first = id_of.setdefault(token.content, id)
        if first != id:
            problem = f"added tokens {first} and {id} are both {shown(token.content)}; give each its own content"
            raise CheckpointError(f"{directory / 'tokenizer_config.json'}: {problem}")
