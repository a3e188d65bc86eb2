"""Settings of the balancer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from experts.host.bounds import FilePath, Seconds, SecondsOrZero, check_settings, setting

CopyFrom = Literal["auto", "checkpoint", "peer"]


@dataclass(frozen=True, slots=True)
class BalanceConfig:
    """When experts are copied and moved while the cluster serves, and what that may cost.

    Args:
        automatic: whether the balancer moves experts by itself; else only `expertmesh rebalance` and `scale` do
        interval_seconds: how often the balancer looks at what was routed
        window_seconds: how far back it looks
        least_gain: the part of the slowest shard's time that a plan must promise to save; 0.05 is 5%
        rounds: looks in a row that must promise it, so that heat that passes moves nothing
        cooldown_seconds: least time between two plans of its own
        extra_copies: copies of experts that each shard may hold in each layer, on average, beside its own experts
        bandwidth_mib: MiB a second that each shard may read while it serves, to take over experts; 0 sets no limit
        copy_from: where shards get experts that they take over: peer asks the shards that hold them first, auto only
            where experts are decoded or rounded when they are read, or no shard of the node has them; whoever asks in
            vain reads the checkpoint
        prepare_seconds: how long shards may take to load before a plan is given up and the old placement stays
        placement_file: a placement to start from, as `expertmesh rebalance --save` writes it; empty spreads experts
            evenly
        pinned: whether the placement that the cluster started from stays: the balancer only measures
        autoscale_max_shards: the most shards that there may be by their load; 0 leaves that to `expertmesh scale`
        autoscale_min_shards: the fewest then
        autoscale_target: the part of the time in which each shard is to compute
        autoscale_up_seconds: how long they must have been busier, until there are more
        autoscale_down_seconds: how long fewer must have been enough, until there are fewer
    """

    automatic: bool = False
    interval_seconds: Seconds = 10.0
    window_seconds: Seconds = 60.0
    least_gain: Annotated[float, setting("part of the time", ge=0, lt=1)] = 0.05
    rounds: Annotated[int, setting("looks", ge=1)] = 2
    cooldown_seconds: SecondsOrZero = 60.0
    extra_copies: Annotated[float, setting("experts of each layer", ge=0)] = 1.0
    bandwidth_mib: Annotated[float, setting("MiB/s", ge=0)] = 200.0
    copy_from: CopyFrom = "auto"
    prepare_seconds: Seconds = 600.0
    placement_file: FilePath = ""
    pinned: bool = False
    autoscale_max_shards: Annotated[int, setting("processes", ge=0)] = 0
    autoscale_min_shards: Annotated[int, setting("processes", ge=1)] = 1
    autoscale_target: Annotated[float, setting("part of the time", gt=0, lt=1)] = 0.5
    autoscale_up_seconds: SecondsOrZero = 30.0
    autoscale_down_seconds: SecondsOrZero = 300.0

    def __post_init__(self) -> None:
        check_settings("balance", self)
        if 0 < self.autoscale_max_shards < self.autoscale_min_shards:
            raise ValueError(
                f"balance.autoscale_max_shards is {self.autoscale_max_shards}, it must be 0 or at least "
                f"balance.autoscale_min_shards, {self.autoscale_min_shards}"
            )
