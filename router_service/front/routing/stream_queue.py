"""One stream's mailbox on one router's link."""

import asyncio
from dataclasses import dataclass

from router_service.protocol.messages import StreamOutput


class LinkLostError(ConnectionError):
    """The link to the router has ended; its streams may go on elsewhere."""


class OverflowedError(Exception):
    """The reader has fallen too far behind."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An output and when its frame came, in the event loop's seconds."""

    at: float
    output: StreamOutput


class StreamQueue:
    """Outputs of a stream that wait to be taken. Written and read on the event loop's thread."""

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
        """Whether more tokens came than the reader may leave waiting."""
        return self._tokens > self._limit

    def put(self, arrival: Arrival) -> None:
        """Add an output; over the limit, everything is dropped and the reader told (`overflowed`)."""
        output = arrival.output
        self._tokens += len(output.token_ids)
        if self.overflowed:
            self._waiting.clear()
            self.fail(OverflowedError())
            return
        self.ended = output.finish is not None or output.failure is not None
        self._waiting.append(arrival)
        self._ready.set()

    def fail(self, fault: Exception) -> None:
        """Raise `fault` to the reader once it has taken what is here."""
        if not self.ended and self._fault is None:
            self._fault = fault
            self._ready.set()

    async def take(self) -> list[Arrival]:
        """Return all outputs that wait, at least one.

        Raises:
            LinkLostError: the link has ended, and nothing is left.
            OverflowedError: the reader was too slow.
        """
        await self._ready.wait()
        if self._waiting:
            taken, self._waiting, self._tokens = self._waiting, [], 0
            if self._fault is None:
                self._ready.clear()
            return taken
        assert self._fault is not None
        raise self._fault
