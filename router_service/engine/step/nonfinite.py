"""Logits that are not finite: whose they are, where it began, and what must not stay behind.

The look for the layer reads the sequence's cache, and only when there is a fault: each layer's keys and values are
those of its input, so the first layer that has cached something not finite is where it began, or the one behind it.
"""

import torch
from torch import Tensor

from router_service.models.kv_cache import KVCache
from router_service.models.step_batch import Segment


def nonfinite_rows(logits_BV: Tensor) -> list[int]:
    """The rows with a logit that is not finite."""
    # One sum per row shows a NaN or an infinity. A sum can overflow too, so the few that do are looked at whole.
    suspects = (~logits_BV.sum(-1).isfinite()).nonzero().flatten().tolist()
    return [row for row in suspects if not bool(logits_BV[row].isfinite().all())]


def origin(cache: KVCache, layers: int, segment: Segment) -> str:
    """Say where a sequence's values ceased to be finite, as far as its cache tells."""
    for layer in range(layers):
        if not all(bool(tensor[segment.slots].isfinite().all()) for tensor in cache.of_layer(layer)):
            before = f"layer {layer - 1}" if layer else "the embedding"
            return f"the keys and values of layer {layer} are the first that are not, so it began there or in {before}"
    return f"all keys and values are, so it began in layer {layers - 1} or behind it"


def scrub(cache: KVCache, segment: Segment) -> None:
    """Replace what is not finite in a sequence's cache by zeros.

    Its blocks go to other sequences: a kernel that reads past a context multiplies by zero, and NaN stays NaN then.
    """
    for storage in cache.groups:
        for tensor in storage.tensors:
            tensor[:, segment.slots] = torch.nan_to_num(tensor[:, segment.slots], nan=0.0, posinf=0.0, neginf=0.0)
