"""What sampling needs of a sequence, worked out once per request instead of once per step."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router_service.engine.sampling.token_counts import TokenCounts
from router_service.protocol.messages import SamplingParams
from router_service.structured.matcher import Matcher


@dataclass(slots=True)
class SampleRow:
    """A sequence: the first `prompt_length` of `tokens` are the prompt, the rest generated.

    `tokens` is the request's own list, which grows. `bias_ids` and `bias_values` are the logit bias's N entries.
    `matcher` says which tokens may be drawn; None for any.
    """

    params: SamplingParams
    tokens: list[int]
    prompt_length: int
    greedy: bool = field(init=False)
    filtered: bool = field(init=False)
    penalized: bool = field(init=False)
    bias_ids: NDArray[np.int64] = field(init=False)
    bias_values: NDArray[np.float32] = field(init=False)
    counts: TokenCounts = field(init=False)
    matcher: Matcher | None = None

    def __post_init__(self) -> None:
        params = self.params
        self.greedy = params.temperature == 0
        self.filtered = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        self.penalized = params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
        self.bias_ids = np.fromiter(params.logit_bias, dtype=np.int64)
        self.bias_values = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self.counts = TokenCounts(self.prompt_length)

    @property
    def may_not_stop(self) -> bool:
        """Whether fewer than `min_tokens` tokens are generated."""
        return len(self.tokens) - self.prompt_length < self.params.min_tokens
