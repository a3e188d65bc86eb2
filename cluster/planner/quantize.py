"""`weights.quantize`: which matrices of a checkpoint in floats are rounded when they are loaded, and to what."""

from dataclasses import replace

from experts.checkpoint.errors import CheckpointError
from experts.config import Quantize, WeightsConfig
from kernels.formats.rounding import Rounding
from router_service.models.spec import TensorMap
from router_service.models.weights import is_projection

# Inputs that share a scale unless it is said: what that costs in quality and saves in bytes is measured in
# tests/benchmarks/README.md.
GROUPS: dict[Quantize, int] = {"int8": 128, "int4": 32}
ROUNDED = tuple(GROUPS)
# The head's rounding errors go straight into the logits.
KEPT = frozenset({"head", "gate"})


def rounding_of(weights: WeightsConfig) -> Rounding | None:
    """What matrices are rounded to; None where `weights.quantize` is none."""
    if weights.quantize == "none":
        return None
    return Rounding(weights.quantize, weights.quantize_group or GROUPS[weights.quantize])


def quantized(tensors: TensorMap, weights: WeightsConfig, where: str) -> TensorMap:
    """The tensors with those marked that are to be rounded. What is stored in blocks with scales stays as it is.

    Raises:
        CheckpointError: nothing is stored in floats that the setting is about. `where` is the file that it names.
    """
    rounding = rounding_of(weights)
    if rounding is None:
        return tensors
    everything = weights.quantize_scope == "all"
    made = _rounded(tensors, rounding, everything)
    if not (made.experts.rounds or any(source.rounding for source in made.router.values())):
        what = "experts and projections" if everything else "experts"
        raise CheckpointError(
            f"{where}: weights.quantize is {weights.quantize}, but the checkpoint's {what} are in a quantized format "
            "already: set weights.quantize to none, and weights.resident to packed to keep them so"
        )
    return made


def left_alone(tensors: TensorMap, weights: WeightsConfig, where: str) -> tuple[str, ...]:
    """A line that says what of the `quantized` tensors is not rounded although the setting is about it, if anything."""
    router = any(tensors.router[name].encoded for name in _chosen(tensors)) and weights.quantize_scope == "all"
    left = ["experts"] * tensors.experts.encoded + ["projections"] * router
    if weights.quantize == "none" or not left:
        return ()
    return (f"{where}: weights.quantize leaves {' and '.join(left)} in the quantized format that they are stored in",)


def with_experts_in(tensors: TensorMap, form: Quantize) -> TensorMap | None:
    """The tensors as `weights.quantize` would make them with this form alone; None where it would change nothing."""
    rounding = rounding_of(WeightsConfig(quantize=form))
    if rounding is None or tensors.experts.rounds or tensors.experts.encoded:
        return None
    return _rounded(tensors, rounding, everything=False)


def _rounded(tensors: TensorMap, rounding: Rounding, everything: bool) -> TensorMap:
    router = tensors.router
    if everything:
        chosen = _chosen(tensors)
        router = {name: source.rounded(rounding) if name in chosen else source for name, source in router.items()}
    return replace(tensors, router=router, experts=tensors.experts.rounded(rounding))


def _chosen(tensors: TensorMap) -> set[str]:
    """The router's parameters that `quantize_scope: all` is about, by our names."""
    return {name for name in tensors.router if is_projection(name) and name.rpartition(".")[2] not in KEPT}
