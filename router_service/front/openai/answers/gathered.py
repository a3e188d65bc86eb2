"""One answer of several responses, for replies that are not streamed."""

from dataclasses import dataclass, field

from router_service.front.openai.answers.finish import stop_reason
from router_service.protocol import inference_pb2 as pb


@dataclass(slots=True)
class Call:
    """A tool call."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class GatheredAnswer:
    """What has come of one answer."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    routing: list[pb.TokenRouting] = field(default_factory=list)
    prompt_text: str = ""
    prompt_token_ids: list[int] = field(default_factory=list)
    finish: pb.FinishReason = pb.FINISH_REASON_UNSPECIFIED
    stop_reason: str | int | None = None

    def add(self, response: pb.GenerateResponse) -> None:
        """Add the next response."""
        self.texts.append(response.text)
        self.reasoning.append(response.reasoning)
        self.token_ids.extend(response.token_ids)
        self.logprobs.extend(response.logprobs)
        self.prompt_logprobs.extend(response.prompt_logprobs)
        self.routing.extend(response.routing)
        self.prompt_text += response.prompt_text
        self.prompt_token_ids.extend(response.prompt_token_ids)
        for delta in response.tool_calls:
            call = self.calls.setdefault(delta.index, Call())
            call.id, call.name = call.id or delta.id, call.name or delta.name
            call.arguments.append(delta.arguments)
        if response.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
            self.finish, self.stop_reason = response.finish_reason, stop_reason(response)

    @property
    def entries(self) -> int:
        """How many entries of lists its reply has, of which each takes microseconds."""
        scored = sum(1 + len(token.top) for token in (*self.logprobs, *self.prompt_logprobs))
        return scored + sum(len(position.layers) for position in self.routing)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts)

    @property
    def reasoning_text(self) -> str | None:
        """All of its reasoning, None if there is none."""
        return "".join(self.reasoning) or None
