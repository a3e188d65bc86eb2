"""Which waiting sequences can no longer meet their deadline. Plain data; times are passed in, in seconds."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from router_service.engine.scheduling.waiting_queue import Waiting

S = TypeVar("S", bound=Waiting)

REMEMBERED_STEPS = 64


class PrefillSpeed:
    """The best speed of the latest steps that computed prompts.

    The best and not the mean: a sequence is given up only if even that would be too slow. Nothing is known at first.
    """

    def __init__(self, remembered: int = REMEMBERED_STEPS) -> None:
        self._tokens_per_second: deque[float] = deque(maxlen=remembered)

    def note(self, tokens: int, seconds: float) -> None:
        """Note a step that computed `tokens` tokens, prompts among them."""
        if tokens > 0 and seconds > 0:
            self._tokens_per_second.append(tokens / seconds)

    def seconds_for(self, tokens: int) -> float:
        """Return the least time in which `tokens` tokens can be expected; 0 as long as nothing is known."""
        return tokens / max(self._tokens_per_second) if self._tokens_per_second else 0.0


def hopeless(
    waiting: Iterable[S],
    now: float,
    deadline_of: Callable[[S], float | None],
    speed: PrefillSpeed,
    cached_of: Callable[[S], int] = lambda _: 0,
) -> Iterator[S]:
    """Yield the sequences whose deadline is past, or comes before their first token even if they ran next, alone.

    Neither those ahead nor the answer's later tokens count, so a sequence that might still make it is never given up.

    Args:
        deadline_of: a sequence's deadline on the clock of `now`, None for none.
        cached_of: how many of its tokens the prefix cache may have.
    """
    for sequence in waiting:
        deadline = deadline_of(sequence)
        if deadline is None:
            continue
        needed = speed.seconds_for(max(1, sequence.pending - cached_of(sequence)))
        if now + needed > deadline:
            yield sequence
