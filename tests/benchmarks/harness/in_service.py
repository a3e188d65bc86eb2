"""What the router's own metrics say of a while of pure decoding: phases of the exchange, stages of the step."""

from typing import Any

from experts.timing.phase import PHASES, Phase
from tests.benchmarks.harness.cluster_side import Cluster, Metrics
from tests.benchmarks.harness.sides import Tokens


def gate_of(cluster: Cluster) -> tuple[int, int, int]:
    """Experts, experts per token, hidden size."""
    from cluster.planner.model import open_model

    spec = open_model(cluster.config.model, cluster.config.weights).plan.spec
    return spec.gate.experts, spec.gate.top_k, spec.hidden


def watch(cluster: Cluster, prompts: list[Tokens], seconds: float, new_tokens: int) -> dict[str, Any]:
    """Means over a while of decoding `prompts` at once: seconds a call by phase, a step by stage, bytes a call.

    `new_tokens` are enough for that while; the streams are given up behind it.
    """
    counted = cluster.watch_decode(prompts, seconds, new_tokens)
    calls = total(counted, "alltoall_phase_seconds_count", phase=Phase.COMPUTE)
    steps = total(counted, "step_seconds_count", kind="decode")
    if not calls or not steps:
        raise RuntimeError("no decode step was reported in the time watched: take longer (--seconds)")
    return {
        "phases": {p: total(counted, "alltoall_phase_seconds_sum", phase=p) / calls for p in PHASES},
        "stages": _stages(counted, steps),
        "step": total(counted, "step_seconds_sum", kind="decode") / steps,
        "engine tokens/s": len(prompts) * steps / total(counted, "step_seconds_sum", kind="decode"),
        "bytes out": total(counted, "alltoall_bytes_total", direction="dispatch") / calls,
        "bytes back": total(counted, "alltoall_bytes_total", direction="combine") / calls,
    }


def total(counted: Metrics, name: str, **labels: str) -> float:
    """The sum of a name's samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in counted.items() if found == name and wanted <= set(has))


def _stages(counted: Metrics, steps: float) -> dict[str, float]:
    names = {dict(labels)["stage"] for name, labels in counted if name == "step_stage_seconds_total"}
    return {stage: total(counted, "step_stage_seconds_total", stage=stage) / steps for stage in sorted(names)}
