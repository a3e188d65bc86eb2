"""The limits of a router, and the error of a request that can never be served."""

from dataclasses import dataclass


class NeverFitsError(ValueError):
    """A request that would not fit even if all others had ended."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """`token_budget` tokens per step, `max_sequences` running, `max_waiting` queued, `context` tokens per sequence.

    The queued ones hold at most `max_waiting_tokens` tokens; 0 does not bound them.
    """

    token_budget: int
    max_sequences: int
    max_waiting: int
    context: int
    max_waiting_tokens: int = 0

    def __post_init__(self) -> None:
        if self.token_budget < self.max_sequences:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_sequences {self.max_sequences}: "
                "a step must have room for one token of each running sequence"
            )
