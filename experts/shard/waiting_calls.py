"""Which waiting calls are computed next, and which of them together: no threads, no clock.

The oldest call decides the layer, so that no router and no layer waits for more than the calls before it. Every other
waiting call for that layer goes with it: the layer's weights are then read once for all of them.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Event

from experts.transport.call import ExpertCall, Partial


@dataclass(eq=False, slots=True)
class WaitingCall:
    """A call, when its last byte was received, the connection it came on, and whether that has ended meanwhile.

    `woken` is set when the call has its `outcome`, or when it `leads`: its thread is then to compute.
    """

    call: ExpertCall
    received_ns: int
    connection: Hashable
    gone: Callable[[], bool]
    leads: bool = False
    woken: Event = field(default_factory=Event)
    outcome: Partial | Exception | None = None


class WaitingCalls:
    """Calls in the order in which they came.

    Args:
        most_rows: rows of several calls that are computed together. It bounds the memory that merging adds; a call
            with more rows is computed by itself.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._calls: list[WaitingCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: WaitingCall) -> None:
        """Put a call behind all others."""
        self._calls.append(call)

    @property
    def oldest(self) -> WaitingCall | None:
        """The call that has waited longest, which is in the next `take`."""
        return self._calls[0] if self._calls else None

    def take(self) -> list[WaitingCall]:
        """Remove and return the oldest call and those that are computed with it, in their order; [] if none waits."""
        taken: list[WaitingCall] = []
        left: list[WaitingCall] = []
        rows, passed = 0, set[Hashable]()
        for one in self._calls:
            # A connection's replies must come in the order of its calls: none may overtake one that stays.
            if one.call.layer == self._calls[0].call.layer and one.connection not in passed:
                rows += len(one.call.x_RD)
                if not taken or rows <= self._most_rows:
                    taken.append(one)
                    continue
            left.append(one)
            passed.add(one.connection)
        self._calls = left
        return taken
