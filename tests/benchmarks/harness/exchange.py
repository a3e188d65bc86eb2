"""One layer's exchange with all shards and nothing computed: our data plane, a bare socket, and Serve handles.

Each returns seconds, one per round. "Exchange" is: the layer's rows go out to all shards, their answers are all back.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experts.placement import even_placement
from experts.pool import ExpertPool
from experts.routing import Routing
from experts.shard.server import ExpertServer
from experts.timing.phases import LayerTrip
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.call import ExpertCall, Form, shared_sizes
from experts.transport.channel import connect
from experts.transport.control import Hello
from experts.transport.shared import SharedSizes
from experts.transport.socket import SocketTransport
from experts.transport.trust.credentials import Credentials
from tests.benchmarks.harness.worker import Worker

WARM_UP = 20
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
NODE = "benchmark"


@dataclass(frozen=True)
class Payload:
    """Bytes that each shard gets and gives in one exchange."""

    out: int
    back: int


class EchoShard:
    """Stands in for a shard that computes nothing: its answer is zeros of the right size."""

    def __init__(self, index: int, credentials: Credentials) -> None:
        torch.set_num_threads(1)
        self.index, self.epoch, self.held = index, 0, dict[int, object]()
        self.layers: dict[int, object] = {}
        self.weights_bytes, self.load_seconds = 0, 0.0
        self._answer_ND = torch.zeros(0, 0)
        self._server = ExpertServer(
            self,  # type: ignore[arg-type]
            credentials=credentials,
            host="127.0.0.1",
            node=NODE,
            replica="echo",
        )

    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._server.endpoint

    def check(self, call: ExpertCall) -> None:
        """Any call will do."""

    def compute(self, call: ExpertCall) -> torch.Tensor:
        """Return an answer of the right size, always from the same memory: not even zeros are computed."""
        rows, hidden = call.reply_rows, call.x_RD.shape[1]
        if len(self._answer_ND) < rows or self._answer_ND.shape[1] != hidden:
            self._answer_ND = torch.zeros(rows, hidden)
        return self._answer_ND[:rows]


def our_data_plane(shards: int, experts: int, top_k: int, hidden: int, tokens: int, rounds: int) -> list[float]:
    """`ExpertPool` as in service: grouping, frames on sockets, rows in shared memory, waiting and adding."""
    with ExitStack() as stack:
        credentials = Credentials(secrets.token_bytes(32), bytes(32))
        made = (Worker(EchoShard, index, credentials, environment=PASSIVE) for index in range(shards))
        workers = [stack.enter_context(worker) for worker in made]
        transport = connected(workers, credentials, shared_sizes(tokens, hidden, torch.bfloat16, top_k, Form.SUMS))
        stack.callback(transport.close)
        pool = ExpertPool(transport, even_placement(experts, shards), 30.0)
        return _time_pool(pool, experts, top_k, torch.randn(tokens, hidden).bfloat16(), rounds)


def connected(workers: Sequence[Worker], credentials: Credentials, share: SharedSizes | None = None) -> SocketTransport:
    """A transport to the shards in these processes; without `share` all goes by the sockets."""
    transport, hello = SocketTransport(), Hello(new_incarnation(), 0)
    for index, worker in enumerate(workers):
        channel = connect(worker.call("endpoint"), NODE, credentials, 10.0, share=share, hello=hello)
        channel.set_timeouts(30.0)
        transport.offer(index, channel)
    return transport


def _time_pool(pool: ExpertPool, experts: int, top_k: int, x_TD: torch.Tensor, rounds: int) -> list[float]:
    taken = [time_exchange(pool, experts, top_k, x_TD, number)[0] for number in range(WARM_UP + rounds)]
    return taken[WARM_UP:]


def time_exchange(pool: ExpertPool, experts: int, top_k: int, x_TD: torch.Tensor, seed: int) -> tuple[float, LayerTrip]:
    """Seconds of one exchange under a random routing, and its trip.

    Raises:
        RuntimeError: a shard failed.
    """
    scores_TE = np.random.default_rng(seed).random((len(x_TD), experts))
    ids_TK = np.argsort(scores_TE, axis=1)[:, :top_k].astype(np.int64)
    routing = Routing(ids_TK, np.full(ids_TK.shape, 1 / top_k, dtype=np.float32))
    begun = time.perf_counter()
    combined = pool.combine(pool.dispatch(0, x_TD, routing), x_TD.device)
    taken = time.perf_counter() - begun
    if combined.failures:
        raise RuntimeError(str(combined.failures[0]))
    return taken, combined.trip


class EchoSocket:
    """Answers every `payload.out` bytes with `payload.back` bytes, on the bare socket."""

    def __init__(self, sock: socket.socket, payload: Payload) -> None:
        self._sock, self._payload = sock, payload

    def echo(self, rounds: int) -> None:
        """Answer so many times."""
        question, answer = bytearray(self._payload.out), bytes(self._payload.back)
        for _ in range(rounds):
            read_all(self._sock, question)
            self._sock.sendall(answer)


def bare_sockets(shards: int, payload: Payload, rounds: int) -> list[float]:
    """Unix-socket ping-pong with as many processes: what the kernel alone costs."""
    pairs = [socket.socketpair() for _ in range(shards)]
    workers = [Worker(EchoSocket, theirs, payload) for _, theirs in pairs]
    try:
        for worker in workers:
            worker.begin("echo", WARM_UP + rounds)
        taken = [ping([ours for ours, _ in pairs], payload) for _ in range(WARM_UP + rounds)]
        return taken[WARM_UP:]
    finally:
        for worker in workers:
            worker.close()
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()


def ping(socks: Sequence[socket.socket], payload: Payload) -> float:
    """Seconds of one exchange with all of them."""
    question, answer = bytes(payload.out), bytearray(payload.back)
    begun = time.perf_counter()
    for sock in socks:
        sock.sendall(question)
    for sock in socks:
        read_all(sock, answer)
    return time.perf_counter() - begun


def read_all(sock: socket.socket, buffer: bytearray) -> None:
    """Fill the buffer."""
    view = memoryview(buffer)
    while len(view):
        if not (count := sock.recv_into(view)):
            raise ConnectionError("the peer has gone")
        view = view[count:]


class EchoReplica:
    """A shard as a Serve deployment called through its handle."""

    async def __call__(self, question: Any, back: int) -> Any:  # noqa: ARG002 (it is the size that costs)
        return np.zeros(back, dtype=np.uint8)


class CallingReplica:
    """A router that reaches its shards through Serve handles."""

    def __init__(self, *shards: Any) -> None:
        self._shards = shards

    async def exchange(self, out: int, back: int, rounds: int) -> list[float]:
        """Seconds of each round."""
        question, taken = np.zeros(out, dtype=np.uint8), []
        for _ in range(rounds):
            begun = time.perf_counter()
            await asyncio.gather(*(shard.remote(question, back) for shard in self._shards))
            taken.append(time.perf_counter() - begun)
        return taken


def serve_handles(shards: int, payloads: Sequence[Payload], rounds: int) -> list[list[float]]:
    """The same sizes between Serve replicas, on the Ray that this process has joined; a list for each payload."""
    from ray import serve

    options = {"ray_actor_options": {"num_cpus": 0}}
    echoes = [serve.deployment(EchoReplica, name=f"Echo-{index}", **options).bind() for index in range(shards)]
    app = serve.deployment(CallingReplica, **options).bind(*echoes)
    handle = serve.run(app, name="benchmark-exchange", route_prefix=None)
    try:
        return [
            handle.exchange.remote(p.out, p.back, WARM_UP + rounds).result(timeout_s=600)[WARM_UP:] for p in payloads
        ]
    finally:
        serve.delete("benchmark-exchange")
