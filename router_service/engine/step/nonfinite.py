"""Logits that are not finite: whose they are, where it began, and what must not stay behind.

The look for the layer reads the sequence's cache, and only when there is a fault: each layer's keys and values are
those of its input, so the first layer that has cached something not finite is where it began, or the one behind it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from router_service.engine.scheduling.sequence import GIVEN_BACK, ScheduledSequence
from router_service.models.kv_cache import KVCache


def nonfinite_rows(logits_BV: Tensor) -> list[int]:
    """The rows with a logit that is not finite."""
    # One sum per row shows a NaN or an infinity. A sum can overflow too, so the few that do are looked at whole.
    suspects = (~logits_BV.sum(-1).isfinite()).nonzero().flatten().tolist()
    return [row for row in suspects if not bool(logits_BV[row].isfinite().all())]


def slots_of(blocks: Sequence[int], block_size: int) -> Tensor:
    """All slots of blocks."""
    blocks_N1 = torch.tensor(blocks, dtype=torch.int64)[:, None]
    return (blocks_N1 * block_size + torch.arange(block_size)).flatten()


def written_slots(item: ScheduledSequence, block_size: int) -> list[Tensor]:
    """A sequence's slots in each cache group up to its last token, without those that were given back."""
    end = item.start + len(item.token_ids)
    return [
        slots_of(table[(gone := table.count(GIVEN_BACK)) :], block_size)[: end - gone * block_size]
        for table in item.block_tables
    ]


def origin(cache: KVCache, layers: int, slots: Sequence[Tensor]) -> str:
    """Say where a sequence's values ceased to be finite, as far as its cache tells.

    Args:
        slots: those of the sequence in each cache group.
    """
    for layer in range(layers):
        here = slots[cache.group_of(layer)]
        if not all(bool(tensor[here].isfinite().all()) for tensor in cache.of_layer(layer)):
            before = f"layer {layer - 1}" if layer else "the embedding"
            return f"the keys and values of layer {layer} are the first that are not, so it began there or in {before}"
    return f"all keys and values are, so it began in layer {layers - 1} or behind it"


def scrub(cache: KVCache, slots: Sequence[Tensor]) -> None:
    """Replace what is not finite in slots of each cache group by zeros.

    Their blocks go to other sequences: a kernel that reads past a context multiplies by zero, and NaN stays NaN then.
    """
    for storage, here in zip(cache.groups, slots, strict=True):
        for tensor in storage.tensors:
            tensor[:, here] = torch.nan_to_num(tensor[:, here], nan=0.0, posinf=0.0, neginf=0.0)
