"""Renders the conversation of a request."""

import asyncio
from dataclasses import dataclass

from router_service.front.errors import exhausted, invalid
from router_service.protocol.inference_pb2 import Chat
from router_service.text.chat import ChatError, ChatTemplate
from router_service.text.chats.conversation import check_count
from router_service.text.chats.template_fields import ChatFieldError
from router_service.text.special_text import SpecialTexts, unmarked
from router_service.text.text_model import TextModel

# A render takes some milliseconds, at most about ten seconds.
RENDER_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the template writes it.

    `parts` is None where every special token's text in `text` is that token: the caller wrote none, or wants it so.
    Else `parts` are the texts between the template's special tokens, and those tokens' ids.
    """

    text: str
    parts: list[str | int] | None = None


async def render_chat(chat: Chat, text: TextModel, special: bool = False) -> Rendered:
    """Return the text of a conversation, with the special tokens of the template; see `Rendered` for `special`.

    Raises:
        RequestError: INVALID_ARGUMENT for a wrong field, too many messages, or those that the template rejects;
            RESOURCE_EXHAUSTED while others render for too long.
    """
    template = text.chat
    if template is None:
        raise invalid("chat", "the model has no chat template; send a prompt")
    try:
        check_count(chat.messages)
        work = template.submit(lambda: _rendered(chat, template, None if special else text.special_texts))
        async with asyncio.timeout(RENDER_WAIT_SECONDS):
            return await asyncio.wrap_future(work)
    except TimeoutError:
        raise exhausted(f"other chats have been rendered for {RENDER_WAIT_SECONDS:g} s; try again") from None
    except ChatFieldError as error:
        raise invalid(error.field, error.problem) from error
    except ChatError as error:
        raise invalid("chat.messages", str(error)) from error


def _rendered(chat: Chat, template: ChatTemplate, special_texts: SpecialTexts | None) -> Rendered:
    conversation = template.conversation(chat)
    if special_texts is None:
        return Rendered(template.render(conversation))
    conversation, mark = special_texts.marked(conversation)
    rendered = template.render(conversation)
    if not mark:
        return Rendered(rendered)
    return Rendered(unmarked(rendered, mark), special_texts.split(rendered, mark))
