"""The output of a response: items in the order in which the model begins them."""

from router_service.front.openai.answers.logprobs import TokenNames, chat_logprobs
from router_service.front.openai.responses.objects import Item
from router_service.front.openai.responses.open_items import OpenCall, OpenItem, OpenMessage, OpenReasoning, Tell
from router_service.protocol import inference_pb2 as pb


class Output:
    """Sorts what responses say into items, one open at a time, and tells of each change."""

    def __init__(self, response_id: str, tell: Tell, names: TokenNames) -> None:
        self.items: list[Item] = []
        self._response_id = response_id
        self._tell = tell
        self._names = names
        self._open: OpenItem | None = None

    def add(self, response: pb.GenerateResponse) -> None:
        """Add a response: its reasoning comes before its text, and that before its calls, as models write them."""
        if response.reasoning:
            self._reasoning().push(response.reasoning)
        # A token's text may come later than the token, and its log-probability belongs to the text.
        if response.text or (response.logprobs and isinstance(self._open, OpenMessage)):
            self._message().push(response.text, chat_logprobs(response.logprobs, self._names).content)
        for delta in response.tool_calls:
            self._call(delta).push(delta.arguments)

    def end(self, *, complete: bool) -> None:
        """End the open item. An answer without any item is an empty message."""
        if self._open is None and not self.items:
            self._message()
        self._close("completed" if complete else "incomplete")

    def _message(self) -> OpenMessage:
        if not isinstance(self._open, OpenMessage):
            self._close()
            self._open = OpenMessage(self._id("msg"), len(self.items), self._tell)
        return self._open

    def _reasoning(self) -> OpenReasoning:
        if not isinstance(self._open, OpenReasoning):
            self._close()
            self._open = OpenReasoning(self._id("rs"), len(self.items), self._tell)
        return self._open

    def _call(self, delta: pb.ToolCallDelta) -> OpenCall:
        if not isinstance(self._open, OpenCall) or self._open.number != delta.index:
            self._close()
            place = (self._id("fc"), len(self.items), self._tell)
            self._open = OpenCall(*place, number=delta.index, call_id=delta.id, name=delta.name)
        return self._open

    def _close(self, status: str = "completed") -> None:
        if self._open is not None:
            self.items.append(self._open.close(status))
            self._open = None

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._response_id}_{len(self.items)}"
