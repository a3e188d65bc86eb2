"""Why a call is not computed although it could be: nobody wants it any more, or too many others wait."""

from collections.abc import Hashable

# A router cancels what it has asked twice, once for each answer that came too late: few calls at a time.
MOST_REMEMBERED = 4096


class CallCancelledError(Exception):
    """The call's router has cancelled it, and expects no answer."""


class NoTimeLeftError(Exception):
    """The call's turn came after the time that it had left."""

    def __init__(self) -> None:
        super().__init__("no time left")


class ShardBusyError(Exception):
    """As many calls wait as may. `retry_us` is when to ask again, in microseconds from now."""

    def __init__(self, retry_us: int) -> None:
        super().__init__(f"too many calls wait, ask again in {retry_us} us")
        self.retry_us = retry_us


class Cancels:
    """The calls that were cancelled and do not wait here: one may have overtaken its call on another connection.

    Of the others, which have been answered, nothing will ever come: the oldest are forgotten.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._keys: dict[Hashable, None] = {}

    def add(self, key: Hashable) -> None:
        """Remember that the call is cancelled."""
        self._keys[key] = None
        if len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]

    def check(self, key: Hashable) -> None:
        """Forget about a call that has come.

        Raises:
            CallCancelledError: it is cancelled.
        """
        if key in self._keys:
            del self._keys[key]
            raise CallCancelledError
