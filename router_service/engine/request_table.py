"""The requests of a router, in one table: found by key, or by the Front that asks and its stream's number."""

from collections.abc import Iterator
from itertools import count

from router_service.engine.request import OURSELVES, Request


class RequestTable:
    """Holds each request until its last event is published. Changed by the engine's thread alone.

    What the router asks of itself is no Front's stream, and nobody publishes its end: it goes when it ends.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, Request] = {}
        self._by_stream: dict[tuple[int, int], Request] = {}
        self._keys = count(1)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._by_key.values()))

    def __getitem__(self, key: int) -> Request:
        return self._by_key[key]

    @property
    def streams(self) -> int:
        """How many streams of Fronts have not had their last word yet. Any thread may ask."""
        return len(self._by_stream)

    def new_key(self) -> int:
        """A key that no request has had. Any thread may ask."""
        return next(self._keys)

    def get(self, key: int) -> Request | None:
        """The request of this key, unless it is over."""
        return self._by_key.get(key)

    def of_stream(self, front: int, stream: int) -> Request | None:
        """The request of a Front's stream, unless it is over."""
        return self._by_stream.get((front, stream))

    def of_front(self, front: int) -> list[Request]:
        """All requests of a Front."""
        return [request for request in self._by_stream.values() if request.front == front]

    def alive(self) -> list[Request]:
        """Those that have not ended."""
        return [request for request in self._by_key.values() if not request.ended]

    def add(self, request: Request) -> None:
        """Take a request in."""
        self._by_key[request.key] = request
        if request.front != OURSELVES:
            self._by_stream[request.front, request.stream] = request

    def end(self, request: Request) -> None:
        """The request's last event is made; whoever publishes that calls `forget`."""
        request.ended = True
        if request.front == OURSELVES:
            self.forget(request.key)

    def forget(self, key: int) -> Request | None:
        """Take a request out and return it; None if it is over already."""
        request = self._by_key.pop(key, None)
        if request is not None and self.of_stream(request.front, request.stream) is request:
            del self._by_stream[request.front, request.stream]
        return request
