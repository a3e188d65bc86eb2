"""Times on a machine that is shared: measured again until nothing else is in them.

What else the machine does only adds to a time, so the least of many is what the cause alone takes; and of many errors
the smallest belongs to the least disturbed measurement. Both only improve with each round, while what is told wrongly
stays wrong however often it is measured.
"""

import time
from collections.abc import Callable

import pytest

ROUNDS = 30
# A machine that is never quiet needs more rounds than that: it is given time for them.
LIMIT_S = 90.0


def undisturbed(measure: Callable[[], None], wrong: Callable[[], list[str]]) -> None:
    """Measure round after round until `wrong`, which looks at all that was measured, finds nothing."""
    begun, rounds, found = time.monotonic(), 0, [""]
    while found and (rounds < ROUNDS or time.monotonic() - begun < LIMIT_S):
        measure()
        found, rounds = wrong(), rounds + 1
    if found:
        pytest.fail(f"still so after {rounds} rounds: {'; '.join(found)}")


def tolerance(cause_ns: float) -> float:
    """5% of a cause or 50 microseconds, whichever is larger."""
    return max(0.05 * cause_ns, 50e3)


def off(what: str, measured_ns: float, known_ns: float, cause_ns: float) -> list[str]:
    """A complaint if a figure is further from the known one than the cause's tolerance; pytest -rP shows each."""
    figures = f"{measured_ns / 1e6:.3f} ms measured, {known_ns / 1e6:.3f} known, for a cause of {cause_ns / 1e6:.3f}"
    print(f"{what}: {figures}")
    return [] if abs(measured_ns - known_ns) <= tolerance(cause_ns) else [f"{what}: {figures}"]
