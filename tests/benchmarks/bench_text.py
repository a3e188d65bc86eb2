"""How long the event loop of a Front stands still while a long text is encoded or decoded.

    python -m tests.benchmarks.bench_text

A heartbeat task on the same loop asks to be woken every millisecond; its longest wait is the longest pause of every
stream of that Front. The tokenizers are small ones of each kind: what a pause depends on is the number of tokens.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from router_service.front.api.prompts.prompt import encode_input, encode_request
from router_service.front.api.prompts.token_texts import MAX_DETOKENIZED, text_of_ids
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.text.generation_config import SamplingDefaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from router_service.text.tokenizer import Tokenizer
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.front.front_fakes import byte_fallback_tokenizer, byte_level_tokenizer
from tests.unit.text.sentencepiece_fakes import model, write_model
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

HEARTBEAT_S = 0.001
LIMITS = LengthLimits(context=200_000, prompt=199_999, vocabulary=200_000)
SMALL = LengthLimits(context=4096, prompt=4095, vocabulary=200_000)
WORDS = "hello world, the quick brown fox: 1234 über\n"


def tokenizers() -> dict[str, Tokenizer]:
    """One of each kind."""
    with tempfile.TemporaryDirectory() as directory:
        pieces = load_tokenizer(write_model(Path(directory), model()))
    level, fallback = JsonTokenizer(byte_level_tokenizer()), JsonTokenizer(byte_fallback_tokenizer())
    return {"byte-level": level, "byte-fallback": fallback, "tiktoken": kimi_tokenizer(), "sentencepiece": pieces}


async def longest_pause(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """The longest pause of the event loop during a call and the call's time, in seconds."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(HEARTBEAT_S)
            longest = max(longest, time.perf_counter() - before - HEARTBEAT_S)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.05)
    begun = time.perf_counter()
    with suppress(RequestError):
        await call()
    seconds = time.perf_counter() - begun
    await asyncio.sleep(0.01)
    heart.cancel()
    return longest, seconds


def calls(tokenizer: Tokenizer, megabytes: int) -> dict[str, Callable[[], Awaitable[object]]]:
    """What is measured: a full Detokenize, a long prompt, and one that is refused."""
    text = TextModel(tokenizer, None, SamplingDefaults())
    fitting = WORDS * (100_000 // len(tokenizer.encode(WORDS, add_special_tokens=False)))
    long = WORDS * ((megabytes << 20) // len(WORDS))
    ids = (tokenizer.encode(WORDS, add_special_tokens=False) * MAX_DETOKENIZED)[:MAX_DETOKENIZED]
    detokenize, tokenize = pb.DetokenizeRequest(ids=ids), pb.TokenizeRequest(prompt=long)
    small, large = pb.GenerateRequest(prompt=fitting), pb.GenerateRequest(prompt=long)
    return {
        "nothing": lambda: asyncio.sleep(0.5),
        f"detokenize {len(ids)} ids": lambda: text_of_ids(detokenize, tokenizer, LIMITS.vocabulary),
        f"prompt of {len(fitting)} characters": lambda: encode_input(small, text, LIMITS),
        f"tokenize {megabytes} MB": lambda: encode_request(tokenize, text, LIMITS),
        f"prompt of {megabytes} MB": lambda: encode_input(large, text, SMALL),
    }


async def measure(megabytes: int) -> None:
    """Print a line for each kind and call."""
    for kind, tokenizer in tokenizers().items():
        for name, call in calls(tokenizer, megabytes).items():
            pause, seconds = await longest_pause(call)
            print(f"{kind:14} {name:36} longest pause {pause * 1e3:7.1f} ms, took {seconds:7.3f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=15, help="of the longest text")
    asyncio.run(measure(parser.parse_args().megabytes))
