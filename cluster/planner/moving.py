"""How much memory a shard may fill with experts while placements change. Pure functions of the configuration."""

from math import ceil

from cluster.config import ClusterConfig
from cluster.planner.memory_plan import most_held
from cluster.planner.model import ServedModel


def moving_experts(config: ClusterConfig) -> float:
    """Experts of each layer that a shard may load beside those of an even placement: its extra copies, twice.

    While a placement changes a shard holds what both give it. The second half lets it take over
    `balance.extra_copies` experts of each layer before it gives any up.
    """
    return 2 * config.balance.extra_copies


def shard_budget(config: ClusterConfig, model: ServedModel) -> int:
    """Bytes of experts that a shard may hold, those that it loads included, without the scratch memory for that."""
    most = most_held(model.plan.spec.gate.experts, config.experts.shards, config.experts.copies)
    return model.shard_bytes(most) + ceil(moving_experts(config) * model.shard_bytes(1))
