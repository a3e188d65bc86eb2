"""How much may wait: requests, and the tokens that they hold. Plain data."""

from dataclasses import dataclass


class QueueFullError(RuntimeError):
    """The queue of waiting requests is full."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """At most `requests` may wait, with at most `tokens` tokens together; `tokens` 0 does not bound them."""

    requests: int
    tokens: int = 0

    def check(self, requests: int, tokens: int, added: int) -> None:
        """Check that one more request with `added` tokens may wait beside `requests` with `tokens` tokens.

        Where none waits, a request is never refused for its tokens: whether it fits at all is checked elsewhere.

        Raises:
            QueueFullError: naming the bound, and the setting that holds it.
        """
        if requests >= self.requests:
            raise QueueFullError(f"{requests} requests wait already, the limit is {self.requests} (router.max_waiting)")
        if self.tokens and requests and tokens + added > self.tokens:
            raise QueueFullError(
                f"the waiting requests hold {tokens} tokens and this one {added}, the limit for both is {self.tokens} "
                "(router.max_waiting_tokens)"
            )
