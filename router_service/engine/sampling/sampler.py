"""Drawing the next token of each sequence: penalties, temperature, filters, then one uniform number.

The number is a hash of (seed, position), and every choice depends on the row's own logits only, so a request draws the
same tokens whatever shares its batch and whichever router continues it. B rows, V vocabulary, N candidates of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from router_service.protocol.messages import Logprob, SamplingParams, TokenLogprobs

# Filters rarely keep more, and ordering these is much cheaper than sorting the vocabulary.
FIRST_CANDIDATES = 1024
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What sampling needs of a sequence: the first `prompt_length` of `tokens` are the prompt, the rest generated."""

    params: SamplingParams
    tokens: list[int]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token and, if requested, its log-probability and those of the best tokens."""

    token: int
    logprobs: TokenLogprobs | None


def sample(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[Drawn]:
    """Draw one token per row from float32 logits, which are not modified."""
    scored_BV = penalize(logits_BV, rows)
    tokens = scored_BV.argmax(dim=-1).tolist()
    drawing = [index for index, row in enumerate(rows) if row.params.temperature > 0]
    if drawing:
        picked_BV = scored_BV[drawing] if len(drawing) < len(rows) else scored_BV
        for index, token in zip(drawing, _draw(picked_BV, [rows[i] for i in drawing]), strict=True):
            tokens[index] = token
    logprobs = _logprobs(logits_BV, rows, tokens)
    return [Drawn(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from the seed and the position alone: two rounds of splitmix64 (Steele et al. 2014)."""
    return _splitmix64(_splitmix64(seed & _MASK64) ^ (position & _MASK64)) / 2.0**64


def _splitmix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    # 53 bits, which a float holds exactly: more could round up to 1.
    return (value ^ (value >> 31)) >> 11 << 11


def penalize(logits_BV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Apply repetition (Keskar et al. 2019, prompt included), frequency and presence (generated only) penalties."""
    if not any(_penalized(row.params) for row in rows):
        return logits_BV
    # The log-probabilities are those before penalties, so the given logits must stay.
    logits_BV = logits_BV.clone()
    for index, row in enumerate(rows):
        if _penalized(row.params):
            _penalize_row(logits_BV[index], row)
    return logits_BV


def _penalized(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def _penalize_row(logits_V: Tensor, row: SampleRow) -> None:
    params, device = row.params, logits_V.device
    seen = torch.tensor(sorted(set(row.tokens)), device=device)
    values = logits_V[seen]
    penalty = params.repetition_penalty
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    generated, counts = np.unique(np.asarray(row.tokens[row.prompt_length :], dtype=np.int64), return_counts=True)
    if len(generated):
        amount = params.frequency_penalty * torch.from_numpy(counts).float() + params.presence_penalty
        logits_V[torch.from_numpy(generated).to(device)] -= amount.to(device)


def _draw(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    temperature_B1 = torch.tensor([[row.params.temperature] for row in rows], device=logits_BV.device)
    logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature_B1  # the best stays 0 however small it is
    filtered = [index for index, row in enumerate(rows) if _filtered(row.params)]
    plain = [index for index, row in enumerate(rows) if not _filtered(row.params)]
    tokens = [0] * len(rows)
    if plain:
        ids_BV = torch.arange(logits_BV.shape[1], device=logits_BV.device).expand(len(plain), -1)
        _put(tokens, plain, _invert(logits_BV[plain].softmax(-1), ids_BV, [rows[i] for i in plain]))
    if filtered:
        _put(tokens, filtered, _draw_filtered(logits_BV[filtered], [rows[i] for i in filtered]))
    return tokens


def _filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _put(tokens: list[int], places: list[int], values: list[int]) -> None:
    for place, value in zip(places, values, strict=True):
        tokens[place] = value


def _draw_filtered(logits_BV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """Consider the best candidates first, and all tokens only if some row's filters reach beyond them."""
    probs_BV = logits_BV.softmax(-1)
    for count in (FIRST_CANDIDATES, logits_BV.shape[1]):
        ids_BN, complete = best_candidates(logits_BV, count), count >= logits_BV.shape[1]
        probs_BN = probs_BV.gather(1, ids_BN)
        kept_BN = _keep(probs_BN, rows)
        if complete or not (bool(kept_BN[:, -1].any()) or any(_needs_mass(row.params, count) for row in rows)):
            break
    return _invert(probs_BN * kept_BN, ids_BN, rows)


def _needs_mass(params: SamplingParams, count: int) -> bool:
    """Whether top_p is a share of what top_k leaves, and that is more than `count` candidates."""
    return params.top_k > count and params.top_p < 1


def best_candidates(logits_BV: Tensor, count: int) -> Tensor:
    """Return ids [B, count] of the best logits, best first, equal ones by id: an order that no batch can change.

    A float's bits, flipped where it is negative, compare as the float does; the id below them makes each key unique.
    """
    size = logits_BV.shape[1]
    bits_BV = logits_BV.view(torch.int32).long()
    ordered_BV = torch.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)
    keys_BV = (ordered_BV << 32) | torch.arange(size - 1, -1, -1, device=logits_BV.device)
    best_BN = keys_BV.topk(min(count, size), dim=-1).values
    return size - 1 - (best_BN & 0xFFFFFFFF)


def _keep(probs_BN: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Which candidates survive top_k, then top_p over what top_k left (Holtzman et al. 2020), then min_p."""
    device, count = probs_BN.device, probs_BN.shape[1]
    top_k_B1 = torch.tensor([[row.params.top_k or count + 1] for row in rows], device=device)
    top_p_B1 = torch.tensor([[row.params.top_p] for row in rows], device=device)
    min_p_B1 = torch.tensor([[row.params.min_p] for row in rows], device=device)
    kept_BN = torch.arange(count, device=device) < top_k_B1
    mass_B1 = torch.where(top_k_B1 > count, 1.0, (probs_BN * kept_BN).sum(-1, keepdim=True))
    before_BN = probs_BN.cumsum(-1) - probs_BN
    kept_BN &= (before_BN < top_p_B1 * mass_B1) | (top_p_B1 >= 1)
    kept_BN &= probs_BN >= min_p_B1 * probs_BN[:, :1]
    # Whatever the filters and their rounding, one token must remain.
    kept_BN[:, 0] = True
    return kept_BN


def _invert(weights_BN: Tensor, ids_BN: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """The token at which the running sum of weights passes the row's uniform number (inverse transform sampling)."""
    # In float32 the running sum over a large vocabulary would round small probabilities away.
    sums_BN = weights_BN.double().cumsum(-1)
    points = [[uniform(row.params.seed, len(row.tokens))] for row in rows]
    points_B1 = torch.tensor(points, dtype=torch.float64, device=sums_BN.device) * sums_BN[:, -1:]
    # Rounding can take the point to the last sum, hence the clamp.
    places_B1 = torch.searchsorted(sums_BN, points_B1, right=True).clamp_(max=ids_BN.shape[1] - 1)
    tokens: list[int] = ids_BN.gather(1, places_B1).squeeze(1).tolist()
    return tokens


def _logprobs(logits_BV: Tensor, rows: Sequence[SampleRow], tokens: list[int]) -> list[TokenLogprobs | None]:
    return [
        None if row.params.logprobs is None else _row_logprobs(logits_V, token, row.params.logprobs)
        for logits_V, row, token in zip(logits_BV, rows, tokens, strict=True)
    ]


def _row_logprobs(logits_V: Tensor, token: int, count: int) -> TokenLogprobs:
    logprobs_V = logits_V.log_softmax(-1)
    best = logprobs_V.topk(min(count, len(logprobs_V)))
    top = [Logprob(i, p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return TokenLogprobs(Logprob(token, float(logprobs_V[token])), top)
