"""The observers that see each step of a router."""

from collections.abc import Callable, Mapping

from router_service.engine.guard import Guard
from router_service.engine.step.step_record import StepRecord
from router_service.router.proof import Proof

Observer = Callable[[StepRecord], None]


class StepObservers:
    """Passes a step's record to each of `observers`, guarded under its name; steps of the proof are left out."""

    def __init__(self, guard: Guard, proof: Proof, observers: Mapping[str, Observer]) -> None:
        self._guard = guard
        self._proof = proof
        self._observers = observers

    def observe(self, step: StepRecord) -> None:
        """Pass on the record of a completed step."""
        if self._proof.running:
            return
        for name, observe in self._observers.items():
            with self._guard(name):
                observe(step)
