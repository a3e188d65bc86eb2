"""A router's network in virtual time: real links, open asks and patience; shards, wires and clocks that are simulated.

What happens next is the earliest event of a heap, so a run is decided by what is asked of it and by nothing else.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch

from experts.links.asks import OpenAsks
from experts.links.machine import LinkLimits
from experts.links.patience import PatienceClock
from experts.links.record import FailureRecord
from experts.links.state import LinkState
from experts.links.table import Links
from experts.transport.base import Event, Refusal, Reply, Sent, ShardUnavailable, Why
from experts.transport.call import ExpertCall, Partial, Stamps
from tests.unit.experts.merge_fakes import answer_of

WIRE_S, COMPUTE_S, DIAL_S, BEAT_S = 0.0002, 0.001, 0.1, 0.05
HUNG_S = 3.0


@dataclass
class SimulatedShard:
    """One shard: what it suffers from, and what it has been asked. `computed` has (sequence, experts, time)."""

    index: int
    held: frozenset[int]
    alive: bool = True
    paused: bool = False
    hung: bool = False
    deaf: bool = False  # nothing from the router arrives
    mute: bool = False  # nothing arrives at the router
    slow: float = 1.0
    busy: bool = False
    poisoned: bool = False
    garbles: bool = False
    life: int = 1
    progress: int = 0
    epoch: int = 0
    queue: deque[tuple[int, int, ExpertCall, float]] = field(default_factory=deque)
    running: bool = False
    cancelled: set[int] = field(default_factory=set)
    computed: list[tuple[int, tuple[int, ...], float]] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        """Whether a handshake would succeed."""
        return self.alive and not self.paused and not self.deaf and not self.mute

    @property
    def well(self) -> bool:
        """Whether it answers."""
        return self.reachable and not (self.hung or self.busy or self.poisoned or self.garbles) and self.slow == 1.0


@dataclass
class _Wire:
    """A connection to one life of a shard."""

    number: int
    life: int
    asks: OpenAsks[Sent] = field(default_factory=OpenAsks)


class SimulatedNetwork:
    """A `Transport` to simulated shards, which hold `held`. `now` is its time, by which the pool must go."""

    def __init__(self, held: list[frozenset[int]]) -> None:
        self.now = 100.0
        self.record = FailureRecord()
        self.links = Links(self.record)
        self.links.limits = LinkLimits(hung_s=HUNG_S)
        self.links.listen(self._changed)
        self.shards = [SimulatedShard(index, experts) for index, experts in enumerate(held)]
        self.asleep = False
        self.most_open = 0
        self._patience = PatienceClock(2 * BEAT_S)
        self._wires: dict[int, _Wire] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._sequence = count(1)
        self._news: deque[Event] = deque()
        self._stirred = False
        self._unread: list[Callable[[], None]] = []
        for shard in self.shards:
            self._dial(shard)
            self.after(BEAT_S * (shard.index + 1) / 10, lambda shard=shard: self._beat(shard))
        self.after(BEAT_S, self._tick)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), act))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._heap and self._heap[0][0] <= until:
            self._next()
        self.now = until

    def sleep(self, seconds: float) -> None:
        """The router is not scheduled for so long: what comes meanwhile waits unread."""
        self.asleep = True
        self.run(seconds)
        self.asleep = False
        unread, self._unread = self._unread, []
        for read in unread:
            read()
        self.links.tick(self._patience.advance(self.now))

    @property
    def awaited(self) -> int:
        """Calls that somebody waits for."""
        return sum(wire.asks.get(number) is not None for wire in self._wires.values() for number in wire.asks)

    # What the router calls: see `Transport`.

    def state(self, shard: int) -> LinkState:
        return self.links.state(shard)

    def available(self, shard: int) -> bool:
        return shard in self._wires and self.links.state(shard).usable

    def rank(self, shard: int) -> int:
        return self.links.rank(shard)

    def has_room(self, shard: int) -> bool:
        return shard not in self._wires or self._wires[shard].asks.has_room(self.now)

    def clock_error_s(self, shard: int) -> float:  # noqa: ARG002 (one clock)
        return 0.0

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        if not self.available(shard):
            raise ShardUnavailable(shard, "eof", "not connected")
        if not self.has_room(shard):
            raise ShardUnavailable(shard, "busy", "the window is full")
        wire, number, now_ns = self._wires[shard], next(self._sequence), int(self.now * 1e9)
        sent = Sent(shard, number, call.reply_rows, now_ns, 0, lane, call.form, call.x_RD.shape[1])
        wire.asks.add(number, sent, lane, shares=False)
        self.most_open = max(self.most_open, len(wire.asks))
        target, life = self.shards[shard], wire.life
        limit = self.now + call.left_us / 1e6 if call.left_us else float("inf")
        self._out(target, life, lambda: self._arrived(target, number, life, call, limit))
        return sent

    def receive(self, until_s: float) -> Event | None:
        while True:
            if self._news:
                return self._news.popleft()
            if self._stirred:
                self._stirred = False
                return None
            if not self._heap or self._heap[0][0] > until_s:
                self.now = max(self.now, until_s)
                return None
            self._next()

    def late(self, sent: Sent) -> None:
        wire = self._wires.get(sent.shard)
        if wire and (ask := wire.asks.get(sent.sequence)):
            ask.late = True
            self.links.late(sent.shard, wire.number, sent.sequence)

    def cancel(self, sent: Sent) -> None:
        wire = self._wires.get(sent.shard)
        if wire and (ask := wire.asks.get(sent.sequence)):
            if ask.late:
                self.links.settled(sent.shard, wire.number, sent.sequence)
            wire.asks.abandon(sent.sequence, self.now)
            target = self.shards[sent.shard]
            self._out(target, wire.life, lambda: target.cancelled.add(sent.sequence))

    def give_up(self, shard: int, reason: str) -> None:
        self._drop(shard, reason)

    def close(self) -> None:
        pass

    # What happens to shards.

    def kill(self, index: int) -> None:
        """The process ends, and so do its connections, if that can be seen."""
        shard = self.shards[index]
        shard.alive, shard.running = False, False
        shard.queue.clear()
        shard.life += 1
        if not shard.mute:
            wire = self._wires.get(index)
            self.after(WIRE_S, lambda: self._ended(index, wire))

    def restart(self, index: int) -> None:
        """A new process takes its place."""
        shard = self.shards[index]
        if not shard.alive:
            shard.alive, shard.paused, shard.hung, shard.epoch = True, False, False, 0

    def resume(self, index: int) -> None:
        """A process that was stopped, or hung, goes on."""
        shard = self.shards[index]
        shard.paused = shard.hung = False
        self._start(shard)

    def heal(self) -> None:
        """All is well from now on."""
        for shard in self.shards:
            shard.deaf = shard.mute = shard.busy = shard.poisoned = shard.garbles = False
            shard.slow = 1.0
            self.restart(shard.index)
            self.resume(shard.index)

    # Inside.

    def _next(self) -> None:
        at, _, act = heapq.heappop(self._heap)
        self.now = max(self.now, at)
        act()

    def _changed(self, shard: int) -> None:
        self._stirred = True
        if not self.links.state(shard).usable:
            self._drop(shard, self.links.reason(shard))

    def _out(self, shard: SimulatedShard, life: int, act: Callable[[], None]) -> None:
        def arrive() -> None:
            if shard.alive and shard.life == life and not shard.deaf:
                act()

        self.after(WIRE_S, arrive)

    def _back(self, shard: SimulatedShard, seconds: float, act: Callable[[], None]) -> None:
        life = shard.life

        def arrive() -> None:
            if shard.life != life or shard.mute:
                return
            if self.asleep:
                self._unread.append(act)
            else:
                act()

        self.after(seconds, arrive)

    def _arrived(self, shard: SimulatedShard, number: int, life: int, call: ExpertCall, limit: float) -> None:
        assert call.epoch >= shard.epoch, "epochs never decrease"
        shard.epoch = call.epoch
        shard.queue.append((number, life, call, limit))
        self._start(shard)

    def _start(self, shard: SimulatedShard) -> None:
        if shard.running or shard.paused or not shard.queue or not shard.alive:
            return
        number, life, call, limit = shard.queue.popleft()
        if number in shard.cancelled or self.now > limit:
            self._start(shard)
            return
        shard.running = True
        self.after(COMPUTE_S * shard.slow, lambda: self._computed(shard, number, life, call))

    def _computed(self, shard: SimulatedShard, number: int, life: int, call: ExpertCall) -> None:
        if shard.life != life or not shard.alive:
            return
        if shard.paused or shard.hung:
            self.after(COMPUTE_S * 10, lambda: self._computed(shard, number, life, call))
            return
        shard.running = False
        shard.progress += 1
        event = self._answer(shard, number, call)
        self._back(shard, WIRE_S, lambda: self._receive(shard.index, number, event))
        self._start(shard)

    def _answer(self, shard: SimulatedShard, number: int, call: ExpertCall) -> Event | None:
        """What the shard answers; None for noise."""
        experts = tuple(sorted(set(call.experts_A.tolist())))
        if shard.garbles:
            return None
        if shard.busy:
            return Refusal(shard.index, number, Why.BUSY, "busy", retry_s=0.02)
        if not shard.held.issuperset(experts):
            return Refusal(shard.index, number, Why.MISS, "not held")
        if shard.poisoned:
            return Refusal(shard.index, number, Why.ERROR, "it cannot be computed", permanent=True)
        shard.computed.append((number, experts, self.now))
        return Reply(shard.index, number, Partial(answer_of(call), Stamps(0, 0, 0), form=call.form), 0, 0)

    def _receive(self, index: int, number: int, event: Event | None) -> None:
        wire = self._wires.get(index)
        if wire is None:
            return
        if event is None:
            self._drop(index, "checksum")
            return
        late = (ask := wire.asks.get(number)) is not None and ask.late
        known = wire.asks.answered(number, ask.channel if ask else 0)
        if known is None:
            self.record.late_answers += 1
            return
        if late:
            self.links.settled(index, wire.number, number)
        self._news.append(event._replace(received_ns=int(self.now * 1e9)) if isinstance(event, Reply) else event)

    def _ended(self, index: int, wire: _Wire | None) -> None:
        if wire is not None and self._wires.get(index) is wire:
            if self.asleep:
                self._unread.append(lambda: self._ended(index, wire))
            else:
                self._drop(index, "eof")

    def _drop(self, index: int, reason: str) -> None:
        wire = self._wires.pop(index, None)
        if wire is None:
            return
        for number in wire.asks:
            if wire.asks.get(number) is not None:
                self._news.append(ShardUnavailable(index, reason, reason, number))
        self.links.ended(index, wire.number, reason)

    def _beat(self, shard: SimulatedShard) -> None:
        self.after(BEAT_S, lambda: self._beat(shard))
        wire = self._wires.get(shard.index)
        if wire is None or not shard.alive or shard.paused or shard.life != wire.life:
            return
        shard.progress += shard.running and not shard.hung
        busy, progress = shard.running or bool(shard.queue), shard.progress
        # Another connection than that of the answers, and another way through the network.
        number = wire.number
        self._back(shard, 3 * WIRE_S, lambda: self.links.beat(shard.index, number, busy, progress))

    def _tick(self) -> None:
        self.after(BEAT_S, self._tick)
        if not self.asleep:
            self.links.tick(self._patience.advance(self.now))
            for shard in self.shards:
                if not self.available(shard.index):
                    self.after(DIAL_S, lambda shard=shard: self._dial(shard))

    def _dial(self, shard: SimulatedShard) -> None:
        if shard.reachable and not self.available(shard.index):
            self._wires[shard.index] = _Wire(self.links.connected(shard.index), shard.life)


def computed_twice(network: SimulatedNetwork) -> dict[int, int]:
    """How often each call was computed; more than once is a fault of the simulation."""
    times: dict[int, int] = defaultdict(int)
    for shard in network.shards:
        for number, _, _ in shard.computed:
            times[number] += 1
    return times


class PureShard:
    """A shard in this process that computes as the simulated ones do."""

    def compute(self, call: ExpertCall) -> torch.Tensor:
        """As `merge_fakes.answer_of`."""
        return answer_of(call)
