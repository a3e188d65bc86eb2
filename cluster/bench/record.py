"""What is known of one request: when it was due, when its tokens came, what the server counted, how it ended."""

from dataclasses import dataclass, field
from typing import Any

from router_service.protocol import inference_pb2 as pb

OK = "OK"
ENDED_WELL = (pb.STOP, pb.LENGTH, pb.TOOL_CALLS)


@dataclass(slots=True)
class Record:
    """Times are seconds of one clock.

    Args:
        due: when the request should have been sent: latencies count from then. A client or a limit that holds a request
            back would otherwise hide the time that users wait (coordinated omission).
        sent: when it was sent.
        first, last: when its first and last tokens came.
        gaps: seconds between messages with tokens; a message may have several tokens.
        ended: when it ended.
        status: OK, or the gRPC status that it failed with.
        usage: the server's counts.
    """

    due: float
    sent: float
    first: float | None = None
    last: float | None = None
    gaps: list[float] = field(default_factory=list)
    ended: float = 0.0
    status: str = "NO_END"
    detail: str = ""
    usage: pb.Usage = field(default_factory=pb.Usage)

    def add(self, response: pb.GenerateResponse, now: float) -> None:
        """Take in a message of the stream that came at `now`."""
        if response.token_ids:
            if self.last is None:
                self.first = now
            else:
                self.gaps.append(now - self.last)
            self.last = now
        if response.finish_reason:
            self.usage = response.usage
            self.status = OK if response.finish_reason in ENDED_WELL else pb.FinishReason.Name(response.finish_reason)

    @property
    def ok(self) -> bool:
        """Whether it ended with a whole answer."""
        return self.status == OK

    @property
    def ttft(self) -> float:
        """Seconds from when it was due to its first token, to its end if it has none."""
        return (self.ended if self.first is None else self.first) - self.due

    @property
    def tpot(self) -> float | None:
        """Mean seconds of each token after the first; None for an answer of one."""
        tokens = self.usage.generated_tokens
        if self.first is None or self.last is None or tokens < 2:
            return None
        return (self.last - self.first) / (tokens - 1)

    @property
    def latency(self) -> float:
        """Seconds from when it was due to its end."""
        return self.ended - self.due

    def as_dict(self, begun: float) -> dict[str, Any]:
        """The request for JSON; times in seconds since `begun`, spans in ms."""
        return {
            "due_s": self.due - begun,
            "sent_s": self.sent - begun,
            "status": self.status,
            "detail": self.detail,
            "input_tokens": self.usage.prompt_tokens,
            "cached_input_tokens": self.usage.cached_prompt_tokens,
            "output_tokens": self.usage.generated_tokens,
            "ttft_ms": 1e3 * self.ttft if self.ok else None,
            "tpot_ms": None if self.tpot is None else 1e3 * self.tpot,
            "e2el_ms": 1e3 * self.latency,
        }
