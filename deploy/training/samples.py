"""What the model writes: greedy continuations of a few prompts, for the report."""

import torch
from corpus import END_OF_TEXT, TURN_END, TURN_START
from model import MoeModel
from tokenizers import Tokenizer

TEXT_PROMPTS = (
    "import os\n",
    "def read_file(path):\n",
    "class Queue:\n",
    'The "while" statement\n',
)
CHAT_PROMPTS = (
    "Document os.path.exists",
    "What is the module heapq for?",
    "Write threading.Thread.start",
)
LONGEST = 96


def demo_samples(model: MoeModel, tokenizer: Tokenizer) -> list[dict[str, str]]:
    texts = [{"prompt": prompt, "text": greedy(model, tokenizer, prompt)} for prompt in TEXT_PROMPTS]
    return texts + [{"user": q, "assistant": greedy(model, tokenizer, chat_prompt(q))} for q in CHAT_PROMPTS]


def chat_prompt(question: str) -> str:
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


@torch.inference_mode()
def greedy(model: MoeModel, tokenizer: Tokenizer, prompt: str) -> str:
    """The continuation alone; the whole sequence is computed again for every token."""
    ids = tokenizer.encode(prompt).ids
    begin, ends = len(ids), {tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(TURN_END)}
    while len(ids) < begin + LONGEST:
        logits_BSV, _ = model(torch.tensor([ids]))
        token = int(logits_BSV[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return tokenizer.decode(ids[begin:])
