"""Encodes texts, long ones off the event loop, and those that are far too long not at all."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router_service.front.api.prompts.chat_prompt import Rendered
from router_service.front.errors import invalid
from router_service.protocol.inference_pb2 import GenerateRequest, TokenizeRequest
from router_service.text.encoding.long_texts import has_more_tokens
from router_service.text.text_model import TextModel
from router_service.text.tokenizer import Tokenizer

# Longer texts are encoded on a thread: the library releases the GIL, so other streams continue meanwhile.
LONG_TEXT_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Bound:
    """The most tokens that a text may have; `field` is what errors call it."""

    field: str
    tokens: int
    context: int

    def check(self, whole: str, tokenizer: Tokenizer) -> None:
        """Refuse a text that is far too long by a part of it.

        Raises:
            RequestError: INVALID_ARGUMENT naming the field.
        """
        if has_more_tokens(whole, self.tokens, tokenizer):
            allowed = f"at most {self.tokens} are allowed (the context has {self.context})"
            raise invalid(self.field, f"has over {self.tokens} tokens, {allowed}")


async def encode_rendered(rendered: Rendered, text: TextModel, bound: Bound | None = None) -> list[int]:
    """Return the token ids of a rendered conversation.

    Raises:
        RequestError: INVALID_ARGUMENT, it has far more than `bound`.
    """
    if rendered.parts is None:
        return await encode_text(rendered.text, text, add_special_tokens=False, bound=bound)
    parts, tokenizer = rendered.parts, text.tokenizer
    return await _encoded_within(bound, rendered.text, tokenizer, lambda: tokenizer.encode_parts(parts, False))


async def encode_text(
    prompt: str, text: TextModel, add_special_tokens: bool = True, special: bool = True, bound: Bound | None = None
) -> list[int]:
    """Return the token ids of `prompt`, [] if it is empty; `special`: special tokens' texts in it are those tokens.

    Raises:
        RequestError: INVALID_ARGUMENT, it has far more than `bound`.
    """
    if not prompt:
        return []
    tokenizer = text.tokenizer
    if special:
        return await _encoded_within(bound, prompt, tokenizer, lambda: tokenizer.encode(prompt, add_special_tokens))
    return await _encoded_within(bound, prompt, tokenizer, lambda: tokenizer.encode_parts([prompt], add_special_tokens))


async def _encoded_within(
    bound: Bound | None, whole: str, tokenizer: Tokenizer, encode: Callable[[], list[int]]
) -> list[int]:
    def run() -> list[int]:
        if bound is not None:
            bound.check(whole, tokenizer)
        return encode()

    return await asyncio.to_thread(run) if len(whole) > LONG_TEXT_CHARACTERS else run()


async def encode_prompt(
    request: GenerateRequest | TokenizeRequest, text: TextModel, bound: Bound | None = None
) -> list[int]:
    """Return the token ids of a request's prompt; both of its fields about special tokens are true where not set.

    Raises:
        RequestError: INVALID_ARGUMENT, it has far more than `bound`.
    """
    added = request.add_special_tokens or not request.HasField("add_special_tokens")
    special = request.allow_special_tokens or not request.HasField("allow_special_tokens")
    return await encode_text(request.prompt, text, added, special, bound)
