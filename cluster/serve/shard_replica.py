"""A shard as a Serve deployment."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from cluster.config import ClusterConfig, config_from
from cluster.planner.memory_plan import MIB
from cluster.planner.model import ServedModel
from cluster.planner.moving import shard_budget
from cluster.processes.known_processes import KnownProcesses
from cluster.processes.maps.givers import Givers
from cluster.processes.maps.holding import Duty, Holding
from cluster.processes.maps.map_follower import layout_of
from cluster.processes.maps.map_view import Seen
from cluster.processes.node_peers import threads_of_shard
from cluster.processes.process import data_host, do_not_preempt, node_id, replica_id
from cluster.processes.registered_process import RegisteredProcess
from cluster.processes.service_registry import DrainOrder, endpoints_of
from cluster.serve.deployments import ORDER_SECONDS, end, open_to_load
from cluster.serve.security import credentials_of
from experts.placement import Placement
from experts.shard.copying.taker import Taker
from experts.shard.held.loader import ExpertLoader
from experts.shard.held.pace import Pace
from experts.shard.live_experts import LiveExperts
from experts.shard.server import ExpertServer
from experts.shard.shard import ExpertShard, load_shard
from experts.transport.trust.credentials import Credentials
from kernels import select
from kernels.ops import Ops

log = logging.getLogger(__name__)


class ShardReplica:
    """One expert shard."""

    def __init__(self, data: dict[str, Any], index: int, secret: bytes, digest: bytes) -> None:
        config = config_from(data)
        do_not_preempt()  # before any thread is started: threads inherit the policy
        self._process = RegisteredProcess("shard", index, config, self._drain)
        self._config = config.cluster
        with self._process.loading():
            server = self._load(config, index, secret, digest)
        self._server = server
        live = self._live_experts(config, server.shard, credentials_of(config, secret, digest))
        self._holding = Holding(Duty(index, live, self._process), self._process.threads)
        self._map.follow(self._adopt, self._process.threads)
        self._process.ready(server.endpoint, lambda: server.computed_s)

    def _load(self, config: ClusterConfig, index: int, secret: bytes, digest: bytes) -> ExpertServer:
        self._model = model = open_to_load(config, "shard")
        layout = layout_of(config, model.plan.spec.gate.experts)
        self._map = self._process.map_follower(layout)
        ops = select.ops(config.experts.backend, model.device)
        shard = self._by_the_map(lambda placement: self._load_experts(index, placement, model, ops))
        with torch.inference_mode():
            shard.warm_up()
            return ExpertServer(
                shard,
                credentials=credentials_of(config, secret, digest),
                host=data_host(config),
                node=node_id(),
                replica=replica_id(),
                checksum=config.experts.checksum,
                # Only now: shards that start together have registered while they were loading.
                threads=threads_of_shard(config, self._process.registry, len(self._map.first().holding | {index})),
                slow_call_s=config.logging.slow_call_seconds,
                watch=self._process.threads,
                copy_pace=Pace(config.balance.bandwidth_mib * MIB),
            )

    def _by_the_map(self, load: Callable[[Placement], ExpertShard]) -> ExpertShard:
        """Load what the registry gives this shard: by its first map before it says so, and again if it says another."""
        go_on = self._process.go_on
        shard = load(self._map.expected() or self._map.first(go_on))
        placement = self._map.first(go_on)
        if _is_of(shard, placement):
            shard.epoch = placement.epoch
            return shard
        del shard  # or both would be in memory
        return load(placement)

    def _load_experts(self, index: int, placement: Placement, model: ServedModel, ops: Ops) -> ExpertShard:
        self._process.will_load(model.shard_bytes(len(placement.held_by(index))))
        return load_shard(
            index=index,
            placement=placement,
            checkpoint=model.plan.checkpoint,
            manifest=model.plan.tensors.experts,
            dtype=model.dtype,
            device=model.device,
            ops=ops,
            keep_packed=model.keep_packed,
            progress=self._process.progress,
        )

    def _live_experts(self, config: ClusterConfig, shard: ExpertShard, credentials: Credentials) -> LiveExperts:
        """What may change of the shard while it serves: as fast and as much as configured."""
        model, plan = self._model, self._model.plan
        ops = select.ops(config.experts.backend, model.device)
        loader = ExpertLoader(plan.checkpoint, plan.tensors.experts, model.dtype, model.device, ops, model.keep_packed)
        budget = shard_budget(config, model) + loader.scratch_bytes(plan.spec.gate.experts)
        taker = self._taker(config, shard.index, loader, credentials)
        return LiveExperts(shard, loader, budget, Pace(config.balance.bandwidth_mib * MIB), taker)

    def _taker(self, config: ClusterConfig, index: int, loader: ExpertLoader, credentials: Credentials) -> Taker | None:
        """Takes experts from other shards' memory, as the map and the entries of that moment say who has them."""
        copy_from, known = config.balance.copy_from, KnownProcesses(self._process.registry)
        if copy_from == "checkpoint" or (copy_from == "auto" and not config.cluster.address and not self._model.remade):
            return None  # all shards of a cluster of our own are on this node
        givers = Givers(
            index=index,
            node=node_id(),
            copy_from=copy_from,
            remade=self._model.remade,
            placement=lambda: self._map.seen.current,
            shards=lambda: endpoints_of(known.ask(), "shard"),
        )
        manifest = loader.manifest
        return Taker(givers, node_id(), credentials, manifest.hidden, manifest.ffn, loader.expert_bytes)

    def check_health(self) -> None:
        """Called by Serve once a second."""
        self._server.check_health(self._config.stuck_seconds)

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_server"):
            self._holding.close()
            await end(self._process, self.check_health, self._config)
            self._server.close()

    def _adopt(self, seen: Seen) -> None:
        """Go by newer maps: what they give this shard is loaded while it serves."""
        self._server.shard.epoch = seen.current.epoch
        self._holding.take(seen)

    def _drain(self, order: DrainOrder) -> None:
        """Serve on until no router is connected: routers need their shards as long as they have requests.

        With the next beat they know, and ask other copies first.
        """
        self._server.drain()
        time.sleep(order.notice_s)
        if any(self._server.shard.held.values()):
            self._server.wait_alone(order.grace_s + ORDER_SECONDS)
        else:  # nobody needs it: it leaves the cluster, and those who look once a second are to see that
            time.sleep(ORDER_SECONDS)


def _is_of(shard: ExpertShard, placement: Placement) -> bool:
    """Whether the shard holds what the placement gives it."""
    return shard.held == {layer: placement.layer(layer).held_by(shard.index) for layer in shard.held}
