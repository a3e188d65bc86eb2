"""The offset of another host's clock, estimated from the calls themselves (Mills 1991, the NTP estimate).

A call is sent at t0 and its last byte received by the shard at t1; the reply is sent at t2 and its last byte received
here at t3; t1 and t2 are readings of the shard's clock. If both directions took the same time, that clock is ahead by
((t1 - t0) + (t2 - t3)) / 2. They need not, but the error is at most half of the time in transit, so the fastest
exchange of the last minute gives the best estimate.
"""

from dataclasses import dataclass

from experts.transport.call import Stamps

HALF_MINUTE_NS = 30_000_000_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange's estimate: nanoseconds in transit, and by how many the shard's clock is ahead."""

    transit_ns: int
    ahead_ns: int


class ShardClock:
    """The estimate for one shard's clock: the fastest exchange of this half minute and of the one before.

    Older ones are dropped because clocks drift apart: `half_ns` is the half minute.
    """

    def __init__(self, half_ns: int = HALF_MINUTE_NS) -> None:
        self._half_ns = half_ns
        self._now: Exchange | None = None
        self._before: Exchange | None = None
        self._since_ns = 0

    @property
    def error_ns(self) -> int:
        """Bound on the error of a corrected stamp; 0 before the first exchange."""
        best = self._best()
        return best.transit_ns // 2 if best else 0

    def corrected(self, sent_ns: int, stamps: Stamps, received_ns: int) -> Stamps:
        """Return the shard's stamps on our clock, after learning from this exchange.

        No transit time is negative, so each exchange bounds the offset for itself.
        """
        self._learn(sent_ns, stamps, received_ns)
        best = self._best()
        ahead = best.ahead_ns if best else 0
        # Else a stale estimate could place the shard's stamps before the send or after the receipt.
        ahead = max(stamps.sent - received_ns, min(ahead, stamps.received - sent_ns))
        return Stamps(stamps.received - ahead, stamps.started - ahead, stamps.sent - ahead)

    def _learn(self, sent_ns: int, stamps: Stamps, received_ns: int) -> None:
        out, back = stamps.received - sent_ns, received_ns - stamps.sent
        exchange = Exchange(out + back, (out - back) // 2)
        if received_ns - self._since_ns > self._half_ns:
            self._before, self._now, self._since_ns = self._now, exchange, received_ns
        elif self._now is None or exchange.transit_ns < self._now.transit_ns:
            self._now = exchange

    def _best(self) -> Exchange | None:
        known = [exchange for exchange in (self._now, self._before) if exchange is not None]
        return min(known, key=lambda exchange: exchange.transit_ns, default=None)
