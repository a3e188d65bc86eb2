"""Which requests have waited too long, or can no longer be answered in time."""

from collections.abc import Iterator

from router_service.engine.failures import failed, overdue
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.scheduling.deadlines import PrefillSpeed, hopeless
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import Sequence


class Expiry:
    """Finds the requests to give up."""

    def __init__(self, requests: RequestTable, scheduler: Scheduler) -> None:
        self._requests = requests
        self._scheduler = scheduler
        self._speed = PrefillSpeed()

    def note(self, prompt_tokens: int, seconds: float) -> None:
        """Note what a step computed of prompts, and how long it took."""
        self._speed.note(prompt_tokens, seconds)

    def expired(self, now: float, unavailable_wait_s: float) -> Iterator[tuple[Request, Event]]:
        """Yield the requests to give up at `now`, with their last events.

        Args:
            unavailable_wait_s: how long a stalled one may wait for its shard.
        """
        for request in self._requests.alive():
            if (event := overdue(request, now, unavailable_wait_s)) is not None:
                yield request, event
        for sequence in list(self._hopeless(now)):
            request = self._requests[sequence.key]
            if not request.ended:
                text = "the deadline would pass before the prompt is read, even if it ran at once"
                yield request, failed(request, "DEADLINE_EXCEEDED", text)

    def _hopeless(self, now: float) -> Iterator[Sequence]:
        """The waiting sequences that cannot make it. The cache is asked only for those that need it to be in time."""
        waiting = [sequence for sequence in self._scheduler.queue if self._deadline(sequence) is not None]
        late = list(hopeless(waiting, now, self._deadline, self._speed))
        return hopeless(late, now, self._deadline, self._speed, self._cached)

    def _deadline(self, sequence: Sequence) -> float | None:
        return self._requests[sequence.key].deadline

    def _cached(self, sequence: Sequence) -> int:
        return self._scheduler.blocks.find(sequence) * self._scheduler.blocks.block_size
