"""What becomes of a token one of whose chosen experts has no living copy."""

from enum import StrEnum


class Fallback(StrEnum):
    """A request's policy; the value is its name in configuration, metrics and messages between Front and router.

    WAIT stalls the request until a copy is back. DROP computes with the experts that are left, whose weights are
    scaled to the sum that all would have had. NEXT_BEST takes the gate's next best living experts instead. FAIL ends
    the request. Tokens that depend on what DROP or NEXT_BEST computed are marked as degraded.
    """

    WAIT = "wait"
    DROP = "drop"
    NEXT_BEST = "next_best"
    FAIL = "fail"

    @property
    def goes_on(self) -> bool:
        """Whether the token is computed all the same."""
        return self in (Fallback.DROP, Fallback.NEXT_BEST)
