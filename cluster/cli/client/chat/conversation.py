"""A conversation in the form of OpenAI's API: what was said so far, and what the template is told beside it."""

from dataclasses import dataclass, field
from typing import Any

Turn = dict[str, Any]


@dataclass
class Conversation:
    """The turns, and the settings that outlive `reset`: the system prompt, tools, variables of the chat template."""

    system: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def messages(self) -> list[Turn]:
        """Return what to send."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def say(self, text: str) -> None:
        """Add the user's next turn."""
        self.turns.append({"role": "user", "content": text})

    def answered(self, message: Turn | None) -> None:
        """Add the answer; without one the turn that it was to answer goes too.

        Many templates refuse a conversation in which two turns of the user follow each other.
        """
        if message is not None:
            self.turns.append(message)
        elif self.turns:
            self.turns.pop()

    def open_calls(self) -> list[dict[str, Any]]:
        """Return the latest answer's tool calls that have no result yet."""
        for results, turn in enumerate(reversed(self.turns)):
            if turn["role"] != "tool":
                return list(turn.get("tool_calls", ()))[results:]
        return []

    def result(self, text: str) -> None:
        """Add the result of the first open call.

        Raises:
            ValueError: no call is open.
        """
        calls = self.open_calls()
        if not calls:
            raise ValueError("no tool call waits for a result")
        self.turns.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": text})

    def think(self, on: bool) -> None:
        """Have the model reason or not, where its template knows `enable_thinking`."""
        self.template_kwargs["enable_thinking"] = on

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()
