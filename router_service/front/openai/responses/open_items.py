"""Items that the model is still writing: each tells of what is new, and becomes an item when it is closed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from router_service.front.openai.answers.logprobs import ChatTokenLogprob
from router_service.front.openai.responses.objects import (
    FunctionCallItem,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)

IN_PROGRESS = "in_progress"


class Tell(Protocol):
    """Takes an event of the stream."""

    def __call__(self, kind: str, **fields: Any) -> None:
        """`kind` is the event's type without `response.` in front."""


class OpenItem(ABC):
    """One item. `status` of `close` is completed or incomplete."""

    def __init__(self, id: str, index: int, tell: Tell) -> None:
        self.id = id
        self._index = index
        self._tell = tell
        self._texts: list[str] = []

    @property
    def _text(self) -> str:
        return "".join(self._texts)

    @abstractmethod
    def close(self, status: str) -> Item:
        """End the item and return it."""

    def _added(self, item: Item) -> None:
        self._tell("output_item.added", output_index=self._index, item=item)

    def _done(self, item: Item) -> Item:
        self._tell("output_item.done", output_index=self._index, item=item)
        return item

    def _of_item(self, kind: str, **fields: Any) -> None:
        self._tell(kind, item_id=self.id, output_index=self._index, **fields)

    def _of_part(self, kind: str, **fields: Any) -> None:
        self._of_item(kind, content_index=0, **fields)


class OpenMessage(OpenItem):
    """A message of one text."""

    def __init__(self, id: str, index: int, tell: Tell) -> None:
        super().__init__(id, index, tell)
        self._logprobs: list[ChatTokenLogprob] = []
        self._added(MessageItem(id, IN_PROGRESS))
        self._of_part("content_part.added", part=OutputText(""))

    def push(self, text: str, logprobs: Sequence[ChatTokenLogprob]) -> None:
        """Add text, or tokens that have none yet."""
        self._texts.append(text)
        self._logprobs.extend(logprobs)
        if text or logprobs:
            self._of_part("output_text.delta", delta=text, logprobs=logprobs)

    def close(self, status: str) -> Item:
        """See `OpenItem`."""
        part = OutputText(self._text, self._logprobs)
        self._of_part("output_text.done", text=part.text, logprobs=part.logprobs)
        self._of_part("content_part.done", part=part)
        return self._done(MessageItem(self.id, status, [part]))


class OpenReasoning(OpenItem):
    """Reasoning."""

    def __init__(self, id: str, index: int, tell: Tell) -> None:
        super().__init__(id, index, tell)
        self._added(ReasoningItem(id, IN_PROGRESS))
        self._of_part("content_part.added", part=ReasoningText(""))

    def push(self, text: str) -> None:
        """Add text."""
        self._texts.append(text)
        self._of_part("reasoning_text.delta", delta=text)

    def close(self, status: str) -> Item:
        """See `OpenItem`."""
        part = ReasoningText(self._text)
        self._of_part("reasoning_text.done", text=part.text)
        self._of_part("content_part.done", part=part)
        return self._done(ReasoningItem(self.id, status, [part]))


class OpenCall(OpenItem):
    """A function call, number `number` of the answer's."""

    def __init__(self, id: str, index: int, tell: Tell, number: int, call_id: str, name: str) -> None:
        super().__init__(id, index, tell)
        self.number = number
        self._call_id = call_id
        self._name = name
        self._added(FunctionCallItem(id, IN_PROGRESS, call_id, name))

    def push(self, arguments: str) -> None:
        """Add characters of the arguments."""
        if arguments:
            self._texts.append(arguments)
            self._of_item("function_call_arguments.delta", delta=arguments)

    def close(self, status: str) -> Item:
        """See `OpenItem`."""
        self._of_item("function_call_arguments.done", name=self._name, arguments=self._text)
        return self._done(FunctionCallItem(self.id, status, self._call_id, self._name, self._text))
