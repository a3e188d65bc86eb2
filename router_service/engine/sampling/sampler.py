"""Drawing the next token of each sequence: adjustments, temperature, filters, then one uniform number.

The number is a hash of (seed, position), and every choice depends on the row's own logits only, so a request draws the
same tokens whatever shares its batch and whichever router continues it. Rows are drawn in three groups, each at once:
the best token, from the whole distribution, from what filters leave. B rows, V vocabulary, N candidates of a row.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.engine.sampling.adjustments import adjusted
from router_service.engine.sampling.filters import filtered_candidates
from router_service.engine.sampling.logprobs import score_tokens
from router_service.engine.sampling.masks import masked
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.uniform import uniform
from router_service.protocol.messages import TokenLogprobs

SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token and, if requested, its log-probability and those of the best tokens."""

    token: int
    logprobs: TokenLogprobs | None


def sample(logits_BV: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int] = ()) -> list[Drawn]:
    """Draw one token per row from contiguous float32 logits, which are the same afterwards.

    Args:
        eos_token_ids: the model's own, which `min_tokens` rules out for a time.
    """
    with adjusted(logits_BV, rows, eos_token_ids):
        tokens = _draw(masked(logits_BV, rows), rows)
    logprobs = _logprobs(logits_BV, rows, tokens)
    return [Drawn(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]


def _draw(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    tokens = [0] * len(rows)
    greedy = [index for index, row in enumerate(rows) if row.greedy]
    plain = [index for index, row in enumerate(rows) if not (row.greedy or row.filtered)]
    filtered = [index for index, row in enumerate(rows) if row.filtered and not row.greedy]
    if greedy:
        _put(tokens, greedy, _picked(logits_BV, greedy).argmax(dim=-1).tolist())
    if plain:
        _put(tokens, plain, _draw_plain(_picked(logits_BV, plain), [rows[i] for i in plain]))
    if filtered:
        _put(tokens, filtered, _draw_filtered(_picked(logits_BV, filtered), [rows[i] for i in filtered]))
    return tokens


def _picked(logits_BV: Tensor, places: list[int]) -> Tensor:
    # Usually all rows are drawn one way, and need not be copied then.
    return logits_BV if len(places) == len(logits_BV) else logits_BV[places]


def _put(tokens: list[int], places: list[int], values: list[int]) -> None:
    for place, value in zip(places, values, strict=True):
        tokens[place] = value


def _draw_plain(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    return _invert(_heated(logits_BV, rows).softmax(-1), rows).tolist()


def _draw_filtered(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    weights_BN, ids_BN = filtered_candidates(_heated(logits_BV, rows), rows)
    tokens: list[int] = ids_BN.gather(1, _invert(weights_BN, rows)[:, None]).squeeze(1).tolist()
    return tokens


def _heated(logits_BV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    # In float32 a smaller one could be 0, and the best logit's 0 over it NaN; any so small draws the best.
    temperatures = [[max(row.params.temperature, SMALLEST)] for row in rows]
    temperature_B1 = torch.tensor(temperatures, device=logits_BV.device)
    return (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature_B1  # the best stays 0 however small it is


def _invert(weights_BN: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The place [B] where the running sum of weights passes the row's uniform number (inverse transform sampling)."""
    # In float32 the running sum over a large vocabulary would round small probabilities away.
    sums_BN = weights_BN.double().cumsum(-1)
    shares_B = torch.from_numpy(uniform([row.params.seed for row in rows], [len(row.tokens) for row in rows]))
    most_B1 = sums_BN[:, -1:]
    points_B1 = shares_B.to(sums_BN.device)[:, None] * most_B1
    # Rounding can take the point to the last sum, behind which there is nothing, or only what is ruled out.
    points_B1 = torch.minimum(points_B1, torch.nextafter(most_B1, torch.zeros_like(most_B1)))
    return torch.searchsorted(sums_BN, points_B1, right=True).squeeze(1)


def _logprobs(logits_BV: Tensor, rows: Sequence[SampleRow], tokens: list[int]) -> list[TokenLogprobs | None]:
    asking = [(index, row.params.logprobs) for index, row in enumerate(rows) if row.params.logprobs is not None]
    found: list[TokenLogprobs | None] = [None] * len(rows)
    if asking:
        places, counts = [index for index, _ in asking], [count for _, count in asking]
        scored = score_tokens(_picked(logits_BV, places), [tokens[index] for index in places], counts)
        for place, one in zip(places, scored, strict=True):
            found[place] = one
    return found
