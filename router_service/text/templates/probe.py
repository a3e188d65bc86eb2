"""Finds out what a template takes, by what it writes of small conversations.

Published templates say nowhere whether they want a call's arguments as an object or as text, whether a content may be
a list of parts, and what a message without content must have. Each possibility is rendered, and taken if the output
has what was put in, in a form that no model was trained to read otherwise: Python's spelling of an object, or JSON in
a string of JSON, is a sign of the wrong one.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Render = Callable[[Mapping[str, Any]], str]
ROLES = ("system", "developer", "user", "assistant", "tool")
KEY, VALUE, NAME, TEXT = "probe_key", "probe_value", "probe_name", "probe_text"
ARGUMENTS = {KEY: VALUE}
CALL_ID = "call00001"  # Mistral's templates want nine letters or digits
SPELLED_PART = re.compile(r"""["']type["']: ?["']text["']""")
# In the order of preference; transformers 5 leaves out what is None.
CONTENTS: Mapping[str, dict[str, Any]] = {"missing": {}, "null": {"content": None}, "empty": {"content": ""}}
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "d",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string", "description": "d"}}},
    },
}


def probe(render: Render) -> dict[str, Any]:
    """Return the fields of `Traits` that renders can tell; those that none tells are left out."""
    calls = _calls(render)
    known = (calls.get("arguments_text", False), calls.get("no_content", "missing"))
    text_roles, part_roles = [], []
    for role in ROLES:
        before = _before(role, *known)
        if not _shows(render, before, role, [{"type": "text", "text": TEXT}]):
            text_roles.append(role)
        elif not _shows(render, before, role, TEXT):
            part_roles.append(role)
    return {"text_roles": text_roles, "part_roles": part_roles, **calls}


def _calls(render: Render) -> dict[str, Any]:
    """Return the first way to give a call that the template writes well."""
    for text in (False, True):
        for name in CONTENTS:
            answer = {"role": "tool", "name": NAME, "tool_call_id": CALL_ID, "content": "t"}
            output = _output(render, [*_before("tool", text, name), answer], [TOOL])
            if output is not None and _good_call(output) and not (name == "null" and "None" in output):
                return {"arguments_text": text, "no_content": name}
    return {}


def _good_call(output: str) -> bool:
    written = all(word in output for word in (KEY, VALUE, NAME))
    return written and repr(ARGUMENTS) not in output and '\\"' + VALUE not in output


def _shows(render: Render, before: list[dict[str, Any]], role: str, content: object) -> bool:
    message = {"role": role, "content": content} | ({"name": NAME, "tool_call_id": CALL_ID} if role == "tool" else {})
    after = [] if role == "user" else [{"role": "user", "content": "u"}]
    output = _output(render, [*before, message, *after])
    return output is not None and TEXT in output and not SPELLED_PART.search(output)


def _before(role: str, text: bool, content: str) -> list[dict[str, Any]]:
    """Return what comes before a message of `role`: templates check the order."""
    if role == "tool":
        return [
            {"role": "user", "content": "u"},
            _call(json.dumps(ARGUMENTS) if text else ARGUMENTS, CONTENTS[content]),
        ]
    return [{"role": "user", "content": "u"}] if role == "assistant" else []


def _call(arguments: object, content: Mapping[str, Any]) -> dict[str, Any]:
    call = {"id": CALL_ID, "type": "function", "function": {"name": NAME, "arguments": arguments}}
    return {"role": "assistant", **content, "tool_calls": [call]}


def _output(render: Render, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str | None:
    variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
    with contextlib.suppress(Exception):  # whatever it raises refuses this form
        return render(variables)
    return None
