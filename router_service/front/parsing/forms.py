"""The forms of reasoning and of tool calls, by the names of their parsers, which are vLLM's."""

from collections.abc import Callable
from dataclasses import dataclass

from router_service.front.parsing.calls import Calls, MakeId, indexed_id, random_id, short_id
from router_service.front.parsing.reasoning import Tags
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools import harmony, llama, marked, mistral
from router_service.front.parsing.tools.hermes import CLOSING, OPENING, read_hermes, read_qwen_coder


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How a model calls tools. `markers` are texts that may be special tokens, which a reader must see."""

    read: Callable[[Tape, Calls], Reading[None]]
    markers: tuple[str, ...]
    make_id: MakeId = random_id


THINK = ("<think>", "</think>")
# gpt-oss's answers are read by one reader, under these two names.
HARMONY_REASONING, HARMONY_TOOLS = "openai_gptoss", "openai"
REASONING: dict[str, Tags] = {
    "qwen3": Tags(*THINK),
    "deepseek_r1": Tags(*THINK, implicit=True),
    "kimi_k2": Tags(*THINK, ends=(marked.KIMI.opening,)),
    "mistral": Tags("[THINK]", "[/THINK]"),
}
TOOLS: dict[str, ToolForm] = {
    "hermes": ToolForm(read_hermes, (OPENING, CLOSING)),
    "qwen3_coder": ToolForm(read_qwen_coder, (OPENING, CLOSING)),
    "deepseek_v3": ToolForm(marked.read_deepseek, marked.DEEPSEEK.markers),
    "deepseek_v31": ToolForm(marked.read_deepseek, marked.DEEPSEEK.markers),
    "kimi_k2": ToolForm(marked.read_kimi, marked.KIMI.markers, indexed_id),
    "llama3_json": ToolForm(llama.read_llama, llama.MARKERS),
    "llama4_pythonic": ToolForm(llama.read_llama, llama.MARKERS),
    "mistral": ToolForm(mistral.read_mistral, mistral.MARKERS, short_id),
}
REASONING_NAMES = (*REASONING, HARMONY_REASONING)
TOOL_NAMES = (*TOOLS, HARMONY_TOOLS)


def markers_of(reasoning: str, tools: str) -> tuple[str, ...]:
    """Return the texts that the parsers of these names look for and that may be special tokens."""
    if reasoning == HARMONY_REASONING or tools == HARMONY_TOOLS:
        return harmony.MARKERS
    tags = REASONING.get(reasoning)
    around = (tags.opening, tags.closing, *tags.ends) if tags else ()
    return around + (TOOLS[tools].markers if tools in TOOLS else ())
