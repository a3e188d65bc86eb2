"""Shards and routers as processes on unix sockets, without Ray."""

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from experts.timing.phase import Phase
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.channel import connect
from experts.transport.control import Hello
from experts.transport.socket import SocketTransport
from experts.transport.trust.credentials import Credentials
from router_service.config import EngineConfig
from tests.benchmarks.harness.exchange import NODE, PASSIVE
from tests.benchmarks.harness.shards import shard_server
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.traffic.stepped_engine import SOCKET_SECONDS, SteppedEngine


class ShardSide:
    """One shard of a checkpoint, as a server on sockets."""

    def __init__(self, directory: Path, index: int, shards: int, credentials: Credentials) -> None:
        self._server = shard_server(directory, index, shards, credentials, NODE)

    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._server.endpoint

    def processor_seconds(self) -> float:
        """Of the whole process so far."""
        return time.process_time()

    def computations(self) -> int:
        """How many there were so far; one may answer several routers' calls."""
        return self._server.queue.counts.computations


class ShardProcesses:
    """All shards of a checkpoint; a context manager."""

    def __init__(self, directory: Path, shards: int = 2) -> None:
        self.directory, self.shards = directory, shards
        self.credentials = Credentials(secrets.token_bytes(32), bytes(32))
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        try:
            for index in range(self.shards):
                args = (self.directory, index, self.shards, self.credentials)
                self._workers.append(Worker(ShardSide, *args, environment=PASSIVE))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.close()

    def endpoints(self) -> list[Endpoint]:
        """Where the shards listen, by index."""
        return [worker.call("endpoint") for worker in self._workers]

    def processor_seconds(self) -> float:
        """Of all shards so far."""
        return sum(worker.call("processor_seconds") for worker in self._workers)

    def computations(self) -> int:
        """Of all shards so far."""
        return sum(worker.call("computations") for worker in self._workers)


def connected(endpoints: Sequence[Endpoint], credentials: Credentials) -> SocketTransport:
    """A transport to the shards, with as many connections to each as a router has unless told otherwise."""
    transport, hello = SocketTransport(EngineConfig().lanes), Hello(new_incarnation(), 0)
    for index, endpoint in enumerate(endpoints):
        channels = [connect(endpoint, NODE, credentials, SOCKET_SECONDS, hello=hello) for _ in range(transport.lanes)]
        for channel in channels:
            channel.set_timeouts(SOCKET_SECONDS)
        transport.offer(index, *channels)
    return transport


class RouterSide:
    """An engine over shards that run elsewhere, to be one of several processes."""

    def __init__(
        self, directory: Path, endpoints: Sequence[Endpoint], credentials: Credentials, config: dict[str, Any]
    ) -> None:
        self._side = SteppedEngine(directory, connected(endpoints, credentials), len(endpoints), **config)
        self._left = 0

    def begin(self, prompts: list[Tokens], steps: int) -> None:
        """Take the prompts in, up to each one's first token; `steps` tokens are left for each."""
        # What is drawn before the last prompt's first token does not count.
        slack = len(prompts)
        self._side.until_first_tokens([self._side.submit(tokens, steps + slack) for tokens in prompts])
        self._left = steps

    def decode(self) -> tuple[int, float, int]:
        """Decode; return the tokens drawn, the seconds that shards computed for them, and the calls to shards."""
        self._side.records.clear()
        for _ in range(self._left):
            self._side.step()
        self._side.give_up()
        records = self._side.records
        calls = [call for record in records for trip in record.trace.trips for call in trip.calls]
        tokens = sum(record.decode_tokens for record in records)
        return tokens, sum(call.ns(Phase.COMPUTE) for call in calls) / 1e9, len(calls)


def at_once(workers: Sequence[Worker], method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of all workers at the same time."""
    with ThreadPoolExecutor(len(workers)) as pool:
        calls = [pool.submit(worker.call, method, *args) for worker, args in zip(workers, arguments, strict=True)]
        return [call.result() for call in calls]
