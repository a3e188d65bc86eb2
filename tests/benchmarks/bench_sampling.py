"""What a repetition penalty costs: a decode step with and without it, and the sampler's share alone.

    python -m tests.benchmarks.bench_sampling

The bundled model in one process decodes a batch of streams behind long prompts, pieces of this repository's READMEs.
The penalty is switched on and off from one step to the next, so both kinds of step have the same streams, contexts and
neighbours on the machine. Last the sampler alone, for vocabularies of several sizes.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from cluster.config import BUNDLED
from cluster.table import table
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.sampler import sample
from router_service.protocol.messages import SamplingParams
from router_service.text.text_model import load_text_model
from tests.benchmarks.harness.sides import OneProcess

ROOT = Path(__file__).parents[2]
PENALTY, CONTEXT, BATCH = 1.05, 900, 32
VOCABULARIES = (3072, 32_000, 151_936)


@dataclass(frozen=True)
class Pair:
    """Seconds without and with the penalty, medians; `ratio` is the median over neighbours of without / with."""

    off: float
    on: float
    ratio: float


def prompts(batch: int, context: int, vocabulary: int) -> list[list[int]]:
    """Pieces of the READMEs, one for each stream; a small vocabulary folds the bundled model's tokens."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("*/README.md")))
    ids = [id % vocabulary for id in load_text_model(BUNDLED).tokenizer.encode(text, add_special_tokens=False)]
    starts = [number * len(ids) // batch for number in range(batch)]
    return [(ids + ids)[start : start + context] for start in starts]


def paired(seconds: Iterator[tuple[float, float]]) -> Pair:
    """Compare each measurement with its neighbour, as the machine drifts."""
    pairs = list(seconds)
    return Pair(*(median(side) for side in zip(*pairs, strict=True)), median(off / on for off, on in pairs))


def steps(side: OneProcess, batch: int, context: int, rounds: int) -> Pair:
    """Decode with the penalty in every second step."""
    pieces = prompts(batch, context, side.engine.backbone.spec.vocabulary)
    side.submit(pieces, 2 * rounds + 2 + batch, repetition_penalty=PENALTY)
    requests = list(side.engine.requests)
    while any(not request.generated for request in requests):
        if failed := next((event.failure for event in side.engine.step() if event.failure), None):
            raise RuntimeError(failed.message)
    rows = [request.row for request in requests]
    pair = paired((_step(side, rows, False), _step(side, rows, True)) for _ in range(rounds))
    for request in requests:
        side.engine.cancel(request.key)
    return pair


def _step(side: OneProcess, rows: list[SampleRow], penalized: bool) -> float:
    for row in rows:
        row.penalized = penalized
    begun = time.perf_counter()
    side.engine.step()
    return time.perf_counter() - begun


def sampler(vocabulary: int, batch: int, context: int, rounds: int) -> Pair:
    """Draw for a batch of rows from random logits."""
    logits_BV = torch.randn(batch, vocabulary)
    params = SamplingParams(max_tokens=2 * rounds, temperature=0.0, repetition_penalty=PENALTY)
    rows = [SampleRow(params, tokens, len(tokens)) for tokens in prompts(batch, context, vocabulary)]

    def drawn(penalized: bool) -> float:
        for row in rows:
            row.penalized = penalized
            row.tokens.append(row.tokens[-7])
        begun = time.perf_counter()
        sample(logits_BV, rows)
        return time.perf_counter() - begun

    drawn(True)  # counts the prompts
    return paired((drawn(False), drawn(True)) for _ in range(rounds))


def render(named: dict[str, Pair]) -> str:
    """The table."""
    rows = [
        [name, f"{pair.off * 1e3:.3f}", f"{pair.on * 1e3:.3f}", f"{pair.ratio:.3f}"] for name, pair in named.items()
    ]
    return table(["", "ms without", "ms with", "tokens/s with / without"], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    side = OneProcess(BUNDLED, "bfloat16", 2 * BATCH * CONTEXT)
    named = {f"step of the bundled model, batch {BATCH}": steps(side, BATCH, CONTEXT, args.rounds)}
    for size in VOCABULARIES:
        named[f"sampler, vocabulary {size}"] = sampler(size, BATCH, CONTEXT, args.rounds)
    print(render(named))


if __name__ == "__main__":
    main()
