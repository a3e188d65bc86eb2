"""A small vocabulary as Kimi K2 publishes one, and a plain encoder to hold the library against."""

import base64
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import regex

from router_service.text.tiktoken.format import KIMI, TiktokenFormat
from router_service.text.tiktoken.reserved import ReservedToken
from router_service.text.tiktoken.tokenizer import TiktokenTokenizer

# Bytes in another order than their values, then merges; some reach across the places where text is split.
MERGES = ["he", "ll", "hell", "hello", " h", " hello", "th", "the", " t", " the", "in", "ing", "'s", "e's", "aa"]
MERGES += ["aaaa", "  ", "    ", "\n\n", " \n", "12", "34", "123", "1234", "o ", "s.", "wo", "rld", " wo"]
MERGES += [" world", "Hi", "iH", "'S", "o'S", "I'S"]
# First those across a place of a split, which would be merged first if it were none.
BYTE_MERGES = [before + "文".encode()[:1] for before in (b"E", b"e", b".")] + ["文".encode()[2:] + b"E"]
BYTE_MERGES += ["你".encode()[:2], "你".encode(), "好".encode()[1:], "好".encode(), "你好".encode(), "文".encode()[:2]]
BYTE_MERGES += ["文".encode(), "😀".encode()[:2], "😀".encode()[:3], "é".encode()]
TOKENS = [*(bytes([255 - byte]) for byte in range(256)), *(merge.encode() for merge in MERGES), *BYTE_MERGES]
RANKS = {token: rank for rank, token in enumerate(TOKENS)}
BASE = len(TOKENS)
# Names by their distance from the first reserved id, and whether they are special.
NAMED = {0: ("[BOS]", True), 1: ("[EOS]", True), 2: ("<|im_end|>", True), 3: ("<|im_user|>", True)}
NAMED |= {4: ("<|im_assistant|>", True), 17: ("<|im_middle|>", True), 22: ("</think>", False), 255: ("[PAD]", True)}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_{{ message.role }}|>{{ message.role }}<|im_middle|>"
    "{{ message.content }}<|im_end|>{% endfor %}<|im_assistant|>assistant<|im_middle|>{{ eos_token }}"
)
# As in the published code, for another regular expression engine than the library's (VERSION1 has the && in sets).
PATTERN = regex.compile(
    r"""[\p{Han}]+"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+"""
    r"""|\s+(?!\S)"""
    r"""|\s+""",
    regex.VERSION1,
)


def kimi_tokenizer(format: TiktokenFormat = KIMI) -> TiktokenTokenizer:
    names = {i: NAMED.get(i, (f"<|reserved_token_{BASE + i}|>", True)) for i in range(256)}
    return TiktokenTokenizer(RANKS, {BASE + i: ReservedToken(*name) for i, name in names.items()}, format)


def vocabulary(tokens: Mapping[bytes, int] = RANKS) -> bytes:
    """The lines of a vocabulary file."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokens.items())


def added(content: str, special: bool = True) -> dict[str, object]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "special": special}


def write_kimi(directory: Path, model_type: object = "kimi_k2", file: str = "tiktoken.model") -> Path:
    """Write the text files of a checkpoint of Kimi's kind."""
    directory.mkdir(exist_ok=True)
    (directory / file).write_bytes(vocabulary())
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    config = {
        "added_tokens_decoder": {str(BASE + i): added(*named) for i, named in NAMED.items()},
        "bos_token": "[BOS]",
        "eos_token": {"content": "[EOS]", "special": True},
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "tokenizer_class": "TikTokenTokenizer",
        "chat_template": TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    # Were it ever run, the tests would stop here.
    (directory / "tokenization_kimi.py").write_text("raise SystemExit('code of a checkpoint was run')")
    return directory


def plain_encode(text: str) -> list[int]:
    """Byte pair encoding by its definition: in each piece, the neighbours whose union ranks lowest merge first."""
    ids: list[int] = []
    for piece in PATTERN.findall(text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while unions := [(RANKS[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in RANKS]:
            at = min(unions)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [RANKS[part] for part in parts]
    return ids
