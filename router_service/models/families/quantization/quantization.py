"""What a configuration says of quantized weights: the formats that a matrix may be in, and what is not used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experts.checkpoint.encodings.encoding import Encoding

# The ends of the names of tensors that only engines need which compute in few bits, and what they are.
ACTIVATION_SCALES = "activation scales"
CACHE_SCALES = "KV cache scales"
UNUSED = {
    ".input_scale": ACTIVATION_SCALES,
    ".input_zero_point": ACTIVATION_SCALES,
    ".input_global_scale": ACTIVATION_SCALES,
    ".activation_scale": ACTIVATION_SCALES,
    ".k_scale": CACHE_SCALES,
    ".v_scale": CACHE_SCALES,
    ".kv_scale": CACHE_SCALES,
}


def nothing(_: str) -> bool:
    """No module."""
    return False


@dataclass(frozen=True, slots=True)
class Quantization:
    """The formats of a checkpoint's matrices, each named by its weight, as `model.layers.0.mlp.down_proj.weight`.

    Whether a matrix is quantized at all a checkpoint's tensors decide, not the lists of a configuration, which are
    spelled in several ways: `encodings(name)` are those to look for, the first whose marker is there being the right
    one. `plain(name)` is for a model of which only the configuration is known. `unused` says by the ends of their names
    which tensors are not needed here, and what they are. `notices` are lines for the user.
    """

    encodings: Callable[[str], tuple[Encoding, ...]]
    plain: Callable[[str], bool] = nothing
    unused: Mapping[str, str] = field(default_factory=lambda: UNUSED)
    notices: tuple[str, ...] = ()

    def unused_for(self, name: str) -> str | None:
        """What a tensor that is not used is for, None for others."""
        return next((reason for end, reason in self.unused.items() if name.endswith(end)), None)


def always(*encodings: Encoding) -> Callable[[str], tuple[Encoding, ...]]:
    """The same formats for every matrix."""
    return lambda _: encodings
