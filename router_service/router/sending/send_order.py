"""The order in which a Front's events are sent: small ones with their step, large ones in pieces between the steps."""

from collections import deque
from dataclasses import replace

from router_service.engine.request import Event

# What other streams may have to wait for: well below a millisecond of packing and of a fast network.
PIECE_BYTES = 256 << 10
# A packed `Logprob`. Prompt log-probabilities come from the engine in events that are small enough for a piece.
LOGPROB_BYTES = 32


class SendOrder:
    """Events of one Front that wait. A stream's events keep their order; streams take turns."""

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._waiting: dict[int, deque[Event]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def add(self, events: list[Event]) -> list[Event]:
        """Return those of a step's events that are sent at once; the others wait for their turn in `take`."""
        at_once, room = [], self._piece_bytes
        for event in events:
            pieces, size = split(event, self._piece_bytes), large_bytes(event)
            # Behind what its stream has waiting, even a small one waits.
            if event.stream in self._waiting or len(pieces) > 1 or size > room:
                self._waiting.setdefault(event.stream, deque()).extend(pieces)
            else:
                at_once.append(event)
                room -= size
        return at_once

    def take(self) -> list[Event]:
        """Return the next events, one of each stream in turn: as many as make one piece, but at least one."""
        taken: list[Event] = []
        room = self._piece_bytes
        while self._waiting:
            stream, queue = next(iter(self._waiting.items()))
            room -= large_bytes(queue[0])
            if taken and room < 0:
                break
            taken.append(queue.popleft())
            # Put behind the others.
            del self._waiting[stream]
            if queue:
                self._waiting[stream] = queue
        return taken

    def drop(self, stream: int) -> None:
        """Forget a stream that its Front has cancelled."""
        self._waiting.pop(stream, None)


def large_bytes(event: Event) -> int:
    """The packed size of what can make an event large; another payload for each position is to be counted here."""
    logprobs = sum(1 + len(entry.top) for entry in event.prompt_logprobs or ())
    return sum(rows.nbytes for rows in event.routing) + LOGPROB_BYTES * logprobs


def split(event: Event, most_bytes: int) -> list[Event]:
    """Split an event into events whose routing is one part each, of at most `most_bytes` or one position.

    The last one has the token and whatever else the event has.
    """
    if not event.routing:
        return [event]
    *before, last = [piece for rows in event.routing for piece in rows.pieces(most_bytes)]
    parts = [Event(event.key, event.front, event.stream, token=None, routing=(piece,)) for piece in before]
    return [*parts, replace(event, routing=(last,))]
