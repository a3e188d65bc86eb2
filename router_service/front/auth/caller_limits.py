"""How much each token's calls use of what it may use."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from router_service.front.auth.refusals import RefusedError
from router_service.front.auth.tokens import Caller


class CallerLimits:
    """Counts by the token's name, so that a file that is read again changes the limits and not the counts."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._levels: dict[str, tuple[float, float]] = {}

    def take_request(self, caller: Caller, now: float) -> None:
        """Count a request at `now` seconds. A minute's worth may come at once; it fills up evenly.

        Raises:
            RefusedError: the minute's requests are used up; it says when the next one is there.
        """
        rate = caller.requests_per_minute
        if rate is None:
            return
        level, since = self._levels.get(caller.name, (float(rate), now))
        level = min(float(rate), level + (now - since) * rate / 60)
        self._levels[caller.name] = (max(level - 1, 0.0) if level >= 1 else level, now)
        if level < 1:
            problem = f"requests_per_minute of token {caller.name}: {rate} are used up"
            raise _exhausted("rate", problem, caller, retry_after_s=(1 - level) * 60 / rate)

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """Count a streamed answer while it lasts.

        Raises:
            RefusedError: the token has as many as it may.
        """
        most = caller.max_concurrent_streams
        if most is not None and self._streams[caller.name] >= most:
            problem = f"max_concurrent_streams of token {caller.name}: {most} are open; wait until one has ended"
            raise _exhausted("streams", problem, caller)
        self._streams[caller.name] += 1
        try:
            yield
        finally:
            self._streams[caller.name] -= 1

    @staticmethod
    def check_size(caller: Caller, size: int) -> None:
        """Look at a request's size in bytes.

        Raises:
            RefusedError: it is too large.
        """
        most = caller.max_request_bytes
        if most is not None and size > most:
            problem = f"max_request_bytes of token {caller.name}: the request has {size} bytes, {most} are allowed"
            raise _exhausted("size", problem, caller)


def _exhausted(reason: str, problem: str, caller: Caller, retry_after_s: float | None = None) -> RefusedError:
    return RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, problem, reason, caller.name, retry_after_s)
