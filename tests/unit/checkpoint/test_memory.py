"""Peak memory of loading, in processes of their own: a shard and a router need little more than what they keep."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import write_checkpoint

ALLOWED = 1.15
# A matrix of 2 MiB before it is rounded, and pieces of it in float32: as much whatever the size of the model.
ROUNDING = 6e6
# A few layers of wide experts, so that one layer's weights are a large part of all.
LARGE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "head_dim": 64,
    "vocab_size": 30000,
    "moe_intermediate_size": 1024,
    "intermediate_size": 4096,
    "num_experts": 24,
}
# Freed memory goes back at once, as that of real models' matrices does: they are beyond malloc's largest threshold of
# 32 MiB. Of ours the allocator would keep what it likes, up to a fifth of the weights from one run to the next.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
LOADER = """
import json, re, sys
from dataclasses import replace
from pathlib import Path
import torch
from cluster.planner.quantize import quantized
from experts.checkpoint.directory import Checkpoint
from experts.config import WeightsConfig
from experts.placement import even_placement
from experts.shard.shard import load_shard
from kernels import select
from router_service.models.families.registry import plan_model
from router_service.models.weights import load_router_weights, resident_bytes

torch.set_num_threads(1)
role, dtype, device = sys.argv[2], getattr(torch, sys.argv[3]), torch.device("cpu")
plan, ops = plan_model(Checkpoint(Path(sys.argv[1]))), select.ops("auto", device)
weights = WeightsConfig("dequantized", sys.argv[4], quantize_scope="all")
plan = replace(plan, tensors=quantized(plan.tensors, weights, "the configuration"))
if role == "shard":
    placement = even_placement(plan.spec.gate.experts, 2)
    kept = load_shard(
        index=0,
        placement=placement,
        checkpoint=plan.checkpoint,
        manifest=plan.tensors.experts,
        dtype=dtype,
        device=device,
        ops=ops,
    )
    size = kept.weights_bytes
else:
    kept = load_router_weights(plan.checkpoint, plan.tensors.router, dtype, device, ops)
    size = resident_bytes(plan.tensors.router, dtype, False)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([size, int(peak[1]) * 1024]))
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The large one in several files, and an empty one."""
    large, empty = tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("empty")
    model = write_checkpoint(large, "qwen3_moe", torch.bfloat16, **LARGE)
    (large / "model.safetensors").unlink()
    model.save_pretrained(large, max_shard_size="40MB")
    write_checkpoint(empty, "qwen3_moe", torch.bfloat16)
    return {"large": large, "empty": empty}


@pytest.fixture(scope="module")
def load(checkpoints: dict[str, Path]) -> Callable[..., tuple[int, int]]:
    @cache
    def run(which: str, role: str, dtype: str, quantize: str, attempt: int) -> tuple[int, int]:  # noqa: ARG001 (each is measured)
        """Return the bytes of the weights kept and the peak of resident memory."""
        env = os.environ | ALLOCATOR
        command = [sys.executable, "-c", LOADER, str(checkpoints[which]), role, dtype, quantize]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=env)
        kept, peak = json.loads(done.stdout)
        return kept, peak

    return run


def _ratio(
    load: Callable[..., tuple[int, int]], role: str, dtype: str, quantize: str, attempt: int
) -> tuple[float, int]:
    """Peaks of the large model above the empty one, by bytes kept; a busy machine only adds to it."""
    kept, peak = load("large", role, dtype, quantize, attempt)
    _, least = load("empty", role, "bfloat16", quantize, attempt)
    return (peak - least) / kept, kept


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [("bfloat16", "none"), ("float32", "none"), ("bfloat16", "int4")],
)
@pytest.mark.parametrize("role", ["shard", "router"])
def test_peak_is_near_the_weights_kept(
    load: Callable[..., tuple[int, int]], role: str, dtype: str, quantize: str
) -> None:
    """Stored as bfloat16; kept so, widened, or quantized."""
    for attempt in range(3):
        ratio, kept = _ratio(load, role, dtype, quantize, attempt)
        allowed = ALLOWED + (0 if quantize == "none" else ROUNDING / kept)
        if ratio < allowed:
            break
    assert kept > (50e6 if quantize == "none" else 20e6)
    assert 0.9 < ratio < allowed, f"{ratio:.3f} times the {kept / 1e6:.0f} MB that it keeps"
