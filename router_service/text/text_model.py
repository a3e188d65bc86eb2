"""The parts of a checkpoint that the Front needs: tokenizer, chat template, sampling defaults."""

from dataclasses import dataclass
from pathlib import Path

from router_service.text.chat import ChatTemplate, load_chat_template
from router_service.text.generation_config import SamplingDefaults, load_defaults
from router_service.text.tokenizer import Tokenizer
from router_service.text.tokenizer_files import load_tokenizer


@dataclass(frozen=True, slots=True)
class TextModel:
    """The text side of a checkpoint."""

    tokenizer: Tokenizer
    chat: ChatTemplate | None
    defaults: SamplingDefaults


def load_text_model(directory: Path) -> TextModel:
    """Read the text side of the checkpoint in `directory`.

    Raises:
        CheckpointError: the tokenizer is missing, or a file is unreadable or invalid.
    """
    tokenizer = load_tokenizer(directory)
    return TextModel(tokenizer, load_chat_template(directory), load_defaults(directory, tokenizer))
