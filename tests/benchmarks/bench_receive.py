"""What it costs a router to collect the replies of many shards: the loop around the reading, without any shard.

    python -m tests.benchmarks.bench_receive --shards 64 --layers 58

Each shard is the other end of a socket pair in this process. "At once": all replies lie in the sockets when the router
begins to wait. "One by one": each comes only when the one before has been read, so the router waits anew for each.
"Reading" is the same replies read one connection after the other, without asking which is ready. "A poll set for each
reply" is how it would be if the outstanding connections were registered anew for each reply.
"""

import argparse
import select
import socket
import time
from collections.abc import Iterable
from statistics import median

import numpy as np
import torch

from cluster.table import duration, table
from experts.transport.base import Event, Reply, Sent
from experts.transport.call import ExpertCall, Partial, Stamps, pack_partial
from experts.transport.channel import Channel
from experts.transport.frame import Kind
from experts.transport.ready import Ready
from experts.transport.socket import Key, SocketTransport

HIDDEN = 64
WAIT_S = 60.0


class PollAnew(Ready[Key]):
    """Registers all connections for each look, and tells of one."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[Key, int] = {}

    def add(self, key: Key, descriptor: int) -> None:
        """Only keep it."""
        self.watched[key] = descriptor

    def remove(self, key: Key) -> None:
        """Forget it."""
        self.watched.pop(key, None)

    def wait(self, until_s: float) -> list[tuple[Key, int]]:
        """Ask with a set of its own."""
        poll, waiting = select.poll(), {descriptor: key for key, descriptor in self.watched.items()}
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(max(0.0, until_s - time.monotonic()) * 1e3)
        return [(waiting[events[0][0]], events[0][1])] if events else []


class Pairs:
    """A router's transport, and the shards' ends of its connections."""

    def __init__(self, shards: int, ready: Ready[Key]) -> None:
        self.transport = SocketTransport(ready=lambda: ready)
        self.routers, self.shards = dict[int, Channel](), dict[int, Channel]()
        for shard in range(shards):
            self.connect(shard)
        self.sequences = [0] * shards

    def connect(self, shard: int) -> None:
        """Connect a shard, maybe once more."""
        if shard in self.shards:
            self.shards[shard].close()
        self.routers[shard], self.shards[shard] = (Channel(sock, 1) for sock in socket.socketpair())
        self.transport.offer(shard, self.routers[shard])

    def asked(self, shards: Iterable[int]) -> dict[int, Sent]:
        """Send a call to each of `shards`, which read it; the calls by shard."""
        outstanding = {shard: self.transport.send(shard, _call(), 0) for shard in shards}
        for shard in outstanding:
            self.sequences[shard] = self.shards[shard].receive()[0].sequence
        return outstanding

    def reply(self, shard: int) -> None:
        """Send a shard's reply."""
        parts = pack_partial(Partial(torch.zeros(1, HIDDEN), Stamps(0, 0, 0)))
        self.shards[shard].send(Kind.PARTIALS, self.sequences[shard], parts)

    def at_once(self) -> float:
        """Seconds in which one layer's replies are taken that have all come."""
        outstanding = self.asked(self.shards)
        for shard in outstanding:
            self.reply(shard)
        begun = time.perf_counter()
        while outstanding:
            self._replied(outstanding)
        return time.perf_counter() - begun

    def one_by_one(self) -> float:
        """Seconds of one layer's waits when each reply comes after the one before has been read."""
        outstanding, taken = self.asked(self.shards), 0.0
        for shard in list(outstanding):
            self.reply(shard)
            begun = time.perf_counter()
            self._replied(outstanding)
            taken += time.perf_counter() - begun
        return taken

    def reading(self) -> float:
        """Seconds of reading one layer's replies, connection after connection."""
        for shard in self.asked(self.shards):
            self.reply(shard)
        begun = time.perf_counter()
        for router in self.routers.values():
            router.receive()
        return time.perf_counter() - begun

    def close(self) -> None:
        """End all connections."""
        self.transport.close()
        for peer in self.shards.values():
            peer.close()

    def receive(self, outstanding: dict[int, Sent]) -> Event:
        """What becomes of one of the calls, which is then no longer outstanding."""
        event = self.transport.receive(time.monotonic() + WAIT_S)
        while event is None:  # a link's state has changed
            event = self.transport.receive(time.monotonic() + WAIT_S)
        del outstanding[event.shard]
        return event

    def _replied(self, outstanding: dict[int, Sent]) -> None:
        event = self.receive(outstanding)
        assert isinstance(event, Reply), event


def _call() -> ExpertCall:
    one = np.zeros(1, np.int32)
    return ExpertCall(0, torch.zeros(1, HIDDEN), one, one, np.ones(1, np.float32))


def measure(shards: int, layers: int, repeats: int) -> list[float]:
    """Seconds of a step, medians: at once and one by one, as it is and with a set for each reply; reading."""
    ours, anew = Pairs(shards, Ready()), Pairs(shards, PollAnew())
    ways = (ours.at_once, anew.at_once, ours.one_by_one, anew.one_by_one, ours.reading)
    try:  # the ways take turns, so that other load disturbs all alike
        steps = [[sum(way() for _ in range(layers)) for way in ways] for _ in range(repeats + 1)]
    finally:
        ours.close()
        anew.close()
    return [median(taken) for taken in zip(*steps[1:], strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    found = [(shards, measure(shards, args.layers, args.repeats)) for shards in args.shards]
    head = ["shards", "at once", "a poll set for each reply", "one by one", "a poll set for each reply", "reading"]
    print(table(head, [[str(shards), *map(duration, seconds)] for shards, seconds in found]))


if __name__ == "__main__":
    main()
