"""Which parsers a model needs."""

from router_service.front.parsing.forms import REASONING, TOOLS

# What a template's text must have for each parser, the first that fits.
TOOL_SIGNS: tuple[tuple[str, str], ...] = (
    ("<function=", "qwen3_coder"),
    # GLM's, which names its arguments in tags.
    ("<arg_key>", ""),
    ("<tool_call>", "hermes"),
)


def reasoning_name(family: str, wanted: str, template: str) -> str:
    """Return the name of the reasoning parser, "" for none.

    Raises:
        ValueError: there is none of the name `wanted`.
    """
    if wanted != "auto":
        return _known("reasoning_parser", wanted, REASONING)
    if "[THINK]" in template:
        return "mistral"
    if "think>" not in template:
        return ""
    if "<|tool_calls_section_begin|>" in template:
        return "kimi_k2"
    return "deepseek_r1" if family.startswith("deepseek") else "qwen3"


def tool_name(family: str, wanted: str, template: str) -> str:
    """Return the name of the tool parser, "" for none; a template that never mentions tools has none.

    Raises:
        ValueError: there is none of the name `wanted`.
    """
    if wanted != "auto":
        return _known("tool_parser", wanted, TOOLS)
    if "tools" not in template:
        return ""
    return next((name for sign, name in TOOL_SIGNS if sign in template), "")


def _known(field: str, wanted: str, names: object) -> str:
    known = ["auto", "none", *sorted(names)] if isinstance(names, dict) else []
    if wanted not in known:
        raise ValueError(f"{field}: there is no {wanted!r}; use one of {', '.join(known)}")
    return "" if wanted == "none" else wanted
