"""Encodes the input of a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from router_service.front.api.prompts.chat_prompt import render_chat
from router_service.front.api.prompts.text_encoding import (
    LONG_TEXT_CHARACTERS,
    Bound,
    encode_prompt,
    encode_rendered,
)
from router_service.front.api.sampling import checked_ids, named_token
from router_service.front.errors import invalid
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol.inference_pb2 import GenerateRequest, TokenizeRequest
from router_service.text.chats.conversation import MAX_MESSAGES, content_characters
from router_service.text.text_model import TextModel
from router_service.text.tokenizer import Tokenizer

# Tokens of one Tokenize; more where the context has more. They take about a second of a thread.
MAX_TOKENIZED = 1 << 18
# A tokenizer may make a text shorter before it encodes it, but hardly by so much.
SHORTENED = 4


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """A prompt's token ids, and the text that they were made of: a chat's as rendered, "" where ids were sent.

    `truncated`: the first ids of the text are left out.
    """

    ids: list[int]
    text: str = ""
    truncated: bool = False


async def encode_input(request: GenerateRequest, text: TextModel, limits: LengthLimits) -> EncodedInput:
    """Return the prompt; of one with `truncate_prompt_tokens` the last so many tokens.

    Raises:
        RequestError: INVALID_ARGUMENT for a missing, empty or too long input, an unknown token id, or nothing to keep.
    """
    kind = request.WhichOneof("input")
    encoded = await _encoded(request, text, limits)
    if kind == "tokens":
        return encoded
    ids = list(_last(encoded.ids, request))
    check_length(kind or "input", ids, limits)
    _check_encoded(str(kind), ids, text.tokenizer, limits.vocabulary)
    return EncodedInput(ids, encoded.text, truncated=len(ids) < len(encoded.ids))


async def _encoded(request: GenerateRequest, text: TextModel, limits: LengthLimits) -> EncodedInput:
    kind = request.WhichOneof("input")
    if kind == "tokens":
        if len(request.tokens.ids) > LONG_TEXT_CHARACTERS:
            return await asyncio.to_thread(_given, request, text.tokenizer, limits)
        return _given(request, text.tokenizer, limits)
    # What is kept of a longer prompt is its end, which only the whole shows.
    truncated = request.HasField("truncate_prompt_tokens")
    bound = None if truncated else Bound(str(kind), prompt_limit(limits), limits.context)
    if kind == "chat":
        # Before it takes a template's process; what else is in a chat, templates may leave out.
        characters = content_characters(request.chat.messages[:MAX_MESSAGES])
        check_characters("chat.messages", characters, text.tokenizer, limits)
        rendered = await render_chat(request.chat, text, request.allow_special_tokens)
        check_characters(kind, len(rendered.text), text.tokenizer, limits)
        return EncodedInput(await encode_rendered(rendered, text, bound), rendered.text)
    check_characters("prompt", len(request.prompt), text.tokenizer, limits)
    return EncodedInput(await encode_prompt(request, text, bound), request.prompt)


def _given(request: GenerateRequest, tokenizer: Tokenizer, limits: LengthLimits) -> EncodedInput:
    """Return a prompt of token ids. Their number is checked before millions of them become Python's."""
    sent = request.tokens.ids
    kept = _last(sent, request)
    check_length("tokens", kept, limits)
    ids = checked_ids("tokens.ids", kept, limits.vocabulary, tokenizer)
    return EncodedInput(ids, truncated=len(ids) < len(sent))


def _last(ids: Sequence[int], request: GenerateRequest) -> Sequence[int]:
    """Return what `truncate_prompt_tokens` leaves of a prompt.

    Raises:
        RequestError: INVALID_ARGUMENT, that is nothing.
    """
    if not request.HasField("truncate_prompt_tokens"):
        return ids
    if not request.truncate_prompt_tokens:
        raise invalid("truncate_prompt_tokens", "must be at least 1, got 0: leave it out to keep the whole prompt")
    return ids[-request.truncate_prompt_tokens :]


def _check_encoded(field: str, ids: Sequence[int], tokenizer: Tokenizer, vocabulary: int) -> None:
    """Check what the tokenizer made of a text: it may have tokens, added later, for which the model has no row.

    Raises:
        RequestError: INVALID_ARGUMENT naming `field`, the first such token and its text.
    """
    if max(ids) >= vocabulary:
        id = next(id for id in ids if id >= vocabulary)
        problem = f"{named_token(id, tokenizer)} is not in the model's vocabulary, 0 to {vocabulary - 1}"
        raise invalid(field, f"{problem}: the tokenizer has it and the model does not; leave it out")


def check_characters(field: str, characters: int, tokenizer: Tokenizer, limits: LengthLimits) -> None:
    """Refuse a text that is too long whatever its tokens are: encoding takes seconds and a gigabyte for some megabytes.

    Raises:
        RequestError: INVALID_ARGUMENT naming `field`.
    """
    tokens = prompt_limit(limits)
    most = tokens * max(1, tokenizer.longest) * SHORTENED
    if characters > most:
        problem = f"has {characters} characters, at most {most} are allowed (a prompt has at most {tokens} tokens)"
        raise invalid(field, problem)


async def encode_request(request: TokenizeRequest, text: TextModel, limits: LengthLimits | None = None) -> list[int]:
    """Return the token ids of a Tokenize request.

    Raises:
        RequestError: INVALID_ARGUMENT as for Generate, but an empty prompt is allowed, and one that is longer than the
            context, up to `MAX_TOKENIZED` tokens.
    """
    kind = request.WhichOneof("input")
    if kind is None:
        raise invalid("input", "one of prompt, chat is required")
    context = MAX_TOKENIZED if limits is None else limits.context
    most = max(MAX_TOKENIZED, context)
    bound, longer = Bound(kind, most, context), LengthLimits(context=most + 1, prompt=most, vocabulary=0)
    if kind == "prompt":
        check_characters(kind, len(request.prompt), text.tokenizer, longer)
        ids = await encode_prompt(request, text, bound)
    else:
        characters = content_characters(request.chat.messages[:MAX_MESSAGES])
        check_characters("chat.messages", characters, text.tokenizer, longer)
        ids = await encode_rendered(await render_chat(request.chat, text, request.allow_special_tokens), text, bound)
    if len(ids) > most:
        raise invalid(kind, f"has {len(ids)} tokens, at most {most} are allowed")
    return ids


def check_length(field: str, ids: Sequence[int], limits: LengthLimits) -> None:
    """Check that a prompt is not empty and leaves room for one token.

    Raises:
        RequestError: INVALID_ARGUMENT naming `field`.
    """
    limit = prompt_limit(limits)
    if not ids:
        raise invalid(field, f"must not be empty: one of prompt, tokens, chat with 1 to {limit} tokens is required")
    if len(ids) > limit:
        raise invalid(field, f"has {len(ids)} tokens, at most {limit} are allowed (the context has {limits.context})")


def prompt_limit(limits: LengthLimits) -> int:
    """Return how many tokens a prompt may have: one at least is left for the answer."""
    return min(limits.prompt, limits.context - 1)
