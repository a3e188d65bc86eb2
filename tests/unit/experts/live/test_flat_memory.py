"""Experts that come and go leave resident memory flat, and what is given up goes back to the system."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import write_checkpoint

CYCLES, EACH = 5, 6
# Experts of 3 MB, so that a cycle's are far more than what tests' noise is.
LARGE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "head_dim": 64,
    "moe_intermediate_size": 1024,
    "intermediate_size": 1024,
    "num_experts": 24,
    "mlp_only_layers": [],
}
# What torch frees goes back at once, as that of real models' matrices does: `tests/unit/checkpoint/test_memory.py`.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
# Prints the bytes of an expert, and resident memory before all and then twice a cycle: with its experts and without.
PROGRAM = f"""
import json, sys
from dataclasses import replace
from pathlib import Path
import psutil, torch
from cluster.planner.quantize import quantized
from experts.checkpoint.directory import Checkpoint
from experts.config import WeightsConfig
from experts.shard.held.loader import ExpertLoader
from experts.shard.live_experts import LiveExperts
from experts.shard.shard import ExpertShard
from kernels import select
from router_service.models.families.registry import plan_model

torch.set_num_threads(1)
plan, cpu = plan_model(Checkpoint(Path(sys.argv[1]))), torch.device("cpu")
plan = replace(plan, tensors=quantized(plan.tensors, WeightsConfig("dequantized", sys.argv[3]), "the configuration"))
ops, manifest = select.ops(sys.argv[2], cpu), plan.tensors.experts
shard = ExpertShard(0, dict.fromkeys(manifest.layers, ()), {{}}, ops, cpu, 0, 0.0)
loader = ExpertLoader(plan.checkpoint, manifest, torch.bfloat16, cpu, ops)
live = LiveExperts(shard, loader)
live.hold({{layer: [0] for layer in manifest.layers}})
resident = [psutil.Process().memory_info().rss]
for cycle in range({CYCLES}):
    ids = [1 + (cycle * {EACH} + step) % 23 for step in range({EACH})]
    live.hold({{layer: ids for layer in manifest.layers}})
    resident.append(psutil.Process().memory_info().rss)
    live.keep({{layer: [0] for layer in manifest.layers}})
    resident.append(psutil.Process().memory_info().rss)
print(json.dumps([loader.expert_bytes, resident]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large")
    write_checkpoint(path, "qwen3_moe", torch.bfloat16, **LARGE)
    return path


@pytest.mark.parametrize(("backend", "quantize"), [("native", "none"), ("native", "int4"), ("cpu", "none")])
def test_cycles(large: Path, backend: str, quantize: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(large), backend, quantize]
    env = os.environ | ALLOCATOR
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=env)
    expert_bytes, (before, *resident) = json.loads(done.stdout)
    held = 2 * EACH * expert_bytes
    for full, empty in zip(resident[::2], resident[1::2], strict=True):
        assert full - before < 1.1 * held + 8e6
        assert empty - before < 0.1 * held + 8e6
