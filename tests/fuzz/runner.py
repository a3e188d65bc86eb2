"""Runs targets: so many inputs each, every fault with the words that replay it, and a look at memory."""

import gc
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from tests.fuzz.mutate import mutated
from tests.fuzz.target import Target

MEBI = 1 << 20
# What may stay: caches that fill while the first inputs of a target are read are none of it.
MOST_GROWTH_BYTES = 24 * MEBI
# What one input may take for a while. A frame of a gigabyte that never comes must not be waited for in real pages.
MOST_PEAK_BYTES = 192 * MEBI
MOST_CPU_SECONDS = 5.0
WARM_SHARE = 0.2
LONG_RUN = 5000


@dataclass(frozen=True)
class Fault:
    """What an input did: `number` replays it, with the run's seed. Those of one `kind` are shown once."""

    target: str
    number: int
    data: bytes
    what: str
    kind: str = ""

    def __str__(self) -> str:
        shown = self.data[:64].hex(" ", 4) + (" ..." if len(self.data) > 64 else "")
        return f"{self.target}:{self.number}: {self.what}\n    {len(self.data)} bytes: {shown}"


@dataclass(frozen=True)
class Result:
    """A target's run: its inputs, the seconds they took, the bytes by which the process grew, and what went wrong."""

    target: str
    inputs: int
    seconds: float
    growth_bytes: int
    peak_bytes: int
    faults: tuple[Fault, ...]


def run(
    target: Target,
    seed: int,
    numbers: Sequence[int],
    most_faults: int = 5,
    meter: Callable[[], int] | None = None,
) -> Result:
    """Read the inputs of these numbers, until so many different faults are found.

    Args:
        meter: what is in memory, in bytes; what the process has, if not given.
    """
    started, faults, meter = time.monotonic(), dict[str, Fault](), meter or resident_bytes
    resident, at_rest, peak = meter(), 0, 0
    warm, done = numbers[int(len(numbers) * WARM_SHARE)] if numbers else 0, 0
    before = _most_resident()
    for number in numbers:
        if number == warm:
            resident = _at_rest(len(numbers), meter)
        done += 1
        if (fault := read(target, number, mutated(target, seed, number))) is not None:
            faults.setdefault(fault.kind, fault)
            if len(faults) >= most_faults:
                break
    at_rest, peak = _at_rest(len(numbers), meter) - resident, _most_resident() - before
    found = [*faults.values(), *_memory(target, done, at_rest, peak)]
    return Result(target.name, done, time.monotonic() - started, at_rest, peak, tuple(found))


def read(target: Target, number: int, data: bytes) -> Fault | None:
    """Read one input; return what went wrong."""
    started = time.thread_time()
    error = target.fault(data)
    spent = time.thread_time() - started
    if error is not None:
        return Fault(target.name, number, data, f"{type(error).__name__}: {error}"[:400], _kind(error))
    if spent > MOST_CPU_SECONDS:
        return Fault(target.name, number, data, f"took {spent:.1f} s of CPU time", "slow")
    return None


def shares(targets: Sequence[Target], inputs: int) -> Iterator[tuple[Target, int]]:
    """How many of `inputs` each target gets, by weight; they add up."""
    total, given, weights = sum(target.weight for target in targets), 0, 0
    for target in targets:
        weights += target.weight
        until = inputs * weights // total
        yield target, until - given
        given = until


def _memory(target: Target, inputs: int, growth: int, peak: int) -> Iterator[Fault]:
    if growth > MOST_GROWTH_BYTES:
        yield Fault(target.name, -1, b"", f"the process grew by {growth / MEBI:.0f} MiB in {inputs} inputs")
    if peak > MOST_PEAK_BYTES:
        yield Fault(target.name, -1, b"", f"the process took {peak / MEBI:.0f} MiB more at its worst")


def _kind(error: Exception) -> str:
    """Its type and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {place.filename}:{place.lineno}"


def _at_rest(inputs: int, meter: Callable[[], int]) -> int:
    """What is in memory; after a long run without garbage, which takes long to collect."""
    if inputs >= LONG_RUN:
        gc.collect()
    return meter()


def resident_bytes() -> int:
    """What the process has in memory now."""
    return int(psutil.Process().memory_info().rss)


def _most_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
