"""The queue of one stream's outputs on one router's link."""

import asyncio
from dataclasses import dataclass

from router_service.protocol.messages import StreamOutput


class LinkLostError(ConnectionError):
    """The link to the router has ended; its streams may continue on another."""


class LinkSilentError(LinkLostError):
    """The router says nothing any more, and another one is there for its streams."""


class NoRouterError(Exception):
    """The router has said nothing for so long that its streams are given up; there was no other one."""


class OverflowedError(Exception):
    """The reader has fallen too far behind, and its outputs were dropped."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An output and the time of its receipt, in the event loop's seconds."""

    at: float
    output: StreamOutput


class StreamQueue:
    """Outputs of a stream that wait for their reader. Used on the event loop's thread only."""

    def __init__(self, stream: int, max_buffered_tokens: int) -> None:
        self.stream = stream
        self.ended = False
        self._limit = max_buffered_tokens
        self._waiting: list[Arrival] = []
        self._tokens = 0
        self._fault: Exception | None = None
        self._ready = asyncio.Event()

    @property
    def overflowed(self) -> bool:
        """Whether more tokens wait than allowed."""
        return self._tokens > self._limit

    @property
    def fault(self) -> Exception | None:
        """What `fail` was told."""
        return self._fault

    def put(self, arrival: Arrival) -> None:
        """Add an output,. Over the limit, all outputs are dropped and the reader gets OverflowedError."""
        output = arrival.output
        self._tokens += len(output.token_ids)
        if self.overflowed:
            # A stream with a gap is worth nothing, so its tokens need not stay in memory either.
            self._waiting.clear()
            self.fail(OverflowedError())
            return
        self.ended = output.finish is not None or output.failure is not None
        self._waiting.append(arrival)
        self._ready.set()

    def fail(self, fault: Exception) -> None:
        """Let the reader raise `fault` once it has taken the outputs that wait."""
        # A stream that has ended does not need its link any more, so losing it is no failure.
        if not self.ended and self._fault is None:
            self._fault = fault
            self._ready.set()

    async def take(self) -> list[Arrival]:
        """Return all waiting outputs, at least one.

        Raises:
            LinkLostError: the link has ended, or is silent, and no output is left.
            NoRouterError: it is silent, and there was no other for too long.
            OverflowedError: the reader was too slow.
        """
        await self._ready.wait()
        if self._waiting:
            taken, self._waiting, self._tokens = self._waiting, [], 0
            # Stays set for a fault, so that the next call raises it.
            if self._fault is None:
                self._ready.clear()
            return taken
        assert self._fault is not None
        raise self._fault
