"""The record of a completed step."""

from dataclasses import dataclass, field

from router_service.engine.request import Request
from router_service.engine.step.forward import StepTrace


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: nanoseconds, tokens computed, its trace, the tag by which shards know it, and its requests."""

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
