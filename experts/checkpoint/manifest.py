"""Which checkpoint tensors make up each routed expert: data that a family makes and a shard loads by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from experts.checkpoint.source import TensorSource
from experts.checkpoint.stored import Stored
from kernels.formats.rounding import Rounding
from kernels.weights import ExpertForm


@dataclass(frozen=True, slots=True)
class ExpertSource:
    """One expert: `gate_up` [2F, D] (gate rows first), `down` [D, F], and the biases [2F] and [D] that some have."""

    gate_up: TensorSource
    down: TensorSource
    gate_up_bias: TensorSource | None = None
    down_bias: TensorSource | None = None

    def tensors(self) -> tuple[TensorSource, ...]:
        """All that the expert has."""
        return tuple(t for t in (self.gate_up, self.down, self.gate_up_bias, self.down_bias) if t is not None)

    def rounded(self, rounding: Rounding) -> "ExpertSource":
        """The same, matrices that are stored in floats to be rounded when they are read."""
        return replace(self, gate_up=self.gate_up.rounded(rounding), down=self.down.rounded(rounding))


@dataclass(frozen=True, slots=True)
class ExpertManifest:
    """All routed experts of a model, all of one shape: `experts` in each of `layers`, of `hidden` D and `ffn` F.

    `source(layer, expert)` says where one lies: made when asked for, since a large model has 10^4 of them.
    """

    hidden: int
    ffn: int
    layers: tuple[int, ...]
    experts: int
    form: ExpertForm
    source: Callable[[int, int], ExpertSource]

    def stored(self) -> Iterator[Stored]:
        """Every tensor that the checkpoint must hold; one that holds all experts of a layer comes once for each."""
        for layer in self.layers:
            for expert in range(self.experts):
                for tensor in self.source(layer, expert).tensors():
                    yield from tensor.stored()

    def rounded(self, rounding: Rounding) -> "ExpertManifest":
        """The same experts, their matrices rounded when they are read; see `TensorSource.rounded`."""
        return replace(self, source=lambda layer, expert: self.source(layer, expert).rounded(rounding))

    @property
    def rounds(self) -> bool:
        """Whether any matrix of the experts is rounded when it is read."""
        return any(tensor.rounding is not None for tensor in self._one().tensors())

    @property
    def elements_per_expert(self) -> int:
        """Parameters of one expert."""
        return sum(tensor.elements for tensor in self._one().tensors())

    def bytes_per_expert(self, dtype: torch.dtype, packed: bool) -> int:
        """Bytes in memory of one expert of one layer."""
        return sum(tensor.resident_bytes(dtype, packed) for tensor in self._one().tensors())

    @property
    def encoded(self) -> bool:
        """Whether the experts' matrices are stored in blocks with scales."""
        return self._one().gate_up.encoded

    def _one(self) -> ExpertSource:
        # All experts of a model have one shape and encoding, so the first stands for all.
        return self.source(self.layers[0], 0)
