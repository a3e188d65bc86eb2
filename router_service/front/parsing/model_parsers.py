"""The parsers of a served model, as the configuration of the Front names them."""

from router_service.front.config import FrontConfig
from router_service.front.parsing.answer_parsers import AnswerParsers, parsers_of
from router_service.text.text_model import TextModel

# Those of a model whose answers are returned as they are.
WHOLE = AnswerParsers("", "")


def model_parsers(family: str, text: TextModel, config: FrontConfig) -> AnswerParsers:
    """Return what takes reasoning and tool calls out of the answers of a model of this `family`.

    Raises:
        ValueError: `front.reasoning_parser` or `front.tool_parser` names none, or the two do not go together.
    """
    template = "\n".join(text.chat.sources.values()) if text.chat is not None else ""
    return parsers_of(family, config.reasoning_parser, config.tool_parser, template, text.tokenizer)
