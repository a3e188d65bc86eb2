"""A small vocabulary with the forms' markers, and what a grammar accepts over it."""

from collections.abc import Callable
from functools import cache

from llguidance import LLTokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers

from router_service.protocol.messages import Structured
from router_service.structured.grammar import compiled
from router_service.structured.vocabulary import source_of
from router_service.text.json_tokenizer import JsonTokenizer

END = "<|endoftext|>"


def tokenizer_with(*markers: str, special: bool = True) -> JsonTokenizer:
    """Return a tokenizer of bytes and these markers."""
    vocabulary = {character: id for id, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = HuggingFaceTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    (made.add_special_tokens if special else made.add_tokens)(list(markers))
    return JsonTokenizer(made)


@cache
def vocabulary_of(tokenizer: JsonTokenizer) -> LLTokenizer:
    """Return a tokenizer's vocabulary in the form of llguidance."""
    end = tokenizer.id_of(END)
    assert end is not None
    return source_of(tokenizer, 256 + len(tokenizer.special_ids) + 64, [end]).vocabulary


def accepts(tokenizer: JsonTokenizer, structured: Structured, text: str) -> bool:
    """Return whether `text` as a whole is accepted."""
    matcher = compiled(structured, vocabulary_of(tokenizer))
    ids = tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def walk(tokenizer: JsonTokenizer, structured: Structured, choose: Callable[[list[int]], int], most: int = 500) -> str:
    """Return a text that the grammar accepts, of tokens that `choose` picks; "" if that takes over `most`."""
    matcher, end = compiled(structured, vocabulary_of(tokenizer)), tokenizer.id_of(END)
    ids: list[int] = []
    while len(ids) < most:
        mask = matcher.compute_bitmask()
        allowed = [id for id in range(8 * len(mask)) if mask[id >> 3] >> (id & 7) & 1]
        if end in allowed:
            return tokenizer.decode(ids, skip_special_tokens=False)
        ids.append(choose(allowed))
        assert matcher.consume_token(ids[-1]), matcher.get_error()
    return ""
