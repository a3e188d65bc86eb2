"""Why an answer ended, in OpenAI's words."""

from router_service.protocol import inference_pb2 as pb

FINISHES = {pb.STOP: "stop", pb.LENGTH: "length", pb.TOOL_CALLS: "tool_calls"}


def finish_reason(reason: pb.FinishReason) -> str | None:
    """Return the word; None for an answer that goes on, or that the server has cut (which is an error there)."""
    return FINISHES.get(reason)


def stop_reason(response: pb.GenerateResponse) -> str | int | None:
    """Return the stop text or stop token that ended the answer, None for an end-of-sequence token."""
    kind = response.WhichOneof("stop_reason")
    return None if kind is None else getattr(response, kind)
