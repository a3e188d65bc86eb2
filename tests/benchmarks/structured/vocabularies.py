"""The vocabularies of the comparison: the bundled model's, and one of 131,072 tokens if it is at hand."""

import base64
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from cluster.config import BUNDLED
from router_service.structured.vocabulary import token_bytes
from router_service.text.tokenizer_files import load_tokenizer

TEKKEN = "tekken_240911.json"
SPECIAL = 1000


def vocabularies() -> Iterator[tuple[str, list[bytes] | None]]:
    """Yield each one's name and the bytes of its tokens; the first is the end of sequence. None: not installed."""
    tokens = token_bytes(load_tokenizer(BUNDLED), 3072)
    yield "bundled, 3,072", tokens
    yield "Tekken, 131,072", _tekken()


def _tekken() -> list[bytes] | None:
    found = find_spec("mistral_common")
    if found is None or found.origin is None:
        return None
    read = json.loads((Path(found.origin).parent / "data" / TEKKEN).read_text())
    size = read["config"]["default_vocab_size"] - SPECIAL
    ranked = [base64.b64decode(entry["token_bytes"]) for entry in read["vocab"][:size]]
    return [b"<s%d>" % number for number in range(SPECIAL)] + ranked
