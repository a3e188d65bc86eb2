"""A response as one object, or as the events of a stream."""

import time
from typing import Any

import grpc
import msgspec

from router_service.front.errors import RequestError
from router_service.front.http.server_sent_events import event
from router_service.front.openai.answers.chunks import ENCODER, ReplyHead
from router_service.front.openai.answers.logprobs import TokenNames
from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.responses.body import ResponsesBody
from router_service.front.openai.responses.objects import Incomplete, ResponseObject, ResponseProblem, usage_of
from router_service.front.openai.responses.output import Output
from router_service.protocol import inference_pb2 as pb

# OpenAI's words for what may fail once an answer has begun; all else is a server_error.
CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limit_exceeded", grpc.StatusCode.INVALID_ARGUMENT: "invalid_prompt"}


class ResponseAnswer:
    """Makes a response of what the gRPC API answers."""

    def __init__(self, body: ResponsesBody, head: ReplyHead) -> None:
        self._blank = blank_response(body, head)
        self._usage = UsageCount()
        self._finish = pb.FINISH_REASON_UNSPECIFIED
        self._output = Output(head.id, self._tell, TokenNames(bool(body.return_tokens_as_token_ids)))

    def add(self, prompt: int, response: pb.GenerateResponse) -> None:
        """Add a response."""
        self._usage.add(prompt, response)
        self._output.add(response)
        if response.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
            self._finish = response.finish_reason
            self._output.end(complete=response.finish_reason in (pb.STOP, pb.TOOL_CALLS))

    def reply(self) -> bytes:
        """Return the whole response."""
        return msgspec.json.encode(self._ended())

    def _tell(self, kind: str, **fields: Any) -> None:
        """Take an event, of which nobody hears here."""

    def _ended(self) -> ResponseObject:
        cut = self._finish == pb.LENGTH
        return msgspec.structs.replace(
            self._blank,
            status="incomplete" if cut else "completed",
            completed_at=int(time.time()),
            output=self._output.items,
            incomplete_details=Incomplete("max_output_tokens") if cut else None,
            usage=usage_of(self._usage.reply()),
        )

    def _failed(self, error: RequestError) -> ResponseObject:
        problem = ResponseProblem(CODES.get(error.code, "server_error"), error.message)
        return msgspec.structs.replace(self._blank, status="failed", output=self._output.items, error=problem)


class ResponseStream(ResponseAnswer):
    """Encodes the events of a response; their numbers go on through the whole stream."""

    def __init__(self, body: ResponsesBody, head: ReplyHead) -> None:
        super().__init__(body, head)
        self._number = 0
        self._events: list[bytes] = []

    def encode(self, prompt: int, response: pb.GenerateResponse) -> bytes:
        """Return the events of a response, b"" if it says nothing."""
        if not self._number:
            self._tell("created", response=self._blank)
            self._tell("in_progress", response=self._blank)
        self.add(prompt, response)
        return self._taken()

    def end(self) -> bytes:
        """Return the last event."""
        ended = self._ended()
        self._tell(ended.status, response=ended)
        return self._taken()

    def fail(self, error: RequestError) -> bytes:
        """Return the last event of a response that failed."""
        self._tell("failed", response=self._failed(error))
        return self._taken()

    def _tell(self, kind: str, **fields: Any) -> None:
        kind = f"response.{kind}"
        data = {"type": kind, "sequence_number": self._number} | fields
        self._number += 1
        self._events.append(event(kind, ENCODER.encode(data)))

    def _taken(self) -> bytes:
        taken, self._events = b"".join(self._events), []
        return taken


def blank_response(body: ResponsesBody, head: ReplyHead) -> ResponseObject:
    """Return a response that has just begun, with what was asked for."""
    text = msgspec.to_builtins(body.text) if body.text is not None else {}
    reasoning = msgspec.to_builtins(body.reasoning) if body.reasoning is not None else {}
    return ResponseObject(
        id=head.id,
        created_at=head.created,
        status="in_progress",
        model=head.model,
        output=[],
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens if body.max_output_tokens is not None else body.max_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning={"effort": None, "summary": None} | reasoning,
        temperature=body.temperature,
        text=text | {"format": _present(text.get("format")) or {"type": "text"}},
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        user=body.user,
    )


def _present(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}
