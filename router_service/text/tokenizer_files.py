"""Finds and loads the tokenizer of a checkpoint directory."""

from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from router_service.text.json_tokenizer import load_json_tokenizer
from router_service.text.tiktoken.tokenizer import load_tiktoken_tokenizer
from router_service.text.tokenizer import Tokenizer


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load tokenizer.json of `directory`, or its tiktoken vocabulary if there is none.

    Raises:
        CheckpointError: there is neither, or more than one vocabulary, or the file is invalid.
    """
    path = find_tokenizer(directory)
    if path is None:
        missing = "no such file, nor tiktoken.model or one *.tiktoken beside it"
        raise CheckpointError(f"{directory / 'tokenizer.json'}: {missing}; a checkpoint needs its tokenizer")
    return load_json_tokenizer(path) if path.name == "tokenizer.json" else load_tiktoken_tokenizer(path)


def find_tokenizer(directory: Path) -> Path | None:
    """Return the file that `load_tokenizer` loads, None if there is none.

    Raises:
        CheckpointError: there are several vocabularies, and no telling which one is the model's.
    """
    for name in ("tokenizer.json", "tiktoken.model"):
        path = directory / name
        if path.exists():  # a file or not, which whoever opens it says
            return path
    found = sorted(file for file in directory.glob("*.tiktoken") if file.is_file())
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise CheckpointError(f"{directory}: {len(found)} tiktoken vocabularies ({names}); leave the model's own one")
    return found[0] if found else None
