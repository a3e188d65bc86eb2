"""Answers in the form of the Open Inference Protocol, whole or in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from router_service.front.api.calls import Context, write_in_time
from router_service.front.kserve.requests import OUTPUTS, TEXT, VERSION, Wanted
from router_service.front.kserve.tensors import Element, add_output
from router_service.protocol import inference_pb2 as pb
from router_service.protocol import open_inference_pb2 as kserve

FINISH_NAMES = {pb.STOP: "stop", pb.LENGTH: "length", pb.CANCELLED: "cancelled", pb.TOOL_CALLS: "tool_calls"}
# What Triton calls the mark of a request's last response.
FINAL = "triton_final_response"


@dataclass(slots=True)
class Answer:
    """An answer, or a piece of it. `last` is its last response, None before it has come."""

    text: str = ""
    last: pb.GenerateResponse | None = None

    @property
    def finish(self) -> str:
        """Why it ended, "" if it has not."""
        return "" if self.last is None else FINISH_NAMES.get(self.last.finish_reason, "")

    @property
    def usage(self) -> pb.Usage:
        """Zeros before its end."""
        return pb.Usage() if self.last is None else self.last.usage


@dataclass(slots=True)
class CollectingWriter:
    """A `ResponseWriter` that keeps an answer until it is complete."""

    context: Context
    answer: Answer = field(default_factory=Answer)

    def time_remaining(self) -> float | None:
        """See `ResponseWriter`."""
        return self.context.time_remaining()

    def done(self) -> bool:
        """See `ResponseWriter`."""
        return bool(self.context.done())

    async def accepted(self, request_id: str, /) -> None:
        """See `ResponseWriter`; the id comes with the response."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        self.answer.text += response.text
        if response.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
            self.answer.last = response


class StreamingWriter(CollectingWriter):
    """A `ResponseWriter` that sends each piece as it comes, to a client that may not leave one unread too long."""

    def __init__(self, context: Context, blank: kserve.ModelInferResponse, wanted: Wanted, patience_s: float) -> None:
        super().__init__(context)
        self._blank = blank
        self._wanted = wanted
        self._patience_s = patience_s
        self._before = wanted.requests[0].prompt if wanted.with_input else ""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`; what has no text and is not the last is not sent."""
        self.answer = Answer(self._before)
        await super(StreamingWriter, self).write(response)
        if self.answer.text or self.answer.last is not None:
            self._before = ""
            sent = response_of(self._blank, self._wanted, [self.answer])
            sent.parameters[FINAL].bool_param = self.answer.last is not None
            await write_in_time(self.context, kserve.ModelStreamInferResponse(infer_response=sent), self._patience_s)


def blank_response(model: str, request_id: str) -> kserve.ModelInferResponse:
    """Return a response without outputs."""
    return kserve.ModelInferResponse(model_name=model, model_version=VERSION, id=request_id)


def response_of(
    blank: kserve.ModelInferResponse, wanted: Wanted, answers: Sequence[Answer]
) -> kserve.ModelInferResponse:
    """Return a response with the wanted outputs of `answers`, and with their ends if they have ended."""
    response = kserve.ModelInferResponse()
    response.CopyFrom(blank)
    columns: dict[str, list[Element]] = {
        TEXT: [answer.text.encode() for answer in answers],
        "finish_reason": [answer.finish.encode() for answer in answers],
        "num_input_tokens": [answer.usage.prompt_tokens for answer in answers],
        "num_output_tokens": [answer.usage.generated_tokens for answer in answers],
    }
    for name in wanted.outputs:
        add_output(response, name, OUTPUTS[name], columns[name], wanted.raw)
    if all(answer.last is not None for answer in answers):
        response.parameters["finish_reason"].string_param = ",".join(answer.finish for answer in answers)
        for name in ("prompt_tokens", "cached_prompt_tokens", "generated_tokens"):
            response.parameters[name].int64_param = sum(getattr(answer.usage, name) for answer in answers)
    return response
