"""The forms of reasoning and of tool calls, by the names of their parsers, which are vLLM's."""

from collections.abc import Callable
from dataclasses import dataclass

from router_service.front.parsing.calls import Calls, MakeId, random_id
from router_service.front.parsing.reasoning import Tags
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.hermes import read_hermes, read_qwen_coder


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How a model calls tools. `markers` are texts that may be special tokens, which a reader must see."""

    read: Callable[[Tape, Calls], Reading[None]]
    markers: tuple[str, ...]
    make_id: MakeId = random_id


THINK = ("<think>", "</think>")
REASONING: dict[str, Tags] = {
    "qwen3": Tags(*THINK),
    "deepseek_r1": Tags(*THINK, implicit=True),
    "kimi_k2": Tags(*THINK, ends=("<|tool_calls_section_begin|>",)),
    "mistral": Tags("[THINK]", "[/THINK]"),
}
TOOLS: dict[str, ToolForm] = {
    "hermes": ToolForm(read_hermes, ("<tool_call>", "</tool_call>")),
    "qwen3_coder": ToolForm(read_qwen_coder, ("<tool_call>", "</tool_call>")),
}
