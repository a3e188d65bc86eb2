"""Where a checkpoint's experts lie: one tensor for each matrix of each expert, or a layer's experts in one tensor."""

from collections.abc import Callable

from experts.checkpoint.manifest import ExpertManifest, ExpertSource
from experts.checkpoint.source import Layout, Part, stacked
from router_service.models.families.names import TensorNames
from router_service.models.spec import ModelSpec


def manifest(
    spec: ModelSpec,
    there: TensorNames,
    block: Callable[[int], str],
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> ExpertManifest:
    """The experts of a family whose makers store each one's three `matrices`; transformers may have fused them.

    `block` is what the names of a layer's MoE block begin with.
    """
    fused = there.has(f"{block(spec.moe_layers[0])}.experts.gate_up_proj")
    source = fused_experts(spec, block) if fused else _separate_experts(spec, there, block, matrices)
    return manifest_of(spec, source)


def manifest_of(spec: ModelSpec, source: Callable[[int, int], ExpertSource]) -> ExpertManifest:
    """All experts of a model, each where `source` says."""
    return ExpertManifest(spec.hidden, spec.expert_ffn, spec.moe_layers, spec.gate.experts, spec.form, source)


def fused_experts(
    spec: ModelSpec,
    block: Callable[[int], str],
    gate_up: Layout = Layout.PLAIN,
    down: Layout = Layout.PLAIN,
    biases: bool = False,
) -> Callable[[int, int], ExpertSource]:
    """Experts of a layer in one tensor each for gate and up, and for down; biases lie as gate and up in turn."""
    hidden, ffn = spec.hidden, spec.expert_ffn

    def source(layer: int, expert: int) -> ExpertSource:
        prefix, entry = f"{block(layer)}.experts", (expert, spec.gate.experts)
        up_bias = Part(f"{prefix}.gate_up_proj_bias", (2 * ffn,), Layout.INTERLEAVED, entry)
        down_bias = Part(f"{prefix}.down_proj_bias", (hidden,), entry=entry)
        return ExpertSource(
            gate_up=stacked(Part(f"{prefix}.gate_up_proj", (2 * ffn, hidden), gate_up, entry)),
            down=stacked(Part(f"{prefix}.down_proj", (hidden, ffn), down, entry)),
            gate_up_bias=stacked(up_bias) if biases else None,
            down_bias=stacked(down_bias) if biases else None,
        )

    return source


def _separate_experts(
    spec: ModelSpec, there: TensorNames, block: Callable[[int], str], matrices: tuple[str, str, str]
) -> Callable[[int, int], ExpertSource]:
    hidden, ffn = spec.hidden, spec.expert_ffn

    def source(layer: int, expert: int) -> ExpertSource:
        gate, up, down = (f"{block(layer)}.experts.{expert}.{name}.weight" for name in matrices)
        return ExpertSource(
            stacked(there.matrix(gate, ffn, hidden), there.matrix(up, ffn, hidden)),
            stacked(there.matrix(down, hidden, ffn)),
        )

    return source
