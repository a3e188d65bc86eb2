"""The observers that see each step of a router."""

from collections.abc import Callable, Mapping

from router_service.engine.guard import Guard
from router_service.engine.step.step_record import StepRecord
from router_service.router.self_test import SelfTest

Observer = Callable[[StepRecord], None]


class StepObservers:
    """Passes a step's record to each of `observers`, guarded under its name; steps of the self-test are left out."""

    def __init__(self, guard: Guard, self_test: SelfTest, observers: Mapping[str, Observer]) -> None:
        self._guard = guard
        self._self_test = self_test
        self._observers = observers

    def observe(self, step: StepRecord) -> None:
        """Pass on the record of a completed step."""
        if self._self_test.running:
            return
        for name, observe in self._observers.items():
            with self._guard(name):
                observe(step)
