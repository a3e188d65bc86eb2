"""A tokenizer that has all markers of the tests' templates, and a checkpoint with one of these templates."""

import json
import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from router_service.text.text_model import TextModel, load_text_model
from tests.unit.front.front_fakes import byte_level_tokenizer
from tests.unit.text.family_templates import FAMILIES

NAMED = {"bos_token": "<|begin|>", "eos_token": "<|end_of_text|>", "pad_token": "<|endoftext|>"}
# DeepSeek's roles and everybody's tags are added tokens that are not special.
MARKERS = re.compile(r"<\|[a-z_]+\|>|<\uff5c[A-Za-z]+\uff5c>|\[/?[A-Z_]+\]|\[gMASK\]")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")


@cache
def family_tokenizer() -> Tokenizer:
    tokenizer = byte_level_tokenizer()
    found = sorted({*NAMED.values(), *(marker for source in FAMILIES.values() for marker in MARKERS.findall(source))})
    for marker in found:
        tokenizer.add_tokens([AddedToken(marker, special="\uff5c" not in marker, normalized=False)])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def write_family(directory: Path, family: str) -> Path:
    """Write the text files of a checkpoint."""
    directory.mkdir(exist_ok=True)
    family_tokenizer().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(FAMILIES[family])
    return directory


def load_family(directory: Path, family: str) -> TextModel:
    return load_text_model(write_family(directory, family))
