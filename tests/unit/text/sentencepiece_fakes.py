"""Small SentencePiece models, trained in a moment."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece

SENTENCES = ["hello world the quick brown fox", "the lazy dog says hello again", "a b  c d", "x = y + 1; return x"] * 40
PIECES = {"user_defined_symbols": ["<mask>", "<sep>"], "control_symbols": ["<ctl>", "<|im_start|>"]}
# As Llama's model is made: texts are kept as they are.
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@cache
def model(kind: str = "bpe", prefixed: bool = True, fallback: bool = True, identity: bool = True) -> bytes:
    """The file of a model: `fallback` to bytes for what is not in its vocabulary, else it is unknown."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type=kind,
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=fallback,
        add_dummy_prefix=prefixed,
        minloglevel=2,
        **PIECES,
        **(IDENTITY if identity else {}),
    )
    return written.getvalue()


def write_model(directory: Path, content: bytes, **config: object) -> Path:
    """Write a checkpoint's tokenizer.model and tokenizer_config.json."""
    (directory / "tokenizer.model").write_bytes(content)
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(named | config))
    return directory
