"""Finds and loads the tokenizer of a checkpoint directory."""

from collections.abc import Callable, Mapping
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from router_service.text.tokenizer import Tokenizer


# Each imports its own library only when it is needed: a router serves without any.
def _json(path: Path) -> Tokenizer:
    from router_service.text.json_tokenizer import load_json_tokenizer

    return load_json_tokenizer(path)


def _tiktoken(path: Path) -> Tokenizer:
    from router_service.text.tiktoken.tokenizer import load_tiktoken_tokenizer

    return load_tiktoken_tokenizer(path)


def _tekken(path: Path) -> Tokenizer:
    from router_service.text.tekken.tokenizer import load_tekken_tokenizer

    return load_tekken_tokenizer(path)


def _sentencepiece(path: Path) -> Tokenizer:
    from router_service.text.sentence_piece.tokenizer import load_sentencepiece_tokenizer

    return load_sentencepiece_tokenizer(path)


# By which a tokenizer is found, the first that exists.
LOADERS: Mapping[str, Callable[[Path], Tokenizer]] = {
    "tokenizer.json": _json,
    "tiktoken.model": _tiktoken,
    "*.tiktoken": _tiktoken,
    "tekken.json": _tekken,
    "tokenizer.model": _sentencepiece,
}


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load the tokenizer of `directory` from the first file of `LOADERS` that is there.

    Raises:
        CheckpointError: there is none, or more than one vocabulary, or the file is invalid.
    """
    path = find_tokenizer(directory)
    if path is None:
        missing = "no such file, nor tiktoken.model, one *.tiktoken, tekken.json or tokenizer.model beside it"
        raise CheckpointError(f"{directory / 'tokenizer.json'}: {missing}; a checkpoint needs its tokenizer")
    return LOADERS.get(path.name, _tiktoken)(path)


def find_tokenizer(directory: Path) -> Path | None:
    """Return the file that `load_tokenizer` loads, None if there is none.

    Raises:
        CheckpointError: there are several vocabularies, and no telling which one is the model's.
    """
    for name in LOADERS:
        # A name may be a file or not, which whoever opens it says.
        found = sorted(directory.glob(name)) if "*" in name else [directory / name]
        there = [path for path in found if (path.is_file() if "*" in name else path.exists())]
        if len(there) > 1:
            names = ", ".join(file.name for file in there)
            problem = f"{len(there)} tiktoken vocabularies ({names}); leave the model's own one"
            raise CheckpointError(f"{directory}: {problem}")
        if there:
            return there[0]
    return None
