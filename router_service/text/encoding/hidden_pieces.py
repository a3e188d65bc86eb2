"""Models that make a control token of its text by themselves: Unigram finds all of its pieces in a text, `<s>` too."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import Model


def model_without(tokenizer: Tokenizer, controls: Mapping[str, int]) -> Model:
    """Return the model of `tokenizer`, or a copy in which `controls` have texts that nobody can guess."""
    bare = Tokenizer(tokenizer.model)
    for step in ("normalizer", "pre_tokenizer"):
        if (value := getattr(tokenizer, step)) is not None:
            setattr(bare, step, value)
    hidden = set(controls.values()) - {tokenizer.token_to_id(str(getattr(tokenizer.model, "unk_token", None)))}
    if not any(hidden.intersection(bare.encode(text).ids) for text in controls):
        model: Model = tokenizer.model
        return model
    return _renamed(bare, {text: f"\ufdd0{secrets.token_hex(8)}{id}" for text, id in controls.items()})


def _renamed(bare: Tokenizer, names: Mapping[str, str]) -> Model:
    state = json.loads(bare.to_str())
    model: dict[str, Any] = state["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): id for piece, id in vocabulary.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint([*merge, "".join(merge)])]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    renamed: Model = Tokenizer.from_str(json.dumps(state)).model
    return renamed
