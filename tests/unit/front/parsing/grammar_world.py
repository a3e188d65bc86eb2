"""A small vocabulary with the forms' markers, and what a grammar accepts over it."""

from functools import cache

from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers

from router_service.protocol.messages import Structured
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


class Source:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: JsonTokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.bytes_of(id) for id in range(256 + len(tokenizer.special_ids) + 64)]
        self.eos_token_id = tokenizer.id_of(END)
        self.special_token_ids = sorted(tokenizer.special_ids)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


@cache
def vocabulary_of(tokenizer: JsonTokenizer) -> LLTokenizer:
    """Return a tokenizer's vocabulary in the form of llguidance."""
    return LLTokenizer(Source(tokenizer))  # type: ignore[arg-type]


def compiled(tokenizer: JsonTokenizer, structured: Structured) -> LLMatcher:
    """Compile a Lark grammar."""
    assert structured.kind == "grammar"
    matcher = LLMatcher(vocabulary_of(tokenizer), LLMatcher.grammar_from_lark(structured.text), log_level=0)
    assert not matcher.is_error(), matcher.get_error() + structured.text
    return matcher


def accepts(tokenizer: JsonTokenizer, structured: Structured, text: str) -> bool:
    """Return whether `text` as a whole is accepted."""
    matcher = compiled(tokenizer, structured)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
