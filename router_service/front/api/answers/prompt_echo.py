"""The prompt as a client gets it back, in parts that fit into messages."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from router_service.front.api.prompts.prompt import EncodedInput
from router_service.front.api.prompts.text_encoding import LONG_TEXT_CHARACTERS
from router_service.protocol.inference_pb2 import GenerateRequest
from router_service.text.tokenizer import Tokenizer

# Of one response: far below 64 KiB, whatever the characters and ids are.
PART_CHARACTERS = PART_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """A prompt's text and token ids."""

    text: str
    ids: Sequence[int]

    def parts(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield the text and the ids in parts, those of the same place together."""
        texts = (self.text[at : at + PART_CHARACTERS] for at in range(0, len(self.text), PART_CHARACTERS))
        ids = (self.ids[at : at + PART_TOKENS] for at in range(0, len(self.ids), PART_TOKENS))
        yield from ((text or "", part or ()) for text, part in zip_longest(texts, ids))


async def echo_of(request: GenerateRequest, prompt: EncodedInput, tokenizer: Tokenizer) -> PromptEcho | None:
    """Return the prompt if `request` wants it back and no earlier call has delivered it.

    Its text is what was sent or rendered. Of token ids, and of a prompt that was truncated, it is the text of
    the tokens, with the special ones.
    """
    if not request.echo or request.continuation.token_ids:
        return None
    if prompt.text and not prompt.truncated:
        return PromptEcho(prompt.text, prompt.ids)
    if len(prompt.ids) > LONG_TEXT_CHARACTERS:  # the library releases the GIL, so other streams continue meanwhile
        return PromptEcho(await asyncio.to_thread(tokenizer.decode, prompt.ids, False), prompt.ids)
    return PromptEcho(tokenizer.decode(prompt.ids, False), prompt.ids)
