"""What changes logits before a token is drawn: logit bias, stop tokens that may not come yet, penalties.

In this order, as in vLLM. Each is a few operations for the whole batch: the entries of all rows are put back to back
and addressed as places in the flattened logits. B rows, V vocabulary, N entries.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from router_service.engine.sampling.masks import may_wait
from router_service.engine.sampling.rows import SampleRow

Ids = NDArray[np.int64]
Numbered = list[tuple[int, SampleRow]]


@contextmanager
def adjusted(logits_BV: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int] = ()) -> Iterator[None]:
    """Adjust contiguous float32 logits in place for the time of the block; afterwards they are as before.

    The log-probabilities are those before adjustments, and a copy of all logits would cost more than the adjustments.

    Args:
        eos_token_ids: the model's own; with a row's stop tokens they are ruled out before `min_tokens` tokens.
    """
    flat_N, size = logits_BV.view(-1), logits_BV.shape[1]
    undo: list[tuple[Tensor, Tensor]] = []
    try:
        for places_N, values_N in _changes(flat_N, size, rows, eos_token_ids):
            undo.append((places_N, flat_N.index_select(0, places_N)))
            # Not by indexing with brackets: `index_select` and `scatter_` take a third of the time on a CPU.
            flat_N.scatter_(0, places_N, values_N)
        yield
    finally:
        for places_N, values_N in reversed(undo):
            flat_N.scatter_(0, places_N, values_N)


def _changes(
    flat_N: Tensor, size: int, rows: Sequence[SampleRow], eos_token_ids: Collection[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield places in the flattened logits and their new values; each sees the change before it."""
    if biased := [(index, row) for index, row in enumerate(rows) if len(row.bias_ids)]:
        places_N = _places(flat_N, size, [(index, row.bias_ids) for index, row in biased])
        bias_N = torch.from_numpy(np.concatenate([row.bias_values for _, row in biased])).to(flat_N.device)
        yield places_N, flat_N.index_select(0, places_N) + bias_N
    if held := _held(rows, eos_token_ids, size):
        places_N = _places(flat_N, size, held)
        yield places_N, torch.full((len(places_N),), float("-inf"), device=flat_N.device)
    if penalized := [(index, row) for index, row in enumerate(rows) if row.penalized]:
        for _, row in penalized:
            row.counts.update(row.tokens)
        places_N = _places(flat_N, size, [(index, row.counts.ids_N) for index, row in penalized])
        yield places_N, _penalized(flat_N.index_select(0, places_N), penalized)


def _held(rows: Sequence[SampleRow], eos_token_ids: Collection[int], size: int) -> list[tuple[int, Ids]]:
    """The rows that may not stop yet, with their stop tokens, but for those whose grammar allows nothing else."""
    stops = [(index, _stops(row, eos_token_ids, size)) for index, row in enumerate(rows) if row.may_not_stop]
    return [(index, ids) for index, ids in stops if may_wait(rows[index], ids.tolist())]


def _stops(row: SampleRow, eos_token_ids: Collection[int], size: int) -> Ids:
    eos = () if row.params.ignore_eos else eos_token_ids
    # A checkpoint may name an end-of-sequence token that its head does not have. Each once, or undoing would not be.
    return np.array([id for id in {*row.params.stop_token_ids, *eos} if id < size], dtype=np.int64)


def _penalized(values_N: Tensor, rows: Numbered) -> Tensor:
    """Apply repetition (Keskar et al. 2019, prompt included), frequency and presence (generated only) penalties."""
    penalty_N = _repeated(rows, [row.params.repetition_penalty for _, row in rows], values_N)
    values_N = torch.where(values_N > 0, values_N / penalty_N, values_N * penalty_N)
    if any(row.params.frequency_penalty or row.params.presence_penalty for _, row in rows):
        values_N -= _amounts(rows, values_N)
    return values_N


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


def _places(flat_N: Tensor, size: int, entries: Sequence[tuple[int, Ids]]) -> Tensor:
    """Where the ids of each (row, ids) lie in the flattened logits of `size` a row, int64 [N]."""
    starts = np.array([index for index, _ in entries]) * size
    places_N = np.concatenate([ids for _, ids in entries]) + np.repeat(starts, [len(ids) for _, ids in entries])
    return torch.from_numpy(places_N).to(flat_N.device)
