"""Renders a conversation whose last message goes on: the text ends where that message's content does.

The result is that of transformers' `apply_chat_template(continue_final_message=True)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

# Ends the content while it is rendered. A template that strips the content takes the space only.
MARK = "\ufddf\ufdde\ufddf"
SPACED = MARK + " "

Render = Callable[[Mapping[str, Any]], str]


def render_open(render: Render, variables: Mapping[str, Any], source: str) -> str:
    """Return the text of `variables["messages"]` up to the end of the last one's content.

    Raises:
        ValueError: the last message has no text, or the template does not write it.
    """
    *before, last = variables["messages"]
    if "content" not in source:
        raise ValueError("it writes no content, so no message can be continued")
    marked, text = _marked(last)
    rendered = render({**variables, "messages": [*before, marked]})
    end = rendered.rfind(MARK)
    if end < 0 or text.strip() not in rendered:
        raise ValueError("it does not write the last message as it is, so that cannot be continued")
    if rendered.startswith(SPACED, end):
        return rendered[:end]
    return rendered[:end].rstrip()


def _marked(message: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the message with the mark at its end, and the text that the mark follows."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + SPACED}, content
    parts = list(content or [])
    for index in range(len(parts) - 1, -1, -1):
        if "text" in parts[index]:
            text = parts[index]["text"]
            parts[index] = {**parts[index], "text": text + SPACED}
            return {**message, "content": parts}, text
    raise ValueError("the last message has no content that could be continued")
