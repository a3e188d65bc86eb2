"""Which checkpoint tensors make up each expert: data that the control plane makes and a shard loads by."""

from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExpertTensors:
    """The checkpoint names of one expert's three matrices."""

    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class ExpertManifest:
    """All routed experts of a model: `tensors[layer, expert]`, each gate and up [ffn, hidden], down [hidden, ffn]."""

    hidden: int
    ffn: int
    tensors: Mapping[tuple[int, int], ExpertTensors]

    def shapes(self) -> dict[str, Shape]:
        """Every expert tensor's expected shape by name."""
        wide, tall = (self.ffn, self.hidden), (self.hidden, self.ffn)
        shapes: dict[str, Shape] = {}
        for expert in self.tensors.values():
            shapes |= {expert.gate: wide, expert.up: wide, expert.down: tall}
        return shapes

    @property
    def elements_per_expert(self) -> int:
        """Parameters of one expert."""
        return 3 * self.hidden * self.ffn

    def layers(self) -> tuple[int, ...]:
        """The layers that have experts, ascending."""
        return tuple(sorted({layer for layer, _ in self.tensors}))

    def experts(self) -> int:
        """Experts in each MoE layer."""
        return 1 + max(expert for _, expert in self.tensors)
