"""The parts of a checkpoint that the Front needs: tokenizer, chat template, sampling defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router_service.text.chat import ChatTemplate, load_chat_template
from router_service.text.generation_config import SamplingDefaults, load_defaults
from router_service.text.special_text import SpecialTexts
from router_service.text.tokenizer import Tokenizer
from router_service.text.tokenizer_files import load_tokenizer
from router_service.text.tokenizer_settings import load_tokenizer_settings


@dataclass(frozen=True, slots=True)
class TextModel:
    """The text side of a checkpoint."""

    tokenizer: Tokenizer
    chat: ChatTemplate | None
    defaults: SamplingDefaults
    # See `load_tokenizer_settings`.
    settings: Mapping[str, Any] = field(default_factory=dict)
    special_texts: SpecialTexts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_texts", SpecialTexts(self.tokenizer.controls))


def load_text_model(
    directory: Path, chat_template: str = "", chat_template_kwargs: Mapping[str, Any] | None = None
) -> TextModel:
    """Read the text side of the checkpoint in `directory`; see `load_chat_template` for the others.

    Raises:
        CheckpointError: the tokenizer is missing, or a file is unreadable or invalid.
    """
    tokenizer = load_tokenizer(directory)
    chat = load_chat_template(directory, chat_template, chat_template_kwargs)
    defaults = load_defaults(directory, tokenizer)
    return TextModel(tokenizer, chat, defaults, load_tokenizer_settings(directory, chat))
