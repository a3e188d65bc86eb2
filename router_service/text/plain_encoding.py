"""Encodes text in which nobody may write a marker: `<|im_start|>` in a user's message is ordinary text.

The library recognizes added tokens in every text, and its switch for that belongs to a tokenizer, not to a call. So a
second tokenizer encodes such text. It shares the model of the first one, which is nearly all of the memory.
"""

import json
import re
import secrets
from typing import Any

from tokenizers import Tokenizer

# Markers that some tokenizers do not call special: DeepSeek-V3 has the turns of a conversation so.
MARKER = re.compile(r"<[|\uff5c].+[|\uff5c]>", re.DOTALL)
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def is_marker(content: str, special: bool) -> bool:
    """Whether an added token structures a prompt. Others (`<table>`, runs of spaces) are words of the vocabulary."""
    return special or MARKER.fullmatch(content) is not None


def plain_twin(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the ids of `tokenizer` that encodes the text of a marker as ordinary text."""
    twin = _sharing(tokenizer)
    return twin if _is_plain(twin, tokenizer) else _renamed(tokenizer)


def _sharing(tokenizer: Tokenizer) -> Tokenizer:
    twin = Tokenizer(tokenizer.model)
    for part in PARTS:
        if (value := getattr(tokenizer, part)) is not None:
            setattr(twin, part, value)
    for _, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        # Added even if they are not recognized: the ids of the others follow theirs.
        add = twin.add_special_tokens if is_marker(token.content, token.special) else twin.add_tokens
        add([token])
    twin.encode_special_tokens = True
    return twin


def _is_plain(twin: Tokenizer, tokenizer: Tokenizer) -> bool:
    """Whether `twin` has the ids of `tokenizer`, and its model makes no marker of a marker's text by itself."""
    added = tokenizer.get_added_tokens_decoder()
    if {id: token.content for id, token in added.items()} != _contents(twin):
        return False
    markers = {token.content: id for id, token in added.items() if is_marker(token.content, token.special)}
    unknown = tokenizer.token_to_id(str(getattr(tokenizer.model, "unk_token", None)))
    hidden = set(markers.values()) - {unknown}
    return not any(hidden.intersection(twin.encode(text, add_special_tokens=False).ids) for text in markers)


def _contents(tokenizer: Tokenizer) -> dict[int, str]:
    return {id: token.content for id, token in tokenizer.get_added_tokens_decoder().items()}


def _renamed(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy whose markers have names that no text has: Unigram models find all of their pieces in a text."""
    state = json.loads(tokenizer.to_str())
    added = [token for token in state["added_tokens"] if is_marker(token["content"], token["special"])]
    salt = secrets.token_hex(8)
    names = {token["content"]: f"\ufdd0{salt}{token['id']}" for token in added}
    for token in added:
        token["content"] = names[token["content"]]
    _rename(state["model"], names)
    return Tokenizer.from_str(json.dumps(state))


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): id for piece, id in vocabulary.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if "".join(merge) not in names]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
