"""Refused calls: the error, the log line and the count."""

import logging
import math
import time
from collections.abc import Callable

import grpc

from router_service.front.auth.token_bucket import TokenBucket
from router_service.front.errors import RequestError

logger = logging.getLogger(__name__)

# Anyone who reaches the port can cause refusals, so the log takes only so many lines of them.
LINES_AT_ONCE = 20
LINES_PER_SECOND = 2.0
SHOWN_CHARACTERS = 200


class RefusedError(RequestError):
    """A call that its caller may not make (now). `reason` is the metric's label; `name` is the token's name."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str,
        name: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.reason = reason
        self.name = name
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata or HTTP headers: whole seconds until a retry makes sense."""
        if self.retry_after_s is None:
            return ()
        return (("retry-after", str(max(1, math.ceil(self.retry_after_s)))),)


class Refusals:
    """Counts every refusal by `count` and logs it at a limited rate."""

    def __init__(self, count: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.count = count
        self._clock = clock
        self._lines = TokenBucket.full(LINES_AT_ONCE, LINES_PER_SECOND, clock())
        self._suppressed = 0

    def note(self, error: RefusedError, peer: str, method: str) -> None:
        """Count and log a refusal. The token itself is not passed here, so it cannot be logged."""
        self.count(error.reason)
        if self._lines.take(self._clock()) > 0:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more before it were not logged)" if self._suppressed else ""
        self._suppressed = 0
        # The method is text of an unauthenticated caller: cut, and %r escapes line breaks.
        logger.warning(
            "refused %r from %s, reason %s, token %s: %s%s",
            method[:SHOWN_CHARACTERS],
            peer,
            error.reason,
            error.name or "unknown",
            error.message,
            more,
        )
