"""How much memory a shard may fill with experts while placements change. A pure function of the configuration."""

import math

from cluster.config import ClusterConfig
from cluster.planner.memory_plan import most_held
from cluster.planner.model import ServedModel


def extra_bytes(config: ClusterConfig, model: ServedModel) -> int:
    """Beside the experts that an even placement gives a shard: its extra copies, and as much again.

    While a placement changes a shard holds what both give it. The second half lets it take over `balance.extra_copies`
    experts of each layer before it gives any up.
    """
    return math.ceil(2 * config.balance.extra_copies * model.shard_bytes(1))


def shard_budget(config: ClusterConfig, model: ServedModel) -> int:
    """Bytes of experts that a shard may hold, those that it loads included, without the scratch memory for that."""
    most = most_held(model.plan.spec.gate.experts, config.experts.shards, config.experts.copies)
    return model.shard_bytes(most) + extra_bytes(config, model)
