"""Whether a router can compute at all, or fails whatever it is given (an accelerator's error that stays, say)."""

from collections.abc import Iterable

from router_service.engine.request import OURSELVES, Event, Request
from router_service.protocol.messages import SamplingParams

# A router on which so many steps in a row completed for nobody is put to the proof.
DOUBTFUL_STEPS = 3
# Before every request of a Front, which have -100 to 100.
FIRST = -(1 << 20)


class Soundness:
    """Counts steps that raised for every request in them, and asks for a proof when there are several in a row.

    Those requests may themselves be to blame, and must not cost others their router. So one is added that any router
    can compute: `sound` turns False only when that one raises too, and True again when any step completes. Any thread
    may read `sound`.
    """

    def __init__(self) -> None:
        self.sound = True
        self._failing = 0
        self._proof: int | None = None

    def completed(self) -> None:
        """Note a step that completed for a request at least."""
        self.sound, self._failing = True, 0

    def failed(self) -> None:
        """Note a step that raised for each of its requests."""
        self._failing += 1

    @property
    def doubtful(self) -> bool:
        """Whether a proof is due."""
        return self.sound and self._failing >= DOUBTFUL_STEPS and self._proof is None

    def proof(self, key: int, now: float) -> Request:
        """Return the request that proves it, of this key."""
        self._proof = key
        return proof_request(key, now)

    def without_proof(self, events: Iterable[Event]) -> list[Event]:
        """Return the events without those of the proof, which nobody waits for, and note how it went."""
        kept = []
        for event in events:
            if event.key == self._proof:
                self._judge(event)
            else:
                kept.append(event)
        return kept

    def _judge(self, event: Event) -> None:
        self._proof = None
        if event.failure is not None and event.failure.code == "INTERNAL":
            self.sound = False


def proof_request(key: int, now: float) -> Request:
    """A request of the router's own, for one token, that any model can answer; it arrives at `now`."""
    return Request(
        key=key,
        front=OURSELVES,
        stream=0,
        request_id="proof",
        # Token 0 is in every vocabulary. End-of-sequence is ignored, so a token comes whatever the model draws.
        params=SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True),
        tokens=[0],
        prompt_length=1,
        return_routing=False,
        arrived=now,
        priority=FIRST,
    )
