"""What a run measures with: the checkpoints, and how often."""

import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.config import BUNDLED
from tests.benchmarks.harness.checkpoints import ensure
from tests.benchmarks.harness.sides import Tokens

# Both models have more; what the rows compare does not depend on the tokens.
VOCABULARY = 512


@dataclass(frozen=True)
class Plan:
    """`rounds` of a row, after one that warms up; `scale` of the Qwen3-like checkpoint: full, or small for trials."""

    rounds: int = 5
    scale: str = "full"
    bundled: Path = BUNDLED

    @cached_property
    def large(self) -> Path:
        """The Qwen3-like checkpoint: written at its first use."""
        return ensure("qwen3", self.scale)


def prompt(tokens: int, *seed: object) -> Tokens:
    """Random tokens, always the same for a seed; another seed shares no beginning with it."""
    draw = random.Random(repr(seed))
    return [draw.randrange(VOCABULARY) for _ in range(tokens)]
