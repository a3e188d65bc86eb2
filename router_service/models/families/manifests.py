"""Where a checkpoint stores its experts: a tensor for each expert's matrix, or one for all experts of a layer."""

from collections.abc import Callable

from experts.checkpoint.manifest import ExpertManifest, ExpertSource
from experts.checkpoint.source import Layout, Part, stacked
from router_service.models.families.names import TensorNames
from router_service.models.spec import ModelSpec


def manifest(
    spec: ModelSpec,
    names: TensorNames,
    block: Callable[[int], str],
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> ExpertManifest:
    """The experts of a family that is published with three `matrices` per expert; transformers may have fused them.

    `block` returns the prefix of a layer's MoE block.
    """
    fused = names.has(f"{block(spec.moe_layers[0])}.experts.gate_up_proj")
    source = fused_experts(spec, block) if fused else _separate_experts(spec, names, block, matrices)
    return manifest_of(spec, source)


def manifest_of(spec: ModelSpec, source: Callable[[int, int], ExpertSource]) -> ExpertManifest:
    """All experts of a model; `source(layer, expert)` returns where each is stored."""
    return ExpertManifest(
        hidden=spec.hidden,
        ffn=spec.expert_ffn,
        layers=spec.moe_layers,
        experts=spec.gate.experts,
        form=spec.form,
        source=source,
    )


def fused_experts(
    spec: ModelSpec,
    block: Callable[[int], str],
    gate_up: Layout = Layout.PLAIN,
    down: Layout = Layout.PLAIN,
    biases: bool = False,
) -> Callable[[int, int], ExpertSource]:
    """All experts of a layer in one tensor for gate and up and one for down; gate and up biases are interleaved."""
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
    spec: ModelSpec, names: TensorNames, block: Callable[[int], str], matrices: tuple[str, str, str]
) -> Callable[[int, int], ExpertSource]:
    hidden, ffn = spec.hidden, spec.expert_ffn

    def source(layer: int, expert: int) -> ExpertSource:
        gate, up, down = (f"{block(layer)}.experts.{expert}.{name}.weight" for name in matrices)
        return ExpertSource(
            gate_up=stacked(names.matrix(gate, ffn, hidden), names.matrix(up, ffn, hidden)),
            down=stacked(names.matrix(down, hidden, ffn)),
        )

    return source
