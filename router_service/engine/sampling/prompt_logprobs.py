"""Log-probabilities of a prompt's own tokens. T rows of the step, D hidden, R rows scored at once, V vocabulary."""

from collections.abc import Callable, Sequence

from torch import Tensor

from router_service.engine.sampling.logprobs import score_tokens
from router_service.protocol.messages import Logprob, TokenLogprobs

# Float32 logits of a whole prompt would take gigabytes: 8192 rows of 151,936 tokens are 5 GB, and these 160 MB.
ROWS_AT_ONCE = 256


def score_rows(head: Callable[[Tensor], Tensor], x_TD: Tensor, tokens: Sequence[int], best: int) -> list[TokenLogprobs]:
    """Return the log-probability that row number n predicts of token number n, and of the `best` best tokens there.

    Args:
        head: returns logits_RV, float32, of hidden states x_RD.
        x_TD: hidden states behind the last layer, one row for each of `tokens`.
    """
    scores: list[TokenLogprobs] = []
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        part = tokens[start : start + ROWS_AT_ONCE]
        scores += score_tokens(head(x_TD[start : start + len(part)]), part, [best] * len(part))
    return scores


def unpredicted(token: int) -> TokenLogprobs:
    """The entry of a prompt's first token, which nothing predicts: 0, so that it does not count in a sum."""
    return TokenLogprobs(Logprob(token, 0.0), [])
