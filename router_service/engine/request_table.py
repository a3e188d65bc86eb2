"""The requests of a router in one table, by key and by (Front, stream)."""

from collections.abc import Iterator
from itertools import count

from router_service.engine.request import OURSELVES, Request


class RequestTable:
    """Holds each request until its last event is published. Modified by the engine's thread only.

    The router's own requests belong to no Front, so nobody publishes their last event: they are removed when they end.
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
        """Streams of Fronts whose last event is not published yet. Any thread may read it."""
        return len(self._by_stream)

    def new_key(self) -> int:
        """Return a new key. Any thread may call it."""
        return next(self._keys)

    def get(self, key: int) -> Request | None:
        """The request of this key, None if it has been removed."""
        return self._by_key.get(key)

    def of_stream(self, front: int, stream: int) -> Request | None:
        """The request of a Front's stream, None if it has been removed."""
        return self._by_stream.get((front, stream))

    def of_front(self, front: int) -> list[Request]:
        """All requests of a Front."""
        return [request for request in self._by_stream.values() if request.front == front]

    def alive(self) -> list[Request]:
        """The requests that have not ended."""
        return [request for request in self._by_key.values() if not request.ended]

    def add(self, request: Request) -> None:
        """Add a request."""
        self._by_key[request.key] = request
        if request.front != OURSELVES:
            self._by_stream[request.front, request.stream] = request

    def end(self, request: Request) -> None:
        """Mark a request as ended: its last event is made, and its publisher calls `forget`."""
        request.ended = True
        if request.front == OURSELVES:
            self.forget(request.key)

    def forget(self, key: int) -> Request | None:
        """Remove and return a request; None if it has been removed already."""
        request = self._by_key.pop(key, None)
        if request is not None and self.of_stream(request.front, request.stream) is request:
            del self._by_stream[request.front, request.stream]
        return request
