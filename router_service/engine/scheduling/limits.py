"""The limits of a router, and the errors of requests that do not keep them."""

from dataclasses import dataclass


class NeverFitsError(ValueError):
    """A request that would not fit even if all others had ended."""


class QueueFullError(RuntimeError):
    """The queue of waiting requests is full."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """`token_budget` tokens per step, `max_sequences` running, `max_waiting` queued, `context` tokens per sequence."""

    token_budget: int
    max_sequences: int
    max_waiting: int
    context: int

    def __post_init__(self) -> None:
        if self.token_budget < self.max_sequences:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_sequences {self.max_sequences}: "
                "a step must have room for one token of each running sequence"
            )
