"""One shard of a benchmark's checkpoint as a server on sockets, in the process that calls this."""

from pathlib import Path

import torch

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.config import WeightsConfig
from experts.placement import even_placement
from experts.shard.server import ExpertServer
from experts.shard.shard import load_shard
from experts.transport.trust.credentials import Credentials
from kernels import select


def shard_server(
    directory: Path, index: int, shards: int, credentials: Credentials, node: str, dtype: str = "auto"
) -> ExpertServer:
    """Load shard `index` of an even placement over `shards`, dequantized, and serve it; torch keeps to one thread."""
    torch.set_num_threads(1)
    model = open_model(ModelConfig(checkpoint=str(directory), dtype=dtype), WeightsConfig("dequantized"))
    shard = load_shard(
        index=index,
        placement=even_placement(model.plan.spec.gate.experts, shards),
        checkpoint=model.plan.checkpoint,
        manifest=model.plan.tensors.experts,
        dtype=model.dtype,
        device=model.device,
        ops=select.ops("auto", model.device),
    )
    return ExpertServer(shard, credentials=credentials, host="127.0.0.1", node=node, replica=f"r{index}")
