"""Which parsers a model needs, by its family and what its chat template writes."""

from collections.abc import Sequence

from router_service.front.parsing.forms import HARMONY_REASONING, HARMONY_TOOLS, REASONING_NAMES, TOOL_NAMES
from router_service.front.parsing.tools.harmony import CHANNEL
from router_service.front.parsing.tools.marked import DEEPSEEK, KIMI

# What a template's text has, all of it, for the tool parser that stands last; the first that fits is it.
TOOL_SIGNS: tuple[tuple[str, ...], ...] = (
    (KIMI.opening, "kimi_k2"),
    (CHANNEL, HARMONY_TOOLS),
    (DEEPSEEK.opening, "deepseek_v31"),
    ("[TOOL_CALLS]", "mistral"),
    # GLM's names its arguments in tags, which no parser here reads.
    ("<arg_key>", ""),
    ("<tool_call>", "<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("<|python_start|>", "llama4_pythonic"),
    # What Llama's templates show the model of the form.
    ("[func_name", "llama4_pythonic"),
    ('"parameters":', "llama3_json"),
)
JSON_FENCE = "```json"


def chosen(family: str, reasoning: str, tools: str, template: str) -> tuple[str, str]:
    """Return the names of the parsers of reasoning and of tool calls, "" for none.

    Raises:
        ValueError: a name is unknown, or the two do not go together.
    """
    names = reasoning_name(family, reasoning, template), tool_name(family, tools, template)
    harmony = names[0] == HARMONY_REASONING, names[1] == HARMONY_TOOLS
    if all(names) and harmony[0] != harmony[1]:
        raise ValueError(
            f"tool_parser: {names[1]!r} does not go with the reasoning_parser {names[0]!r}: "
            f"{HARMONY_REASONING!r} and {HARMONY_TOOLS!r} go together"
        )
    return names


def reasoning_name(family: str, wanted: str, template: str) -> str:
    """Return the name of the reasoning parser, "" for none.

    Raises:
        ValueError: there is none of the name `wanted`.
    """
    if wanted != "auto":
        return _known("front.reasoning_parser", wanted, REASONING_NAMES)
    if CHANNEL in template:
        return HARMONY_REASONING
    if "[THINK]" in template:
        return "mistral"
    if "think>" not in template:
        return ""
    if KIMI.opening in template:
        return "kimi_k2"
    return "deepseek_r1" if family.startswith("deepseek") else "qwen3"


def tool_name(family: str, wanted: str, template: str) -> str:
    """Return the name of the tool parser, "" for none; a template that never mentions tools has none.

    Raises:
        ValueError: there is none of the name `wanted`.
    """
    if wanted != "auto":
        return _known("front.tool_parser", wanted, TOOL_NAMES)
    if "tools" not in template:
        return ""
    name = next((name for *signs, name in TOOL_SIGNS if all(sign in template for sign in signs)), "")
    if name == "deepseek_v31" and JSON_FENCE in template:
        return "deepseek_v3"
    # Other families' templates have JSON of that kind too, in other forms of call.
    return "" if name.startswith("llama") and not family.startswith("llama") else name


def _known(field: str, wanted: str, names: Sequence[str]) -> str:
    known = ("auto", "none", *names)
    if wanted not in known:
        raise ValueError(f"{field}: there is no {wanted!r}, must be one of {', '.join(known)}")
    return "" if wanted == "none" else wanted
