"""Reads a tekken.json: ids are those of the special tokens, then the ranks of a tiktoken vocabulary.

The format is that of mistral-common (`mistral_common.tokens.tokenizers.tekken`): a file may have more tokens than the
model, whose number is `default_vocab_size`, and fewer special tokens than `default_num_special_tokens`.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import JsonReader, open_json
from experts.host.shown import shown

# Of files up to version v7, which do not list their special tokens.
FIRST_SPECIAL: tuple[str, ...] = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
)
FIRST_SPECIAL += ("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]")
FIRST_SPECIAL += ("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]")
UNLISTED_VERSIONS = ("v1", "v2", "v3", "v7")


@dataclass(frozen=True, slots=True)
class TekkenFile:
    """`pattern` splits a text; `special` and `ranks` are in the order of their ids, the special tokens first."""

    pattern: str
    special: tuple[str, ...]
    ranks: dict[bytes, int]


def read_tekken(path: Path) -> TekkenFile:
    """Read the file at `path`.

    Raises:
        CheckpointError: it cannot be read, or is no valid vocabulary.
    """
    file = open_json(path)
    config = file.object("config")
    size = config.positive("default_vocab_size")
    count = config.integer("default_num_special_tokens", default=0, most=size - 1)
    pattern = config.text("pattern", default="")
    if not pattern:
        raise config.error("pattern", pattern, "it must be the regular expression that splits a text")
    return TekkenFile(pattern, _special(file, config, count), _ranks(file, size - count))


def _special(file: JsonReader, config: JsonReader, count: int) -> tuple[str, ...]:
    entries = file.get("special_tokens")
    if entries is None:
        version = config.text("version", default="")
        if version not in UNLISTED_VERSIONS:
            raise file.error("special_tokens", None, f"a file of version {shown(version)} must list them")
        entries = [{"rank": rank, "token_str": token} for rank, token in enumerate(FIRST_SPECIAL[:count])]
    if not isinstance(entries, list):
        raise file.error("special_tokens", entries, "it must be a list")
    names = [_name(file, rank, entry) for rank, entry in enumerate(entries)]
    names += [f"<SPECIAL_{rank}>" for rank in range(len(names), count)]
    if len(names) > count or len(set(names)) != len(names):
        raise file.error("special_tokens", entries, f"it must list at most {count} tokens, each once")
    return tuple(names)


def _name(file: JsonReader, rank: int, entry: object) -> str:
    name = entry.get("token_str") if isinstance(entry, dict) and entry.get("rank") == rank else None
    if not isinstance(name, str) or not name:
        raise file.error(f"special_tokens[{rank}]", entry, f"it must have the rank {rank} and a token_str")
    return name


def _ranks(file: JsonReader, size: int) -> dict[bytes, int]:
    entries = file.get("vocab")
    if not isinstance(entries, list) or len(entries) < size:
        raise file.error("vocab", entries, f"it must list at least {size} tokens, as config says; fetch the file again")
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(entries[:size]):
        token = _bytes(file, rank, entry)
        if ranks.setdefault(token, rank) != rank:
            raise file.error(f"vocab[{rank}]", entry, f"it is vocab[{ranks[token]}] again; fetch the file again")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise CheckpointError(f"{file.where}: vocab: byte 0x{missing[0]:02X} is no token; fetch the file again")
    return ranks


def _bytes(file: JsonReader, rank: int, entry: object) -> bytes:
    try:
        assert isinstance(entry, dict)
        token = base64.b64decode(entry["token_bytes"], validate=True)
        assert token
        assert entry["rank"] == rank
    except (AssertionError, KeyError, TypeError, ValueError):
        problem = f"it must have the rank {rank} and token_bytes in base64; fetch the file again"
        raise file.error(f"vocab[{rank}]", entry, problem) from None
    return token
