"""What the model writes, for the report: continuations of a few prompts, drawn as generation_config.json says."""

import torch
from checkpoint import TEMPERATURE, TOP_P
from corpus import END_OF_TEXT, TURN_END, TURN_START
from model import MoeModel
from tokenizers import Tokenizer
from torch import Tensor

# None ends in a line break: the tokenizer joins a break with the indentation after it, which a prompt would cut apart.
TEXT_PROMPTS = ("import os", "def read_file(path):", "class Queue:", 'The "while" statement')
CHAT_PROMPTS = ("Document shutil.copyfile", "What does threading.Event.wait do?", "Write queue.Queue.empty")
LONGEST = 80


def demo_samples(model: MoeModel, tokenizer: Tokenizer) -> list[dict[str, str]]:
    texts = [{"prompt": prompt, "text": continuation(model, tokenizer, prompt)} for prompt in TEXT_PROMPTS]
    return texts + [{"user": q, "assistant": continuation(model, tokenizer, chat_prompt(q))} for q in CHAT_PROMPTS]


def chat_prompt(question: str) -> str:
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


@torch.inference_mode()
def continuation(model: MoeModel, tokenizer: Tokenizer, prompt: str, seed: int = 0) -> str:
    """The new text alone, drawn with a fixed seed; the whole sequence is computed again for every token."""
    draws = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    begin, ends = len(ids), {tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(TURN_END)}
    while len(ids) < begin + LONGEST:
        logits_BSV, _ = model(torch.tensor([ids]))
        token = drawn(logits_BSV[0, -1], draws)
        if token in ends:
            break
        ids.append(token)
    return tokenizer.decode(ids[begin:])


def drawn(logits_V: Tensor, draws: torch.Generator) -> int:
    """One token among the likeliest that together hold the top-p share of the probability."""
    probs, tokens = (logits_V / TEMPERATURE).softmax(dim=-1).sort(descending=True)
    kept = probs.where(probs.cumsum(dim=-1) - probs < TOP_P, 0.0)
    return int(tokens[torch.multinomial(kept, 1, generator=draws)])
