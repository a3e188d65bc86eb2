"""Any value of the files that the Front reads may be any other: understood, or refused by file and key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experts.checkpoint.errors import CheckpointError
from router_service.protocol.inference_pb2 import ModelInfo
from router_service.text.chat import load_chat_template
from router_service.text.checkpoint_files import load_special_tokens
from router_service.text.generation_config import load_defaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.tiktoken.reserved import read_reserved
from tests.support.wrong_values import check_refusal, spoiled
from tests.unit.front.front_fakes import byte_level_tokenizer

TOKENIZER = JsonTokenizer(byte_level_tokenizer())
GENERATION: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "max_new_tokens": 12,
    "eos_token_id": [2, 0],
    "transformers_version": "5.0.0",
}
TOKENS: dict[str, Any] = {
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": {"content": "<|endoftext|>", "special": True, "__type": "AddedToken"},
    "image_token": "<|image|>",
    "model_max_length": 10**30,
    "added_tokens_decoder": {"5": {"content": "<a>", "special": True}, "6": {"content": "<b>"}},
}


def check_all(directory: Path, file: str, config: dict[str, Any], read: Callable[[], object]) -> int:
    """Read each of the spoiled files and return how many are refused."""
    path, refused = directory / file, 0
    for case in spoiled(config):
        path.write_text(json.dumps(case.config))
        try:
            read()
        except CheckpointError as error:
            check_refusal(error, case, str(path))
            refused += 1
    return refused


def test_any_value_of_generation_config(tmp_path: Path) -> None:
    def read() -> None:
        defaults = load_defaults(tmp_path, TOKENIZER)
        assert 0 <= defaults.temperature < 1e31
        ModelInfo(eos_token_ids=defaults.eos_token_ids, context=defaults.max_tokens or 0)

    assert check_all(tmp_path, "generation_config.json", GENERATION, read) > 100


def test_any_end_of_sequence_of_config(tmp_path: Path) -> None:
    assert check_all(tmp_path, "config.json", {"eos_token_id": [1]}, lambda: load_defaults(tmp_path, TOKENIZER)) > 10


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_any_value_of_the_special_tokens(tmp_path: Path, file: str) -> None:
    def read() -> None:
        assert all(isinstance(content, str) for content in load_special_tokens(tmp_path).values())
        load_defaults(tmp_path, TOKENIZER)
        if file == "tokenizer_config.json":
            read_reserved(tmp_path, range(5, 8))

    assert check_all(tmp_path, file, TOKENS, read) > 20


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
def test_any_value_of_the_chat_template(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each template runs in a process of its own, which takes a while to start.
    monkeypatch.setattr("router_service.text.chat.ChatTemplate", lambda sources, *_: "".join(sources.values()).encode())
    template = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    assert check_all(tmp_path, file, {"chat_template": template}, lambda: load_chat_template(tmp_path)) > 20
