"""An answer, put together from its responses."""

from typing import Any

from router_service.protocol import inference_pb2 as pb


class Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.finish = pb.FINISH_REASON_UNSPECIFIED
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, response: pb.GenerateResponse) -> None:
        """Take the next response."""
        self._text.append(response.text)
        self._reasoning.append(response.reasoning)
        for delta in response.tool_calls:
            call = self._calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            for name in call:
                call[name] += getattr(delta, name)
        self.finish = response.finish_reason

    def message(self) -> dict[str, Any] | None:
        """Return the assistant's message; None if nothing has come that the next turn could follow.

        Calls that an interrupt has cut are left out: their arguments are no JSON.
        """
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        calls = self._whole_calls()
        if not text and not reasoning and not calls:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning:
            message["reasoning_content"] = reasoning
        return message | ({"tool_calls": calls} if calls else {})

    def _whole_calls(self) -> list[dict[str, Any]]:
        if self.finish == pb.FINISH_REASON_UNSPECIFIED:
            return []
        return [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for _, call in sorted(self._calls.items())
        ]
