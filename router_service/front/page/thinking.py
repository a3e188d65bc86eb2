"""Whether the page can switch a model's reasoning on and off."""

import re

from router_service.text.chat import ChatTemplate

# As Qwen3, GLM-4.5 and others name it; a template that does not know a variable ignores it.
SWITCH = re.compile(r"\benable_thinking\b")


def knows_thinking(chat: ChatTemplate | None) -> bool:
    """Whether one of the model's chat templates mentions the variable `enable_thinking`."""
    return chat is not None and any(SWITCH.search(source) for source in chat.sources.values())
