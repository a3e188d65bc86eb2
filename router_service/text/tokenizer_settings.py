"""What clients ask of a tokenizer that is not here: the names of its special tokens, and the chat template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts.checkpoint.json_reader import open_json
from router_service.text.chat import DEFAULT, ChatTemplate
from router_service.text.checkpoint_files import load_special_tokens

FLAGS = ("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces")


def load_tokenizer_settings(directory: Path, chat: ChatTemplate | None) -> Mapping[str, Any]:
    """Return the settings of tokenizer_config.json that describe text: `tokenizer_class`, `eos_token` and the others,
    flags, `model_max_length`, and as `chat_template` the one in use.

    Raises:
        CheckpointError: a file is unreadable.
    """
    reader = open_json(directory / "tokenizer_config.json", optional=True)
    settings: dict[str, Any] = {"tokenizer_class": reader.text("tokenizer_class", default=None) or ""}
    settings |= {name: value for name in FLAGS if isinstance(value := reader.get(name), bool)}
    # Some files have 1e30 for no limit, which is no number of tokens.
    if isinstance(length := reader.get("model_max_length"), int):
        settings["model_max_length"] = length
    settings |= load_special_tokens(directory)
    return settings | ({"chat_template": chat.sources[DEFAULT]} if chat is not None else {})
