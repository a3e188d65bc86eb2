"""Groups of layers that can share a cache: those with the same rows per token and the same reach back.

Pure data, no tensors. `router_service.models.kv_cache` reserves the storage.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import prod

from router_service.models.attention_forms import Row
from router_service.models.spec import ModelSpec
from router_service.models.view import CacheKind, View


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """`layers` of one kind. `rows` is what each of them caches per token: one row in each tensor of the group.

    `remembers` is the most tokens that a token attends to, itself included; older ones are not read again. None if it
    is the whole context.
    """

    kind: CacheKind
    rows: tuple[Row, ...]
    remembers: int | None
    layers: tuple[int, ...]

    @property
    def elements_per_token(self) -> int:
        """Elements that a token occupies in all layers of the group."""
        return len(self.layers) * sum(prod(row) for row in self.rows)

    def first_seen(self, position: int) -> int:
        """Return the first position that a token at `position` reads."""
        return self.view.first_seen(position)

    @property
    def view(self) -> View:
        """Which tokens a token attends to in its layers; blocks wholly before those may be given back."""
        return View(chunk=self.remembers) if self.kind is CacheKind.CHUNK else View(window=self.remembers)


def cache_groups(spec: ModelSpec) -> tuple[CacheGroup, ...]:
    """Return the groups in the order of their first layers; each layer is in one."""
    together: dict[tuple[CacheKind, tuple[Row, ...], int | None], list[int]] = defaultdict(list)
    for number, layer in enumerate(spec.per_layer):
        form = layer.attention
        together[form.cache_kind, form.cache_rows, form.view.remembers].append(number)
    return tuple(
        CacheGroup(kind=kind, rows=rows, remembers=remembers, layers=tuple(layers))
        for (kind, rows, remembers), layers in together.items()
    )
