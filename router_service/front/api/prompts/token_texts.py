"""Turns token ids into text off the event loop: a million of them take about a second."""

import asyncio

from router_service.front.api.prompts.text_encoding import LONG_TEXT_CHARACTERS
from router_service.front.api.sampling import checked_ids
from router_service.front.errors import invalid
from router_service.protocol.inference_pb2 import DetokenizeRequest
from router_service.text.tokenizer import Tokenizer

# Of one Detokenize: about a second of a thread.
MAX_DETOKENIZED = 1 << 20


async def text_of_ids(request: DetokenizeRequest, tokenizer: Tokenizer, vocabulary: int) -> str:
    """Return the text of a Detokenize request.

    Raises:
        RequestError: INVALID_ARGUMENT, an id is not the model's, or there are too many.
    """
    if len(request.ids) > MAX_DETOKENIZED:
        raise invalid("ids", f"at most {MAX_DETOKENIZED} ids, got {len(request.ids)}: send them in several calls")
    if len(request.ids) <= LONG_TEXT_CHARACTERS:
        return _text(request, tokenizer, vocabulary)
    return await asyncio.to_thread(_text, request, tokenizer, vocabulary)


def _text(request: DetokenizeRequest, tokenizer: Tokenizer, vocabulary: int) -> str:
    skip = request.skip_special_tokens or not request.HasField("skip_special_tokens")
    return tokenizer.decode(checked_ids("ids", request.ids, vocabulary, tokenizer), skip)
