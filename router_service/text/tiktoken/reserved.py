"""The ids that follow a tiktoken vocabulary's ranks, as tokenizer_config.json names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import open_json
from experts.host.shown import shown


@dataclass(frozen=True, slots=True)
class ReservedToken:
    """A token that no merge produces. If not `special` it appears in the text of an answer, as `</think>` does."""

    content: str
    special: bool


def read_reserved(directory: Path, ids: range) -> dict[int, ReservedToken]:
    """Return the tokens of all of `ids`; one that `added_tokens_decoder` does not name is `<|reserved_token_ID|>`.

    Raises:
        CheckpointError: tokenizer_config.json is unreadable, or names another id, or two ids alike.
    """
    path = directory / "tokenizer_config.json"
    named = open_json(path, optional=True).object("added_tokens_decoder").values
    where = f"{path}: added_tokens_decoder"
    tokens = {id: ReservedToken(f"<|reserved_token_{id}|>", special=True) for id in ids}
    for key, entry in named.items():
        tokens[_id(where, key, ids)] = _token(f"{where}: {key}", entry)
    _check_contents(where, tokens)
    return tokens


def _id(where: str, key: str, ids: range) -> int:
    id = int(key) if key.isdecimal() and len(key) < 10 else -1
    # One spelling for each id, so that no two keys mean the same.
    if id < 0 or str(id) != key:
        raise CheckpointError(f"{where}: {shown(key)}: expected a token id, such as '{ids[0]}'; correct the key")
    if id not in ids:
        problem = "is an id of the vocabulary file" if id < ids[0] else "is out of range"
        remedy = f"added tokens are {ids[0]} to {ids[-1]}; fetch both files of the same model"
        raise CheckpointError(f"{where}: {key} {problem}: {remedy}")
    return id


def _token(where: str, entry: object) -> ReservedToken:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    special = entry.get("special", False) if isinstance(entry, Mapping) else None
    if not isinstance(content, str) or not content or not isinstance(special, bool):
        raise CheckpointError(
            f"{where}: expected a content and whether it is special, found {shown(entry)}; correct it"
        )
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise CheckpointError(f"{where}: content {shown(content)} has half a surrogate pair and is no text; correct it")
    return ReservedToken(content, special)


def _check_contents(where: str, tokens: Mapping[int, ReservedToken]) -> None:
    id_of: dict[str, int] = {}
    for id, token in tokens.items():
        first = id_of.setdefault(token.content, id)
        if first != id:
            raise CheckpointError(
                f"{where}: {first} and {id} are both {shown(token.content)}; give each its own content"
            )
