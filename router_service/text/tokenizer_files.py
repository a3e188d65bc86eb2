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
    path = directory / "tokenizer.json"
    if path.exists():  # a file or not, which whoever opens it says
        return load_json_tokenizer(path)
    return load_tiktoken_tokenizer(_find_vocabulary(directory))


def _find_vocabulary(directory: Path) -> Path:
    path = directory / "tiktoken.model"
    if path.exists():
        return path
    found = sorted(file for file in directory.glob("*.tiktoken") if file.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise CheckpointError(f"{directory}: {len(found)} tiktoken vocabularies ({names}); leave the model's own one")
    missing = "no such file, nor tiktoken.model or one *.tiktoken beside it"
    raise CheckpointError(f"{directory / 'tokenizer.json'}: {missing}; a checkpoint needs its tokenizer")
