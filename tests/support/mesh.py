"""An engine and its shards in the process of the test: in memory, or as servers on unix sockets or TCP."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import pytest
import torch
from torch import Tensor

import router_service.engine.step.computation
from experts.config import Backend, ExpertsConfig
from experts.placement import even_placement
from experts.shard.local import LocalTransport
from experts.shard.server import ExpertServer
from experts.shard.shard import ExpertShard, load_shard
from experts.transport.address import Endpoint
from experts.transport.base import Transport
from experts.transport.control import Hello
from experts.transport.shared import SharedSizes
from experts.transport.socket import SocketTransport
from experts.transport.trust.credentials import Credentials
from experts.watch.connector import ShardConnector
from kernels import select
from router_service.config import EngineConfig
from router_service.engine.builder import build_engine
from router_service.engine.request import Event, Request
from router_service.engine.step.step_record import StepRecord
from router_service.models.families.registry import ModelPlan
from router_service.protocol.messages import SamplingParams
from tests.support.relay import Relay

SECRET = b"a secret of the tests"
DIGEST = bytes(range(32))
CREDENTIALS = Credentials(SECRET, DIGEST)
NODE = "node"
HELLO = Hello(router=7, epoch=0)
CPU = torch.device("cpu")
WAYS = ("local", "unix", "tcp")
WAIT_S = 60.0
# Enough for the calls of most tests; larger ones go by the socket.
SHARE = SharedSizes(1 << 20, 1 << 20)
# Of shards whose stamps are not this process's own.
Clocks = Mapping[int, Callable[[], int]]


def until(condition: Callable[[], bool], what: str, limit_s: float = WAIT_S) -> None:
    """Wait for `condition`; fail if it does not come true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {limit_s} s")
        time.sleep(0.002)


def load_shards(
    plan: ModelPlan,
    shards: int,
    dtype: torch.dtype = torch.float32,
    keep_packed: bool = False,
    backend: Backend = "auto",
    copies: int = 1,
) -> list[ExpertShard]:
    """Load all shards of an even placement."""
    placement, ops = even_placement(plan.spec.gate.experts, shards, copies), select.ops(backend, CPU)
    return [
        load_shard(
            index=index,
            placement=placement,
            checkpoint=plan.checkpoint,
            manifest=plan.tensors.experts,
            dtype=dtype,
            device=CPU,
            ops=ops,
            keep_packed=keep_packed,
        )
        for index in range(shards)
    ]


def greedy(max_tokens: int, **params: Any) -> SamplingParams:
    """Greedy decoding."""
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **params)


class ShardServers:
    """The shards of a model as servers that can be stopped and started again.

    Args:
        relayed: whether routers reach them by relays, which are in `relays`.
    """

    def __init__(
        self,
        shards: Sequence[ExpertShard],
        checksum: bool = False,
        slow_call_s: float = float("inf"),
        clocks: Clocks | None = None,
        relayed: bool = False,
    ) -> None:
        self.shards = list(shards)
        self.relayed = relayed
        self.relays: dict[int, Relay] = {}
        self.checksum = checksum
        self.slow_call_s = slow_call_s
        self.clocks = clocks or {}
        self.running: dict[int, ExpertServer] = {}

    def start(self, index: int, delay_s: float = 0.0) -> ExpertServer:
        """Start a new life of a shard."""
        server = ExpertServer(
            self.shards[index],
            credentials=CREDENTIALS,
            host="127.0.0.1",
            node=NODE,
            replica=f"r{index}",
            checksum=self.checksum,
            delay_s=delay_s,
            slow_call_s=self.slow_call_s,
            clock_ns=self.clocks.get(index, time.monotonic_ns),
        )
        if self.relayed:
            self.relays[index] = Relay(server.endpoint, NODE)
        self.running[index] = server
        return server

    def stop(self, index: int) -> None:
        """End a shard's life."""
        self.running.pop(index).close()
        if self.relayed:
            self.relays.pop(index).close()

    def endpoints(self) -> list[Endpoint]:
        """Where the living are."""
        running = list(self.running.items())
        return [self.relays[index].endpoint if self.relayed else server.endpoint for index, server in running]

    def close(self) -> None:
        """End all."""
        for index in list(self.running):
            self.stop(index)


class Mesh:
    """An engine over `shards` shards, reached by one of `WAYS`; a context manager. `records` has each step's record.

    `around` puts something between the engine and the transport.
    """

    def __init__(
        self,
        plan: ModelPlan,
        shards: int = 2,
        way: str = "local",
        dtype: torch.dtype = torch.float32,
        checksum: bool = False,
        call_timeout_s: float = WAIT_S,
        delays: dict[int, float] | None = None,
        keep_packed: bool = False,
        slow_call_s: float = float("inf"),
        clocks: Clocks | None = None,
        backend: Backend = "auto",
        exact_combine: bool = False,
        copies: int = 1,
        relayed: bool = False,
        around: Callable[[Transport], Any] = lambda transport: transport,
        **config: Any,
    ) -> None:
        self.records: list[StepRecord] = []
        loaded = load_shards(plan, shards, dtype, keep_packed, backend, copies)
        self.servers = ShardServers(loaded, checksum, slow_call_s, clocks, relayed)
        self.connector: ShardConnector | None = None
        experts = ExpertsConfig(
            shards=shards,
            copies=copies,
            call_timeout_seconds=call_timeout_s,
            checksum=checksum,
            exact_combine=exact_combine,
            backend=backend,
        )
        # Else how many threads or batches compute is measured, and what is drawn could follow the machine's load.
        fixed = {"threads": 1, "overlap": "off"}
        engine = EngineConfig(**{"max_sequences": 16, "kv_cache_tokens": 4096} | fixed | config)
        transport = around(self._transport(way, delays or {}, experts, engine.lanes))
        self.engine = build_engine(plan, transport, experts, engine, dtype, CPU, keep_packed)
        self.engine.observe = self.records.append
        self._keys = count(1)

    def _transport(self, way: str, delays: dict[int, float], experts: ExpertsConfig, lanes: int) -> Transport:
        if way == "local":
            return LocalTransport(dict(enumerate(self.servers.shards)))
        transport, shards = SocketTransport(lanes), len(self.servers.shards)
        for index in range(shards):
            self.servers.start(index, delays.get(index, 0.0))
        node = NODE if way == "unix" else "another node"
        self.connector = ShardConnector(
            transport,
            shards,
            self.servers.endpoints,
            credentials=CREDENTIALS,
            node=node,
            call_timeout_s=experts.call_timeout_seconds,
            checksum=experts.checksum,
            share=SHARE,
        )
        until(self.connector.connected, "all shards are connected")
        return transport

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.connector is not None:  # first, or it connects again what is closed
            self.connector.close()
        self.engine.pool.transport.close()
        self.servers.close()

    def submit(self, prompt: list[int], params: SamplingParams, **fields: Any) -> int:
        """Hand a request in; return its key."""
        key, now = next(self._keys), time.monotonic()
        request = Request(
            **{
                "key": key, "front": 0, "stream": key, "request_id": str(key), "params": params,
                "tokens": list(prompt), "prompt_length": len(prompt), "return_routing": False, "arrived": now,
            } | fields
        )  # fmt: skip
        assert self.engine.submit(request) == []
        return key

    def drain(self, limit_s: float = WAIT_S) -> dict[int, list[Event]]:
        """Step until no request is left; return the events of each."""
        events: dict[int, list[Event]] = {}
        deadline = time.monotonic() + limit_s
        while self.engine.requests:
            left = [request.key for request in self.engine.requests]
            assert time.monotonic() < deadline, f"requests are left: {left}"
            for event in self.engine.step():
                events.setdefault(event.key, []).append(event)
            if not self.engine.progressed:
                time.sleep(0.002)
        return events

    def generate(self, prompts: Iterable[list[int]], params: SamplingParams, **fields: Any) -> list[list[Event]]:
        """Run all prompts together; the events of each, in order."""
        keys = [self.submit(prompt, params, **fields) for prompt in prompts]
        events = self.drain()
        return [events[key] for key in keys]

    @property
    def blocks_used(self) -> int:
        """KV blocks that belong to someone."""
        return self.engine.scheduler.blocks.used


def tokens_of(events: list[Event]) -> list[int]:
    """The tokens of a request that must have finished."""
    assert [event.failure for event in events if event.failure] == []
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish is not None
    return [event.token for event in events if event.token is not None]


@dataclass
class LogitsSpy:
    """Sees the logits of every step: `steps[n]` is [B, V], B in the order of admission."""

    steps: list[Tensor] = field(default_factory=list)

    @classmethod
    def on(cls, monkeypatch: pytest.MonkeyPatch) -> "LogitsSpy":
        """Watch the engine until the test ends."""
        spy, forward = cls(), router_service.engine.step.computation.forward

        def watched(*args: Any) -> Tensor | None:
            logits_BV = forward(*args)
            if logits_BV is not None:
                spy.steps.append(logits_BV.clone())
            return logits_BV

        monkeypatch.setattr(router_service.engine.step.computation, "forward", watched)
        return spy
