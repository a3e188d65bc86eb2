"""What changes logits before a token is drawn: logit bias, stop tokens that may not come yet, penalties.

In this order, as in vLLM. Each is a few operations for the whole batch: the entries of all rows are put back to back
and addressed as places in the flattened logits. B rows, V vocabulary, N entries.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from router_service.engine.sampling.rows import SampleRow

Ids = NDArray[np.int64]
Numbered = list[tuple[int, SampleRow]]


def adjust(logits_BV: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int] = ()) -> Tensor:
    """Return the logits that are drawn from, float32; those given are not modified.

    Args:
        eos_token_ids: the model's own; with a row's stop tokens they are ruled out before `min_tokens` tokens.
    """
    biased = [(index, row) for index, row in enumerate(rows) if len(row.bias_ids)]
    held = [(index, row) for index, row in enumerate(rows) if row.may_not_stop]
    penalized = [(index, row) for index, row in enumerate(rows) if row.penalized]
    if not (biased or held or penalized):
        return logits_BV
    # The log-probabilities are those before adjustments, so the given logits must stay.
    logits_BV = logits_BV.clone(memory_format=torch.contiguous_format)
    if biased:
        _bias(logits_BV, biased)
    if held:
        _rule_out_stops(logits_BV, held, eos_token_ids)
    if penalized:
        _penalize(logits_BV, penalized)
    return logits_BV


def _bias(logits_BV: Tensor, rows: Numbered) -> None:
    places_N = _places(logits_BV, [(index, row.bias_ids) for index, row in rows])
    values_N = torch.from_numpy(np.concatenate([row.bias_values for _, row in rows])).to(logits_BV.device)
    logits_BV.view(-1).index_add_(0, places_N, values_N)


def _rule_out_stops(logits_BV: Tensor, rows: Numbered, eos_token_ids: Collection[int]) -> None:
    size = logits_BV.shape[1]
    places_N = _places(logits_BV, [(index, _stops(row, eos_token_ids, size)) for index, row in rows])
    logits_BV.view(-1).index_fill_(0, places_N, float("-inf"))


def _stops(row: SampleRow, eos_token_ids: Collection[int], size: int) -> Ids:
    eos = () if row.params.ignore_eos else eos_token_ids
    # A checkpoint may name an end-of-sequence token that its head does not have.
    return np.array([id for id in (*row.params.stop_token_ids, *eos) if id < size], dtype=np.int64)


def _penalize(logits_BV: Tensor, rows: Numbered) -> None:
    """Apply repetition (Keskar et al. 2019, prompt included), frequency and presence (generated only) penalties."""
    for _, row in rows:
        row.counts.update(row.tokens)
    places_N = _places(logits_BV, [(index, row.counts.ids_N) for index, row in rows])
    # Not by indexing with brackets: `index_select` and `scatter_` take a third of the time on a CPU.
    values_N = logits_BV.view(-1).index_select(0, places_N)
    penalty_N = _repeated(rows, [row.params.repetition_penalty for _, row in rows], values_N)
    values_N = torch.where(values_N > 0, values_N / penalty_N, values_N * penalty_N)
    if any(row.params.frequency_penalty or row.params.presence_penalty for _, row in rows):
        values_N -= _amounts(rows, values_N)
    logits_BV.view(-1).scatter_(0, places_N, values_N)


def _amounts(rows: Numbered, like_N: Tensor) -> Tensor:
    """What the frequency and presence penalties subtract."""
    generated_N = torch.from_numpy(np.concatenate([row.counts.generated_N for _, row in rows])).to(like_N.device)
    frequency_N = _repeated(rows, [row.params.frequency_penalty for _, row in rows], like_N)
    presence_N = _repeated(rows, [row.params.presence_penalty for _, row in rows], like_N)
    return frequency_N * generated_N + presence_N * (generated_N > 0)


def _repeated(rows: Numbered, values: list[float], like_N: Tensor) -> Tensor:
    """Each row's value for each of its distinct tokens, float32 [N]; a scalar [] if all rows have the same."""
    if len(set(values)) == 1:
        return torch.tensor(values[0], dtype=torch.float32, device=like_N.device)
    sizes = [len(row.counts.ids_N) for _, row in rows]
    return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), sizes)).to(like_N.device)


def _places(logits_BV: Tensor, entries: Sequence[tuple[int, Ids]]) -> Tensor:
    """Where the ids of each (row, ids) lie in the flattened logits, int64 [N]."""
    starts = np.array([index for index, _ in entries]) * logits_BV.shape[1]
    places_N = np.concatenate([ids for _, ids in entries]) + np.repeat(starts, [len(ids) for _, ids in entries])
    return torch.from_numpy(places_N).to(logits_BV.device)
