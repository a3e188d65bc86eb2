"""A shard as a Serve deployment."""

import logging
import time
from typing import Any

import torch

from cluster.config import ClusterConfig, config_from
from cluster.processes.map_follower import layout_of
from cluster.processes.node_peers import threads_of_shard
from cluster.processes.process import data_host, do_not_preempt, node_id, replica_id
from cluster.processes.registered_process import RegisteredProcess
from cluster.processes.service_registry import DrainOrder
from cluster.serve.deployments import ORDER_SECONDS, end, open_to_load
from cluster.serve.security import credentials_of
from experts.placement import Placement
from experts.shard.server import ExpertServer
from experts.shard.shard import load_shard
from kernels import select

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
        self._map.follow(self._adopt, self._process.threads)
        self._process.ready(server.endpoint)

    def _load(self, config: ClusterConfig, index: int, secret: bytes, digest: bytes) -> ExpertServer:
        model = open_to_load(config, "shard")
        layout = layout_of(config, model.plan.spec.gate.experts)
        self._map = self._process.map_follower(layout)
        placement = self._map.first(self._process.go_on)
        self._process.will_load(model.shard_bytes(len(placement.held_by(index))))
        shard = load_shard(
            index=index,
            placement=placement,
            checkpoint=model.plan.checkpoint,
            manifest=model.plan.tensors.experts,
            dtype=model.dtype,
            device=model.device,
            ops=select.ops(config.experts.backend, model.device),
            keep_packed=model.keep_packed,
            progress=self._process.progress,
        )
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
                threads=threads_of_shard(config, self._process.registry),
                slow_call_s=config.logging.slow_call_seconds,
                watch=self._process.threads,
            )

    def check_health(self) -> None:
        """Called by Serve once a second."""
        self._server.check_health(self._config.stuck_seconds)

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_server"):
            await end(self._process, self.check_health, self._config)
            self._server.close()

    def _adopt(self, placement: Placement) -> None:
        """Serve by a newer map, if it gives this shard what it holds: nothing is loaded while it serves."""
        shard = self._server.shard
        wanted = {layer: placement.layer(layer).held_by(shard.index) for layer in shard.held}
        if wanted == shard.held:
            shard.epoch = placement.epoch
        else:
            log.error("a newer map gives this shard other experts: it answers for those that it holds")

    def _drain(self, order: DrainOrder) -> None:
        """Serve on until no router is connected: routers need their shards as long as they have requests."""
        time.sleep(order.notice_s)
        self._server.wait_alone(order.grace_s + ORDER_SECONDS)
