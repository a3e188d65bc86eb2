"""Events of a stream whose constant part is encoded once."""

from dataclasses import dataclass

import msgspec

from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.requests.fields import GenerationBody

DONE = b"data: [DONE]\n\n"
ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all objects of one reply have in common. `created` is in seconds of Unix."""

    id: str
    created: int
    model: str


class Chunks:
    """Encodes events of one stream."""

    def __init__(self, kind: str, head: ReplyHead, body: GenerationBody) -> None:
        """`kind` is the `object` of each event."""
        options = body.stream_options
        self.include_usage = options is not None and bool(options.include_usage)
        self.continuous = options is not None and bool(options.continuous_usage_stats)
        common = ENCODER.encode({"id": head.id, "object": kind, "created": head.created, "model": head.model})
        self._head = b"data: " + common[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if self.include_usage else b"]}\n\n"

    def event(self, choice: msgspec.Struct, usage: UsageCount) -> bytes:
        """Return the event of one choice's next piece."""
        tail = self._with(usage) if self.continuous else self._tail
        return self._head + ENCODER.encode(choice) + tail

    def end(self, usage: UsageCount, drops_answer: bool = False) -> bytes:
        """Return the end of a stream, before it the usage, if it is asked for."""
        return self._head + self._with(usage, drops_answer) + DONE if self.include_usage else DONE

    @staticmethod
    def _with(usage: UsageCount, drops_answer: bool = False) -> bytes:
        return b'],"usage":' + ENCODER.encode(usage.reply(drops_answer)) + b"}\n\n"
