"""What is kept of a step when it is over."""

from dataclasses import dataclass, field

from router_service.engine.forward import StepTrace
from router_service.engine.request import Request


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step for the statistics: nanoseconds, what it computed, its trace, the tag that shards know it by, whose."""

    duration_ns: int
    prompt_tokens: int
    decode_tokens: int
    trace: StepTrace
    tag: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """prefill, decode or mixed."""
        if self.prompt_tokens and self.decode_tokens:
            return "mixed"
        return "prefill" if self.prompt_tokens else "decode"
