"""Which waiting calls are computed next, and which of them together: no threads, no clock.

One call leads: its layer is next, and every other waiting call for that layer goes with it, so that the layer's weights
are read once for all of them. (Only calls for replies of one form go together; a deployment's routers want the same.)
Routers walk through the layers at their own pace, so their calls seldom wait for one layer by chance. Therefore the
call leads that is the furthest behind the others on its way through the layers: who is ahead waits for a computation
that it would have waited for in another order too, the distance shrinks, and routers that have met stay together.
Without a difference the oldest call leads, and no call is overtaken more than a few times.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from threading import Event

from experts.transport.call import ExpertCall, Partial

# A router's incarnation, and a number that no two of its calls share.
CallKey = tuple[int, int]

# Then it leads. With one call per router, a call waits for no more than these and the ones before it.
MOST_OVERTAKEN = 4


@dataclass(eq=False, slots=True)
class WaitingCall:
    """A call, when its last byte was received, the connection it came on, and whether that has ended meanwhile.

    `key` names the call: its router and its number there. `cancelled`: its router wants no answer any more. `overtaken`
    counts the computations of younger calls since it came. `woken` is set when the call has its `outcome`, or when it
    `leads`: its thread is then to compute.
    """

    call: ExpertCall
    received_ns: int
    connection: Hashable
    gone: Callable[[], bool]
    key: CallKey | None = None
    cancelled: bool = False
    leads: bool = False
    overtaken: int = 0
    woken: Event = field(default_factory=Event)
    outcome: Partial | Exception | None = None


class WaitingCalls:
    """Calls in the order in which they came.

    Args:
        most_rows: rows of several calls that are computed together. It bounds the memory that merging adds; a call
            with more rows is computed by itself.
        layers: the model's MoE layers in order, through which a router's calls go round. Without them the oldest leads.
    """

    def __init__(self, most_rows: int, layers: Iterable[int] = ()) -> None:
        self._most_rows = most_rows
        self._places = {layer: place for place, layer in enumerate(layers)}
        self._calls: list[WaitingCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: WaitingCall) -> None:
        """Put a call behind all others."""
        self._calls.append(call)

    def find(self, key: CallKey) -> WaitingCall | None:
        """The call with this key, if it waits."""
        return next((one for one in self._calls if one.key == key), None)

    def remove(self, call: WaitingCall) -> None:
        """Remove a call that waits."""
        self._calls.remove(call)

    def of_router(self, router: int) -> int:
        """How many calls of a router wait."""
        return sum(one.key is not None and one.key[0] == router for one in self._calls)

    @property
    def leader(self) -> WaitingCall | None:
        """The call whose layer should be next."""
        firsts = self._firsts()
        if not firsts:
            return None
        late = [one for one in firsts if one.overtaken >= MOST_OVERTAKEN]
        return late[0] if late else max(firsts, key=self._lag)

    def _firsts(self) -> list[WaitingCall]:
        """Each connection's oldest call, the oldest of all first."""
        found: dict[Hashable, WaitingCall] = {}
        for one in self._calls:
            found.setdefault(one.connection, one)
        return list(found.values())

    def take(self, leader: WaitingCall) -> list[WaitingCall]:
        """Remove and return `leader`, a connection's oldest call, and those that are computed with it, in their order.

        It was `self.leader` once; others that have come meanwhile do not take its place.
        """
        taken, rows, passed = [leader], len(leader.call.x_RD), set[Hashable]()
        for one in self._calls:
            if one is leader:
                continue
            # A connection's replies must come in the order of its calls: none may overtake one that stays.
            alike = (one.call.layer, one.call.form) == (leader.call.layer, leader.call.form)
            if alike and one.connection not in passed:
                rows += len(one.call.x_RD)
                if rows <= self._most_rows:
                    taken.append(one)
                    continue
            passed.add(one.connection)
        return self._remove(leader, taken)

    def _remove(self, leader: WaitingCall, taken: list[WaitingCall]) -> list[WaitingCall]:
        before = self._calls.index(leader)
        for one in self._calls[:before]:
            one.overtaken += one not in taken
        in_order = [one for one in self._calls if one in taken]
        self._calls = [one for one in self._calls if one not in taken]
        return in_order

    def _lag(self, call: WaitingCall) -> int:
        """How many layers the waiting calls are ahead of this one in sum, each by the shorter way round."""
        return sum(self._ahead(call.call.layer, other.call.layer) for other in self._calls)

    def _ahead(self, layer: int, other: int) -> int:
        if layer not in self._places or other not in self._places:
            return 0
        count = len(self._places)
        distance = (self._places[other] - self._places[layer]) % count
        return distance if distance <= count // 2 else distance - count
