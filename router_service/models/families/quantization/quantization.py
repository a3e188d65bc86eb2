"""What a configuration says of quantized weights: the formats that a matrix may be in, and what is ignored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experts.checkpoint.encodings.encoding import Encoding


def _none(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Quantization:
    """The formats of a checkpoint's matrices, each named by its weight, as `model.layers.0.mlp.down_proj.weight`.

    Whether a matrix is quantized at all a checkpoint's tensors decide, not the lists of a configuration, which are
    spelled in several ways: `encodings(name)` are those to look for, the first whose marker is there being the right
    one. `plain(name)` is for a model of which only the configuration is known. `unused` says by the ends of their names
    which tensors are not needed here, and what they are.
    """

    encodings: Callable[[str], tuple[Encoding, ...]]
    plain: Callable[[str], bool] = _none
    unused: Mapping[str, str] = field(default_factory=dict)

    def unused_for(self, name: str) -> str | None:
        """What a tensor that is not used is for, None for others."""
        return next((reason for end, reason in self.unused.items() if name.endswith(end)), None)


def always(*encodings: Encoding) -> Callable[[str], tuple[Encoding, ...]]:
    """The same formats for every matrix."""
    return lambda _: encodings
