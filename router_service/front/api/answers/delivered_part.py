"""What of an answer an earlier call has delivered, and how to leave it out of the answer's text."""

from dataclasses import replace

from router_service.front.parsing.parsed import CallDelta, Parsed
from router_service.protocol import inference_pb2 as pb


class DeliveredPart:
    """The characters that were delivered of an answer's text, reasoning and tool calls."""

    def __init__(self, before: pb.Continuation) -> None:
        self._content = before.text_characters
        self._reasoning = before.reasoning_characters
        self._arguments = list(before.argument_characters)

    def fresh(self, parsed: Parsed) -> Parsed:
        """Return what of the next part of the answer was not delivered."""
        content, self._content = _behind(parsed.content, self._content)
        reasoning, self._reasoning = _behind(parsed.reasoning, self._reasoning)
        return Parsed(content, reasoning, [call for delta in parsed.calls if (call := self._rest(delta))])

    def _rest(self, delta: CallDelta) -> CallDelta | None:
        """Return a delta without what was delivered of its call, whose id and name were too; None if that is all."""
        if delta.index >= len(self._arguments):
            return delta
        arguments, self._arguments[delta.index] = _behind(delta.arguments, self._arguments[delta.index])
        return replace(delta, id="", name="", arguments=arguments) if arguments else None


def _behind(text: str, known: int) -> tuple[str, int]:
    """Return `text` without its first `known` characters, and how many of these are still to come."""
    return text[known:], max(0, known - len(text))
