"""The experts' side alone: shards on sockets behind relays, and a pool that asks them a known routing."""

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from experts.config import Backend
from experts.flights import Dispatched
from experts.placement import even_placement
from experts.pool import ExpertPool
from experts.routing import Routing
from experts.timing.phase import Phase
from experts.timing.phases import LayerTrip
from experts.transport.channel import connect
from experts.transport.clock import HALF_MINUTE_NS
from experts.transport.frame import Kind
from experts.transport.socket import SocketTransport
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.models.families.registry import ModelPlan
from tests.support.mesh import CPU, CREDENTIALS, HELLO, NODE, Clocks, ShardServers, load_shards
from tests.support.relay import Relay

WAIT_S = 30.0


@dataclass(frozen=True)
class Exchange:
    """One layer call: what was asked, what it cost."""

    handle: Dispatched
    trip: LayerTrip

    def ns(self, shard: int, phase: str) -> int:
        """A phase of one shard's call."""
        return next(call.ns(Phase(phase)) for call in self.trip.calls if call.shard == shard)

    def sequence(self, shard: int) -> int:
        """The number of the shard's question."""
        return next(sent.sequence for sent in self.handle.sent if sent.shard == shard)


class Rig:
    """Shards of layer 0 of `plan`; a context manager. `statistics` has seen each exchange as a step of its own."""

    def __init__(
        self,
        plan: ModelPlan,
        shards: int = 2,
        way: str = "unix",
        delays: dict[int, float] | None = None,
        clocks: Clocks | None = None,
        half_ns: int = HALF_MINUTE_NS,
        lanes: int = 1,
        exact: bool = False,
        backend: Backend = "auto",
    ) -> None:
        self.hidden = plan.spec.hidden
        self.node = NODE if way == "unix" else "another node"
        self.servers = ShardServers(load_shards(plan, shards, backend=backend), clocks=clocks)
        self.placement = even_placement(plan.spec.gate.experts, shards)
        self.transport = SocketTransport(lanes, half_ns)
        self.pool = ExpertPool(self.transport, self.placement, WAIT_S, exact)
        self.statistics = Statistics(lambda: self.placement, plan.spec.layers)
        self.relays: list[Relay] = []
        for index in range(shards):
            server = self.servers.start(index, (delays or {}).get(index, 0.0))
            self.relays.append(Relay(server.endpoint, self.node))
            self.connect(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()
        self.servers.close()
        for relay in self.relays:
            relay.close()

    def connect(self, shard: int) -> None:
        """Offer new connections to a shard, from its next call on."""
        channels = [
            connect(self.relays[shard].endpoint, self.node, CREDENTIALS, WAIT_S, hello=HELLO)
            for _ in range(self.transport.lanes)
        ]
        for channel in channels:
            channel.set_timeouts(WAIT_S)
        self.transport.offer(shard, *channels)

    def replace(self, shard: int) -> None:
        """End a shard's life, and connect to its next."""
        self.servers.stop(shard)
        self.relays[shard].close()
        self.relays[shard] = Relay(self.servers.start(shard).endpoint, self.node)
        self.connect(shard)

    def ask(self, ids_TK: list[list[int]]) -> Exchange:
        """One layer call, each expert weighted alike."""
        handle = self.send(ids_TK)
        return self.take(handle, ids_TK)

    def send(self, ids_TK: list[list[int]], lane: int = 0) -> Dispatched:
        """The call's first half."""
        return self.pool.dispatch(0, torch.randn(len(ids_TK), self.hidden), _routing(ids_TK), lane)

    def take(self, handle: Dispatched, ids_TK: list[list[int]]) -> Exchange:
        """The other half."""
        trip = self.pool.combine(handle, CPU).trip
        trace = StepTrace(trips=[trip], routings=[(0, _routing(ids_TK))])
        trace.stages_ns |= {Stage.PACK: trip.pack_ns, Stage.WAIT: trip.exposed_ns, Stage.REDUCE: trip.reduce_ns}
        duration = trip.pack_ns + trip.exposed_ns + trip.reduce_ns
        self.statistics.observe(StepRecord(duration, 0, len(ids_TK), trace))
        return Exchange(handle, trip)

    def status(self, shard: int) -> dict[str, Any]:
        """What a shard says of itself."""
        endpoint = self.servers.running[shard].endpoint
        with closing(connect(endpoint, self.node, CREDENTIALS, WAIT_S, hello=HELLO)) as channel:
            channel.send(Kind.STATUS, 0, [])
            status: dict[str, Any] = json.loads(bytes(channel.receive()[1]))
        return status


def _routing(ids_TK: list[list[int]]) -> Routing:
    ids = np.array(ids_TK)
    return Routing(ids, np.full(ids.shape, 1 / ids.shape[1], np.float32))
