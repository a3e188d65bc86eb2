"""Which tensors a checkpoint has: publishers and transformers name some of them differently."""

from collections.abc import Container

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.source import Part
from router_service.models.families.quantization.quantization import Quantization


class TensorNames:
    """The `names` in a checkpoint, and the formats that its matrices may be in."""

    def __init__(self, names: Container[str], quantization: Quantization) -> None:
        self._names = names
        self._quantization = quantization

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._names

    def encoding(self, name: str) -> Encoding | None:
        """The format of a matrix, None where nothing marks it as quantized."""
        candidates = self._quantization.encodings(name)
        return next((encoding for encoding in candidates if self.has(encoding.marker(name))), None)

    def matrix(self, name: str, rows: int, columns: int) -> Part:
        """Return a matrix, in its format."""
        return Part(name, (rows, columns), encoding=self.encoding(name))


class PublishedNames(TensorNames):
    """In place of the names of a checkpoint of which only the configuration is known.

    A matrix is in the first format that the configuration allows, unless it is named as one that stays plain.
    """

    def __init__(self, quantization: Quantization) -> None:
        super().__init__((), quantization)

    def encoding(self, name: str) -> Encoding | None:
        """As above."""
        if self._quantization.plain(name):
            return None
        return next(iter(self._quantization.encodings(name)), None)
