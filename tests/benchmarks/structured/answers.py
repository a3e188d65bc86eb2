"""The engine with and without structured answers: whether all have their form, and how fast they come."""

import time
from dataclasses import dataclass
from statistics import median

from router_service.engine.request import Request
from router_service.protocol.messages import Structured
from tests.benchmarks.structured.cases import PERSON
from tests.support.random_schemas import random_regex, random_schema
from tests.support.structured import Answers, bundled_mesh, check_answer, schema

BATCH, STEPS = 16, 10
MAX_TOKENS = 400


@dataclass
class Validity:
    """How many answers had their form, were cut by their length, or had it not."""

    valid: int = 0
    cut: int = 0
    invalid: int = 0
    tokens: int = 0


def validity(schemas: int, regexes: int) -> Validity:
    """Answers at temperature 1.5 of the bundled model, judged by jsonschema and `re`."""
    asked = [schema(random_schema(seed)) for seed in range(schemas)]
    asked += [Structured("regex", random_regex(seed)) for seed in range(regexes)]
    found = Validity()
    with bundled_mesh(max_sequences=64, kv_cache_tokens=32768) as mesh:
        answers = Answers(mesh)
        for structured, events in zip(asked, answers.ask_all(asked, max_tokens=MAX_TOKENS), strict=True):
            found.tokens += len(events)
            if events[-1].finish == "length":
                found.cut += 1
                continue
            try:
                check_answer(structured, answers.text(events))
                found.valid += 1
            except ValueError as error:
                print(error)
                found.invalid += 1
    return found


@dataclass(frozen=True)
class Step:
    """Seconds of a step: by the clock, of the engine's thread on a processor, and of all threads on processors."""

    wall: float
    engine: float
    process: float


def speeds(structured: Structured | None = None, rounds: int = 60) -> list[tuple[Step, Step]]:
    """A decode step without and with masks, in turns of ten steps; two engines of the bundled model."""
    structured = structured or schema({"type": "array", "items": PERSON, "minItems": 50})
    with bundled_mesh(kv_cache_tokens=24576) as plain, bundled_mesh(kv_cache_tokens=24576) as masked:
        sides = [(Answers(plain), None), (Answers(masked), structured)]
        running = [_begin(answers, asked) for answers, asked in sides]
        pairs = []
        while len(pairs) < rounds and not any(request.ended for requests in running for request in requests):
            pairs.append((_steps(sides[0][0]), _steps(sides[1][0])))
        return pairs


def ratio(pairs: list[tuple[Step, Step]], clock: str = "wall") -> float:
    """Tokens/s with masks / without, by one of a step's clocks: the median over neighbours."""
    return median(getattr(plain, clock) / getattr(masked, clock) for plain, masked in pairs)


def _begin(answers: Answers, structured: Structured | None) -> list[Request]:
    # Neither ends before the other: the schema has no end in reach, and the plain ones ignore theirs.
    ignore_eos = structured is None
    keys = [
        answers.submit(structured, seed=seed, max_tokens=900, temperature=1.0, ignore_eos=ignore_eos)
        for seed in range(BATCH)
    ]
    requests = [answers.request(key) for key in keys]
    while any(request.generated < 2 for request in requests):
        answers.mesh.engine.step()
    return requests


def _steps(answers: Answers) -> Step:
    answers.mesh.engine.step()  # what the other side has left in the caches
    begun = _now()
    for _ in range(STEPS):
        answers.mesh.engine.step()
    return Step(*((end - start) / STEPS for start, end in zip(begun, _now(), strict=True)))


def _now() -> tuple[float, float, float]:
    return time.perf_counter(), time.thread_time(), time.process_time()
