"""Enforces the limits of each token."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from router_service.front.auth.refusals import RefusedError
from router_service.front.auth.token_bucket import TokenBucket
from router_service.front.auth.tokens import Caller


class CallerLimits:
    """Counts by the token's name, so that reloading the file changes the limits and keeps the counts."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._buckets: dict[str, TokenBucket] = {}

    def take_request(self, caller: Caller, now: float) -> None:
        """Count a request at `now` seconds. A whole minute's requests may come at once.

        Raises:
            RefusedError: the rate is exceeded; the error says when the next request is allowed.
        """
        rate = caller.requests_per_minute
        if rate is None:
            return
        bucket = self._buckets.setdefault(caller.name, TokenBucket.full(rate, rate / 60, now))
        # The file may have been reloaded with another limit since the last request.
        bucket.resize(rate, rate / 60, now)
        if (wait_s := bucket.take(now)) > 0:
            problem = f"requests_per_minute of token {caller.name}: {rate} are used up"
            raise _exhausted("rate", problem, caller, retry_after_s=wait_s)

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """Count a streamed response while it lasts.

        Raises:
            RefusedError: the token has as many open as it may have.
        """
        limit = caller.max_concurrent_streams
        if limit is not None and self._streams[caller.name] >= limit:
            problem = f"max_concurrent_streams of token {caller.name}: {limit} are open; wait until one has ended"
            raise _exhausted("streams", problem, caller)
        self._streams[caller.name] += 1
        try:
            yield
        finally:
            self._streams[caller.name] -= 1

    def open_streams(self, name: str) -> int:
        """Streams that the token `name` has open."""
        return self._streams[name]

    @staticmethod
    def check_size(caller: Caller, size: int) -> None:
        """Check a request's size in bytes.

        Raises:
            RefusedError: it is too large.
        """
        limit = caller.max_request_bytes
        if limit is not None and size > limit:
            problem = f"max_request_bytes of token {caller.name}: the request has {size} bytes, {limit} are allowed"
            raise _exhausted("size", problem, caller)


def _exhausted(reason: str, problem: str, caller: Caller, retry_after_s: float | None = None) -> RefusedError:
    return RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, problem, reason, caller.name, retry_after_s)
